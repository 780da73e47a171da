//! What the control plane keeps: models, trust documents, releases, assignments, retraining runs.
//!
//! Invariant: one method is one transaction; a model version's bytes never change once it is registered; an assignment that ended never
//! goes back to running. Not here: SQL (`db::sqlite`), what follows from the rows (`rollout::plan`, `datasets`).

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Serialize;
use wayside_common::{
    fleet::{Generation, Intent, ModelRef, Stage, TargetRef, UpdateReport},
    id::{DeviceId, Digest, ModelName, SlotName},
    time::Wall,
    trust::role::IndexRef,
};

/// A package that the registry knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelVersion {
    pub model: ModelRef,
    pub length: u64,
    pub index: IndexRef,
    pub state: ModelState,
    /// Where it came from, one JSON object ("source", "run", "base", "samples").
    pub lineage: serde_json::Value,
    pub created: Wall,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// Registered; no targets signature names it.
    Candidate,
    /// Devices came with it.
    Shipped,
    /// Trusted targets name it.
    Released,
}

impl ModelState {
    pub const ALL: [Self; 3] = [Self::Candidate, Self::Shipped, Self::Released];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Shipped => "shipped",
            Self::Released => "released",
        }
    }
}

/// What came of registering a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    New,
    /// The same bytes under the same name, as before.
    Known,
    /// The name and version belong to these other bytes.
    Conflict(Digest),
}

/// A signed document as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDocument {
    /// "root" or "targets".
    pub role: String,
    pub version: u64,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ReleaseId(pub i64);

/// One model version meant for one slot of every device that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub id: ReleaseId,
    pub model: ModelRef,
    pub slot: SlotName,
    pub target: TargetRef,
    pub intent: Intent,
    pub created: Wall,
}

/// A release as it is asked for; the store gives the id.
#[derive(Clone, Debug)]
pub struct NewRelease {
    pub model: ModelRef,
    pub slot: SlotName,
    pub target: TargetRef,
    pub intent: Intent,
    pub created: Wall,
}

/// One signed `Desired` for one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub device: DeviceId,
    pub generation: Generation,
    pub expires: Wall,
    /// The signed document.
    pub desired: Vec<u8>,
    pub slots: BTreeMap<SlotName, AssignedSlot>,
}

/// One slot of an assignment, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedSlot {
    pub release: ReleaseId,
    pub state: AssignmentState,
    pub stage: Option<Stage>,
    pub reason: Option<String>,
    pub updated: Wall,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AssignmentState {
    /// Sent; the device has not reported on it.
    Assigned,
    InProgress,
    Active,
    Refused,
    /// A later generation took its place before it ended.
    Superseded,
}

impl AssignmentState {
    pub const ALL: [Self; 5] = [Self::Assigned, Self::InProgress, Self::Active, Self::Refused, Self::Superseded];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::InProgress => "in_progress",
            Self::Active => "active",
            Self::Refused => "refused",
            Self::Superseded => "superseded",
        }
    }

    /// Nothing more is expected of the device.
    pub fn ended(self) -> bool {
        matches!(self, Self::Active | Self::Refused | Self::Superseded)
    }
}

/// One row of a release's view: a device and what it did with the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOutcome {
    pub release: ReleaseId,
    pub device: DeviceId,
    pub generation: Generation,
    pub slot: AssignedSlot,
}

/// Everything `rollout::plan` needs to know of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolloutView {
    /// The newest release of each slot of the fleet.
    pub newest: Vec<Release>,
    /// The assignment with the highest generation.
    pub last: Option<Assignment>,
    /// Releases that ended as refused on this device.
    pub refused: Vec<ReleaseId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RunId(pub i64);

/// One run of a retraining job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrainRun {
    pub id: RunId,
    pub job: String,
    pub state: RunState,
    pub exit_status: Option<i32>,
    /// Why it failed, or what to know about it.
    pub reason: Option<String>,
    pub samples: u64,
    pub started: Wall,
    pub ended: Option<Wall>,
    pub candidate: Option<ModelRef>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    Succeeded,
    Failed,
}

impl RunState {
    pub const ALL: [Self; 3] = [Self::Running, Self::Succeeded, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    pub state: RunState,
    pub exit_status: Option<i32>,
    pub reason: Option<String>,
    pub candidate: Option<ModelRef>,
    pub ended: Wall,
}

#[async_trait]
pub trait Registry: Send + Sync {
    async fn register_model(&self, version: ModelVersion) -> anyhow::Result<Registered>;
    async fn models(&self) -> anyhow::Result<Vec<ModelVersion>>;
    async fn model(&self, name: &ModelName, version: u32) -> anyhow::Result<Option<ModelVersion>>;
    async fn model_by_digest(&self, digest: Digest) -> anyhow::Result<Option<ModelVersion>>;

    /// Keeps a verified document; the same role and version again changes nothing.
    async fn keep_trust(&self, document: TrustDocument) -> anyhow::Result<()>;
    /// Ascending, versions above `after`.
    async fn trust_after(&self, role: &str, after: u64) -> anyhow::Result<Vec<TrustDocument>>;
    async fn newest_trust(&self, role: &str) -> anyhow::Result<Option<TrustDocument>>;

    /// Keeps the targets that name the model, marks the model as released, and adds the release.
    async fn add_release(&self, release: NewRelease, targets: TrustDocument) -> anyhow::Result<Release>;
    /// Newest first.
    async fn releases(&self) -> anyhow::Result<Vec<Release>>;
    async fn outcomes(&self) -> anyhow::Result<Vec<DeviceOutcome>>;

    async fn rollout_view(&self, device: &DeviceId) -> anyhow::Result<RolloutView>;
    /// Keeps a new assignment and ends the device's open ones as superseded. Refuses a generation that is not the highest.
    async fn assign(&self, assignment: Assignment) -> anyhow::Result<()>;
    /// What a device said of a generation. What names no known assignment changes nothing and gives `false`.
    async fn note_report(&self, device: &DeviceId, report: &UpdateReport, at: Wall) -> anyhow::Result<bool>;

    async fn start_run(&self, job: &str, at: Wall) -> anyhow::Result<RunId>;
    async fn note_run_samples(&self, run: RunId, samples: u64) -> anyhow::Result<()>;
    async fn end_run(&self, run: RunId, end: RunEnd) -> anyhow::Result<()>;
    /// Runs that were running when the server stopped have failed; gives how many.
    async fn fail_open_runs(&self, reason: &str, at: Wall) -> anyhow::Result<u64>;
    /// Newest first.
    async fn runs(&self) -> anyhow::Result<Vec<RetrainRun>>;
}

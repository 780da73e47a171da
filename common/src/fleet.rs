//! What the server wants of a device (`Desired`) and what the device says about itself (`Hello`, `UpdateReport`).
//!
//! Invariant: a `Desired` is obeyed only after its signature was verified (`trust`) and only when its generation is higher than
//! every one obeyed before. Not here: the update's states (agent `updater`).

use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    gap::Gap,
    id::{DeviceClass, DeviceId, Digest, Epoch, FleetId, ModelName, SlotName, StreamId},
    time::{ClockStamp, Wall},
};

/// A model version as people name it, and the bytes it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    pub name: ModelName,
    pub version: u32,
    /// Of the package's bytes.
    pub digest: Digest,
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", self.name, self.version)
    }
}

/// Raised by one with every `Desired` for a device; a lower one is never obeyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

/// A target in TUF metadata: path, length and hash pin the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRef {
    /// `{model}/{version}`, see [`target_path`].
    pub path: String,
    pub length: u64,
    pub sha256: Digest,
}

/// The path of a package in targets metadata.
pub fn target_path(name: &ModelName, version: u32) -> String {
    alloc::format!("{name}/{version}")
}

/// What a new model is for; how it is judged against the champion follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    Equivalent,
    Improve,
}

/// The signed wish of the server for one device: the `signed` part of a document under the `assign` role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    #[serde(rename = "_type")]
    pub kind: DesiredKind,
    pub fleet: FleetId,
    pub device: DeviceId,
    pub generation: Generation,
    /// No update starts at or after this time (RFC 3339).
    pub start_before: String,
    /// Nothing here holds at or after this time (RFC 3339).
    pub expires: String,
    pub intent: Intent,
    pub slots: BTreeMap<SlotName, TargetRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<TargetRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<TargetRef>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DesiredKind {
    #[serde(rename = "desired")]
    Desired,
}

/// Where an update is, or where it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum Stage {
    Idle,
    Verifying,
    Fetching,
    Staged,
    SelfTest,
    Shadow,
    Swap,
    Probation,
    Reverting,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Verifying => "Verifying",
            Self::Fetching => "Fetching",
            Self::Staged => "Staged",
            Self::SelfTest => "SelfTest",
            Self::Shadow => "Shadow",
            Self::Swap => "Swap",
            Self::Probation => "Probation",
            Self::Reverting => "Reverting",
        }
    }
}

/// What came of a generation on one device, or how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateReport {
    pub generation: Generation,
    pub slot: Option<SlotName>,
    /// `{model}/{version}` as the `Desired` named it.
    pub target: Option<String>,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The stage was entered.
    Progress(Stage),
    /// The new model runs.
    Active,
    /// Refused in this stage, for this reason; the old model goes on.
    Refused { stage: Stage, reason: String },
}

/// One model slot of a device as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    pub slot: SlotName,
    pub active: Option<ModelRef>,
}

/// What the device holds of one (epoch, stream).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamHold {
    pub epoch: Epoch,
    pub stream: StreamId,
    /// Lowest seq not yet acked.
    pub lowest_held: u64,
    /// One past the highest seq that is durable.
    pub next: u64,
    /// The epoch is over: `next` is final.
    pub closed: bool,
}

/// What a device says when it has connected, and again when any of it has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub epoch: Epoch,
    pub clock: ClockStamp,
    pub agent_version: String,
    pub class: DeviceClass,
    /// Highest wire version that the device reads.
    pub wire_version: u8,
    pub slots: Vec<SlotStatus>,
    pub streams: Vec<StreamHold>,
    /// Bytes of batches sent so far in this epoch.
    pub sent: u64,
    /// What of the ledger is not acked, and up to which version it goes.
    pub ledger: Vec<Gap>,
    pub ledger_version: u64,
    /// The version up to which the device takes the ledger for acked; 0 where it keeps nothing older than what it tells.
    pub ledger_base: u64,
    /// Highest ever obeyed.
    pub generation: Generation,
    /// Versions of the trusted root and targets documents.
    pub root_version: u64,
    pub targets_version: u64,
    /// Set once a store has failed on this device and was not repaired since.
    pub storage_fault: bool,
    /// Wall time at which the agent started.
    pub started: Wall,
}

//! The control plane in SQL: the tables, and which file does what with them.
//!
//! Invariant: a model version's row is inserted once and changes its state alone; `assignment` keeps every generation that was ever signed.
//! Not here: telemetry's tables, decisions (`rollout::plan`).

pub mod identity;
mod model;
mod release;
mod run;

use async_trait::async_trait;
use wayside_common::{
    fleet::UpdateReport,
    id::{DeviceId, Digest, ModelName},
    time::Wall,
};

use crate::db::{
    registry::{
        Assignment, DeviceOutcome, ModelVersion, NewRelease, Registered, Registry, Release, RetrainRun, RolloutView, RunEnd, RunId,
        TrustDocument,
    },
    sql::Engine,
};

pub const SCHEMA_2: &str = "
CREATE TABLE model_version (
    name TEXT NOT NULL, version INTEGER NOT NULL,
    digest BLOB NOT NULL UNIQUE, length INTEGER NOT NULL, index_digest BLOB NOT NULL, index_length INTEGER NOT NULL,
    state TEXT NOT NULL, lineage TEXT NOT NULL, created INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE trust_document (
    role TEXT NOT NULL, version INTEGER NOT NULL, bytes BLOB NOT NULL,
    PRIMARY KEY (role, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE release (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL, version INTEGER NOT NULL, slot TEXT NOT NULL, intent TEXT NOT NULL, created INTEGER NOT NULL,
    FOREIGN KEY (name, version) REFERENCES model_version (name, version)
) STRICT;
CREATE INDEX release_slot ON release (slot, id);

CREATE TABLE assignment (
    device TEXT NOT NULL, generation INTEGER NOT NULL, expires INTEGER NOT NULL, desired BLOB NOT NULL,
    PRIMARY KEY (device, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE assignment_slot (
    device TEXT NOT NULL, generation INTEGER NOT NULL, slot TEXT NOT NULL, release INTEGER NOT NULL REFERENCES release,
    state TEXT NOT NULL, stage TEXT, reason TEXT, updated INTEGER NOT NULL,
    PRIMARY KEY (device, generation, slot),
    FOREIGN KEY (device, generation) REFERENCES assignment (device, generation)
) STRICT, WITHOUT ROWID;
CREATE INDEX assignment_slot_release ON assignment_slot (release);

CREATE TABLE retrain_run (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL, state TEXT NOT NULL, exit_status INTEGER, reason TEXT, samples INTEGER NOT NULL DEFAULT 0,
    started INTEGER NOT NULL, ended INTEGER, candidate_name TEXT, candidate_version INTEGER, candidate_digest BLOB
) STRICT;
";

#[async_trait]
impl<E: Engine> Registry for E {
    async fn register_model(&self, version: ModelVersion) -> anyhow::Result<Registered> {
        self.write(move |tx| model::register(tx, &version)).await
    }

    async fn models(&self) -> anyhow::Result<Vec<ModelVersion>> {
        self.read(model::all).await
    }

    async fn model(&self, name: &ModelName, version: u32) -> anyhow::Result<Option<ModelVersion>> {
        let name = name.clone();
        self.read(move |tx| model::by_name(tx, &name, version)).await
    }

    async fn model_by_digest(&self, digest: Digest) -> anyhow::Result<Option<ModelVersion>> {
        self.read(move |tx| model::by_digest(tx, digest)).await
    }

    async fn keep_trust(&self, document: TrustDocument) -> anyhow::Result<()> {
        self.write(move |tx| model::keep_trust(tx, &document)).await
    }

    async fn trust_after(&self, role: &str, after: u64) -> anyhow::Result<Vec<TrustDocument>> {
        let role = role.to_owned();
        self.read(move |tx| model::trust_after(tx, &role, after)).await
    }

    async fn newest_trust(&self, role: &str) -> anyhow::Result<Option<TrustDocument>> {
        let role = role.to_owned();
        self.read(move |tx| model::newest_trust(tx, &role)).await
    }

    async fn add_release(&self, release: NewRelease, targets: TrustDocument) -> anyhow::Result<Release> {
        self.write(move |tx| {
            model::keep_trust(tx, &targets)?;
            release::add(tx, &release)
        })
        .await
    }

    async fn releases(&self) -> anyhow::Result<Vec<Release>> {
        self.read(release::all).await
    }

    async fn outcomes(&self) -> anyhow::Result<Vec<DeviceOutcome>> {
        self.read(release::outcomes).await
    }

    async fn rollout_view(&self, device: &DeviceId) -> anyhow::Result<RolloutView> {
        let device = device.clone();
        self.read(move |tx| release::view(tx, &device)).await
    }

    async fn assign(&self, assignment: Assignment) -> anyhow::Result<()> {
        self.write(move |tx| release::assign(tx, &assignment)).await
    }

    async fn note_report(&self, device: &DeviceId, report: &UpdateReport, at: Wall) -> anyhow::Result<bool> {
        let (device, report) = (device.clone(), report.clone());
        self.write(move |tx| release::note_report(tx, &device, &report, at)).await
    }

    async fn start_run(&self, job: &str, at: Wall) -> anyhow::Result<RunId> {
        let job = job.to_owned();
        self.write(move |tx| run::start(tx, &job, at)).await
    }

    async fn note_run_samples(&self, run: RunId, samples: u64) -> anyhow::Result<()> {
        self.write(move |tx| run::note_samples(tx, run, samples)).await
    }

    async fn end_run(&self, run: RunId, end: RunEnd) -> anyhow::Result<()> {
        self.write(move |tx| run::end(tx, run, &end)).await
    }

    async fn fail_open_runs(&self, reason: &str, at: Wall) -> anyhow::Result<u64> {
        let reason = reason.to_owned();
        self.write(move |tx| run::fail_open(tx, &reason, at)).await
    }

    async fn runs(&self) -> anyhow::Result<Vec<RetrainRun>> {
        self.read(run::all).await
    }
}

#[cfg(test)]
mod tests;

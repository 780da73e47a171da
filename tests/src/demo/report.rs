//! What a headless run writes: per device what was produced and where it is, releases, retraining, timeline.
//!
//! Invariant: every number was read through the server or follows from the scenario; nothing is filled in. Not here: the checks
//! (`identity`), reading (`readback`).

use serde::Serialize;

use super::{
    api::{Model, Release, Retraining},
    ranges::Ranges,
    timeline::Entry,
};

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub scenario: &'static str,
    pub seed: u64,
    /// "photos" or "scenes"; accuracy on drawn scenes says nothing about quality.
    pub pictures: &'static str,
    pub ok: bool,
    /// Why it is not ok.
    pub faults: Vec<String>,
    pub devices: Vec<Device>,
    pub releases: Vec<Release>,
    pub retraining: Vec<Retraining>,
    pub timeline: Vec<Entry>,
    /// With `--keep`: where the server listened, and what brings it back there.
    pub kept: Option<Kept>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Kept {
    pub api: String,
    pub token: String,
    pub data: String,
    /// Starts the server again on the same data and address.
    pub serve: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Device {
    pub id: &'static str,
    pub kind: &'static str,
    pub produced: u64,
    pub stored: u64,
    pub degraded: u64,
    /// Of the main stream, in which each position is one record.
    pub gaps: Vec<Gap>,
    pub duplicates: u64,
    pub redelivered: u64,
    /// Records refused for differing content, and stored ones whose values are not the source's.
    pub differing: u64,
    /// Stored values that were compared with the source's.
    pub compared: u64,
    pub predictions: u64,
    pub accuracy: Option<f64>,
    pub accuracy_n: Option<u64>,
    pub model: Option<Model>,
    pub storage_fault: bool,
    /// Which positions the numbers stand for.
    pub positions: Positions,
    /// Of the streams whose records are no positions of the source: predictions, sketches, samples, reports.
    pub gaps_elsewhere: Vec<Gap>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Positions {
    pub stored: Ranges,
    pub degraded: Ranges,
}

#[derive(Clone, Debug, Serialize)]
pub struct Gap {
    pub epoch: String,
    pub stream: String,
    pub from: Option<u64>,
    pub to: Option<u64>,
    /// Unix milliseconds.
    pub span: (i64, i64),
    /// Exact, or where `unknown`: positions due inside the span. Null where neither is known.
    pub count: Option<u64>,
    pub unknown: bool,
    pub reason: String,
}

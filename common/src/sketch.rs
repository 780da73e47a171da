//! Drift in counts: histograms on the device, distances on the server.
//!
//! Invariant: merging is exact addition. Not here: which windows are compared, and when an alarm is raised.

pub mod distance;
pub mod histogram;

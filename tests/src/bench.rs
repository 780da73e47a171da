//! `cargo bench-wayside`: what Wayside costs, each figure beside what others pay in the same run.
//!
//! Invariant: a figure is measured in the run that prints it, or is not printed; a missed budget is printed like a met one. Not here:
//! whether anything is right, which the tests say.

pub mod spool;

use serde::Serialize;

/// One line of the output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub suite: &'static str,
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// What it is compared with: another way to do it, or "budget".
    pub peer: &'static str,
    /// Value by that of the peer: below one is better than it, where less is better.
    pub ratio: f64,
    /// How many items were measured.
    pub n: u64,
}

//! What proves that the parts work together: the demo with its oracle, the simulated fleet, and what tests of several crates share.
//!
//! Invariant: nothing here is needed to run Wayside. Not here: tests of one crate, which stand beside its code.

pub mod bench;
pub mod demo;
pub mod simulator;

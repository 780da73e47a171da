//! What stands in for the world outside a device in tests that run in one process.
//!
//! Invariant: what happens follows from a seed and the test's own calls alone. Not here: the demo, whose devices are processes.

pub mod disk;

//! The updater: from a signed wish to a model that runs, or to a refusal that says why.
//!
//! Invariant: the old model runs until the new one has passed its self test on this device; every step is durable, with its report,
//! before the next begins. Not here: what trust is (`common::trust`), the processes (`supervisor`).

pub mod event;
pub mod fetch;
pub mod machine;
pub mod slots;
pub mod task;

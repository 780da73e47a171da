//! The program on the device: it senses, asks models, buffers, and sends when it can.
//!
//! Invariant: the core (this process) holds no engine and decodes no picture; every model runs in a worker process. Not here:
//! what both ends agree on (`wayside-common`) and what a model is (`wayside-models`).

pub mod agent;
pub mod cli;
pub mod clock;
pub mod config;
pub mod drift;
pub mod enroll;
pub mod epoch;
pub mod files;
pub mod fit;
pub mod infer;
pub mod judge;
pub mod keeper;
pub mod ledger;
pub mod link;
pub mod pipeline;
pub mod report;
pub mod sampling;
pub mod sense;
pub mod sensed;
pub mod source;
pub mod spool;
pub mod state;
pub mod store;
pub mod supervisor;
pub mod updater;
pub mod uplink;
pub mod worker;

#[cfg(test)]
mod scratch;

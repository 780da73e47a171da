//! The sync server and the operator's command line.
//!
//! Invariant: only `main` wires tasks together; modules talk through the traits of `broker` and `db`. Not here: what runs on a device.

pub mod api;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod datasets;
pub mod db;
pub mod disk;
pub mod drift;
pub mod events;
pub mod ingest;
pub mod keys;
pub mod pipeline;
pub mod pki;
pub mod registry;
pub mod retention;
pub mod rollout;
pub mod server;
pub mod ui;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod scratch;

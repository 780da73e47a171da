//! The sync server and the operator's command line.
//!
//! Invariant: only `main` wires tasks together; modules talk through the traits of `broker` and `db`. Not here: what runs on a device.

pub mod broker;

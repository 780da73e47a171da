//! The queries, written once for every engine: the tables, and which file does what with them.
//!
//! Invariant: entries of [`SCHEMA`] are never changed once released. Not here: threads, connections, dialects (`sqlite`, `postgres`).

mod copy;
mod registry;
mod telemetry;

pub use copy::{Copied, copy};
pub use telemetry::incarnation;

/// What each schema version adds, as SQLite has it; the store says how many have run.
pub const SCHEMA: &[&str] = &[
    telemetry::SCHEMA_1,
    registry::SCHEMA_2,
    telemetry::SCHEMA_3,
    telemetry::SCHEMA_4,
    telemetry::SCHEMA_5,
    registry::identity::SCHEMA_6,
    telemetry::SCHEMA_7,
];

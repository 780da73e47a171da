//! What the server remembers: two traits in domain types, so that another database is another implementation.
//!
//! Invariant: one method is one transaction, and what a method answered is durable. No type of a database engine is in a
//! signature. Not here: SQL (`sqlite/*`), decisions about what is stored.

pub mod registry;
pub mod sqlite;
pub mod telemetry;

use registry::Registry;
use telemetry::Telemetry;

/// The whole store of a server.
pub trait Db: Telemetry + Registry {}
impl<T: Telemetry + Registry> Db for T {}

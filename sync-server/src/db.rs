//! What the server remembers: three traits in domain types, so that another database is another implementation.
//!
//! Invariant: one method is one transaction, and what a method answered is durable. No type of a database engine is in a
//! signature. Not here: SQL (`sqlite/*`), decisions about what is stored.

pub mod identity;
pub mod registry;
pub mod sqlite;
pub mod telemetry;

use identity::Identity;
use registry::Registry;
use telemetry::Telemetry;

/// The whole store of a server.
pub trait Db: Telemetry + Registry + Identity {}
impl<T: Telemetry + Registry + Identity> Db for T {}

//! What the server remembers: three traits in domain types, so that another database is another implementation.
//!
//! Invariant: one method is one transaction, and what a method answered is durable. No type of a database engine is in a
//! signature. Not here: SQL (`store/*`), decisions about what is stored.

pub mod identity;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod registry;
pub mod sql;
pub mod sqlite;
pub mod store;
pub mod telemetry;

use std::{path::Path, sync::Arc};

use identity::Identity;
use registry::Registry;
use telemetry::Telemetry;

/// Opens the store at a `postgres://` address; without one, the file in the server's folder.
pub async fn open(url: Option<&str>, data_dir: &Path) -> anyhow::Result<Arc<dyn Db>> {
    match url {
        None => Ok(Arc::new(sqlite::Sqlite::open(&data_dir.join("wayside.db"))?)),
        #[cfg(feature = "postgres")]
        Some(url) => Ok(Arc::new(postgres::Postgres::open(url).await?)),
        #[cfg(not(feature = "postgres"))]
        Some(_) => anyhow::bail!("this build has no PostgreSQL: it was made without the feature postgres"),
    }
}

/// The whole store of a server.
pub trait Db: Telemetry + Registry + Identity {}
impl<T: Telemetry + Registry + Identity> Db for T {}

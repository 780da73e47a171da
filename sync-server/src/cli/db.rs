//! `wayside db copy`: from SQLite to PostgreSQL, or back.
//!
//! Invariant: it works on the stores themselves, with no server running on either. Not here: the copying (`db::store`).

use std::path::Path;

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use serde_json::json;

use crate::{
    cli::output::{Output, text},
    db::{
        postgres::Postgres,
        sql::Engine,
        sqlite::Sqlite,
        store::{Copied, copy},
    },
};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Copy a store into an empty one, with ids, watermarks and ledger; stop the server first
    Copy {
        /// sqlite:PATH or postgres://USER@HOST/DATABASE
        #[arg(long, value_name = "STORE")]
        from: String,
        /// The same; the schema is made, and nothing else may be there
        #[arg(long, value_name = "STORE")]
        to: String,
    },
}

impl Verb {
    pub fn run(self, output: Output) -> anyhow::Result<()> {
        let Self::Copy { from, to } = self;
        ensure!(from != to, "the two stores are the same");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let copied = runtime.block_on(from_any(&from, &to))?;
        let rows: Vec<serde_json::Value> = copied.iter().map(|Copied { table, rows }| json!({"table": table, "rows": rows})).collect();
        output.rows(&rows.into(), &[("table", |row| text(row, "/table")), ("rows", |row| text(row, "/rows"))])
    }
}

async fn from_any(from: &str, to: &str) -> anyhow::Result<Vec<Copied>> {
    match from.strip_prefix("sqlite:") {
        Some(path) => {
            ensure!(Path::new(path).is_file(), "there is no database {path}");
            // Locked for itself: a server that still runs on it is told at once.
            let source = Sqlite::open_inline(Path::new(path)).context("is a server still running on it?")?;
            to_any(&source, to).await
        }
        None if is_postgres(from) => to_any(&Postgres::open(from).await?, to).await,
        None => bail!("{from} is neither sqlite:PATH nor postgres://…"),
    }
}

async fn to_any<S: Engine>(source: &S, to: &str) -> anyhow::Result<Vec<Copied>> {
    match to.strip_prefix("sqlite:") {
        Some(path) => copy(source, &Sqlite::open_inline(Path::new(path))?).await,
        None if is_postgres(to) => copy(source, &Postgres::open(to).await?).await,
        None => bail!("{to} is neither sqlite:PATH nor postgres://…"),
    }
}

fn is_postgres(store: &str) -> bool {
    store.starts_with("postgres://") || store.starts_with("postgresql://")
}

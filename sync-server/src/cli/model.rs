//! `wayside model ls`: versions that the registry knows.
//!
//! Invariant: everything shown comes from the REST API. Not here: releasing (`release`).

use clap::Subcommand;
use wayside_common::time::Wall;

use super::{
    Context,
    output::{Column, text},
};

#[derive(Debug, Default, Subcommand)]
pub enum Verb {
    /// All versions of all models
    #[default]
    Ls,
}

const MODELS: &[Column] = &[
    ("name", |row| text(row, "/name")),
    ("version", |row| text(row, "/version")),
    ("state", |row| text(row, "/state")),
    ("from", |row| text(row, "/lineage/source")),
    ("bytes", |row| text(row, "/length")),
    ("created", |row| row["created"].as_i64().map_or("-".into(), |ms| Wall(ms).to_string())),
    ("digest", |row| text(row, "/digest").chars().take(16).collect()),
];

impl Verb {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        context.output.rows(&context.client.get("/v1/models")?, MODELS)
    }
}

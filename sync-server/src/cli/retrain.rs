//! `wayside retrain …`: start a job of the server's configuration, see its runs, and the Rust trainer that a job can name.
//!
//! Invariant: a command line names a job; the command itself stands in the server's configuration alone. Not here: running it (`pipeline`).

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Subcommand;
use serde_json::json;
use wayside_common::time::Wall;

use super::{
    Context,
    output::{Column, text},
    wait::{self, NotHealthy},
};
use crate::{
    config::{self, Span},
    pipeline::trainer,
};

#[derive(Debug, Default, Subcommand)]
pub enum Verb {
    /// All runs, newest first
    #[default]
    Ls,
    /// Start a job
    Trigger {
        /// As `[[job]] name` has it in the server's configuration
        #[arg(long)]
        job: String,
        /// Wait for the end; exit code 8 if it fails
        #[arg(long)]
        wait: bool,
        /// With --wait: exit code 124 after this time
        #[arg(long, default_value = "1h")]
        timeout: Span,
    },
    /// The log of a run
    Log {
        #[arg(long, value_name = "ID")]
        run: u64,
    },
    /// Fit the base's linear head anew; folders come from WAYSIDE_DATASET, WAYSIDE_BASE, WAYSIDE_OUTPUT and WAYSIDE_VERSION
    Head,
}

const RUNS: &[Column] = &[
    ("id", |row| text(row, "/id")),
    ("job", |row| text(row, "/job")),
    ("state", |row| text(row, "/state")),
    ("exit", |row| text(row, "/exit_status")),
    ("samples", |row| text(row, "/samples")),
    ("started", |row| row["started"].as_i64().map_or("-".into(), |ms| Wall(ms).to_string())),
    ("candidate", |row| match row["candidate"].is_object() {
        true => format!("{}/{}", text(row, "/candidate/name"), text(row, "/candidate/version")),
        false => "-".into(),
    }),
    ("reason", |row| text(row, "/reason")),
];

impl Verb {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Ls => context.output.rows(&context.client.get("/v1/retrain")?, RUNS),
            Self::Log { run } => {
                let log = context.client.get_bytes(&format!("/v1/retrain/{run}/log"))?;
                Ok(io::stdout().write_all(&log)?)
            }
            Self::Trigger { job, wait, timeout } => {
                let started = context.client.post("/v1/retrain", &json!({ "job": job }))?;
                let id = text(&started, "/id");
                eprintln!("run {id} of {job} has started");
                if wait {
                    wait_for(context, &id, timeout.0)
                } else {
                    context.output.row(&context.client.get(&format!("/v1/retrain/{id}"))?, RUNS)
                }
            }
            Self::Head => {
                let report = trainer::run(&config::trainer_folders()?)?;
                println!("{}", serde_json::to_string_pretty(&report)?);
                Ok(())
            }
        }
    }
}

fn wait_for(context: &Context, id: &str, timeout: Duration) -> anyhow::Result<()> {
    let run = wait::until(timeout, Duration::from_millis(300), || {
        let run = context.client.get(&format!("/v1/retrain/{id}"))?;
        Ok((text(&run, "/state") != "running").then_some(run))
    })?;
    context.output.row(&run, RUNS)?;
    match text(&run, "/state").as_str() {
        "succeeded" => Ok(()),
        _ => Err(NotHealthy(format!("run {id} failed: {}; see wayside retrain log --run {id}", text(&run, "/reason"))).into()),
    }
}

//! The program `wayside`: parse, run, exit code.
//!
//! Invariant: an error is printed once, with its causes, on stderr. Not here: everything else (`cli`).

use std::{io, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;
use wayside_sync_server::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("WAYSIDE_LOG").unwrap_or_else(|_| EnvFilter::new("info,rmqtt=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("wayside: {e:#}");
            ExitCode::from(cli::exit_code(&e))
        }
    }
}

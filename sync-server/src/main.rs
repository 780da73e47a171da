//! The program `wayside`: parse, run, exit code.
//!
//! Invariant: an error is printed once, with its causes, on stderr. Not here: everything else (`cli`).

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;
use tracing_subscriber::EnvFilter;
use wayside_sync_server::{
    cli::{self, Cli},
    config,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let colour = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(EnvFilter::new(config::log())).with_ansi(colour).with_writer(io::stderr).init();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("wayside: {e:#}");
            ExitCode::from(cli::exit_code(&e))
        }
    }
}

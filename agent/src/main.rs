//! `wayside-agent`: log, configuration, start, wait, drain, exit code.
//!
//! Invariant: exit code 0 means that it did what it was asked for. Not here: everything else.

use std::{io::Write, path::Path, process::ExitCode};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use wayside_agent::{
    agent::Agent,
    cli::{self, Cli, Command, ConfigVerb},
    config::{Config, log_to_stderr},
    enroll, infer, worker,
};

fn main() -> ExitCode {
    log_to_stderr();
    let done = match Cli::parse().command {
        Command::Run { config } => run(&config),
        Command::Enroll(arguments) => enroll::command::run(arguments),
        Command::Infer(arguments) => infer::run(&arguments),
        Command::Worker(arguments) => worker::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Config { verb: ConfigVerb::Check { config } } => check(&config),
        Command::Spool { verb } => cli::spool::run(&verb),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wayside-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(path)?;
    let device = config.device.id.clone();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let agent = Agent::start(config).await?;
    writeln!(std::io::stdout(), "ready {device}")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let stopped = agent.stop().await;
    tracing::info!(clean = stopped.clean, left = stopped.left, "stopped");
    Ok(if stopped.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(path)?;
    writeln!(std::io::stdout(), "{}: {} sources, {} slots: ok", path.display(), config.sources.len(), config.slots.len())?;
    Ok(ExitCode::SUCCESS)
}

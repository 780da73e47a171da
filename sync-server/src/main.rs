//! The program `wayside`: parse, run, exit code; and the life of a server from its start to its drain.
//!
//! Invariant: an error is printed once, with its causes, on stderr. A server prints one line per address and its token on stdout, so that
//! a program that started it can find it. Not here: what the commands do (`cli`), what a server is made of (`server`).

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use wayside_sync_server::{
    cli::{self, Cli},
    config::{self, Config},
    server::Server,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let colour = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(EnvFilter::new(config::log())).with_ansi(colour).with_writer(io::stderr).init();
    match cli.run(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("wayside: {e:#}");
            ExitCode::from(cli::exit_code(&e))
        }
    }
}

#[tokio::main]
async fn serve(config: Config, token: Option<String>) -> anyhow::Result<()> {
    // Caught before anything starts, so that an early signal also drains.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut server = Server::start(config, token).await?;
    for line in server.addresses() {
        // Who started the server may have stopped reading; that is no reason to die.
        let _ = writeln!(io::stdout(), "{line}");
    }
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = server.failed() => Some(failure),
    };
    tracing::info!("stopping");
    server.stop().await?;
    failure.map_or(Ok(()), Err)
}

//! The agent's command line: noun then verb.
//!
//! Invariant: what a person asked for goes to stdout, everything else to stderr. Not here: doing it.

pub mod spool;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::{enroll::command, infer, worker};

#[derive(Debug, Parser)]
#[command(
    name = "wayside-agent",
    version,
    about = "Runs models beside cameras and sensors and keeps what they say until the server has it"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Senses, asks the models, buffers and sends, until it is told to stop
    Run {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Makes this device a member of a fleet, with the line that `wayside device add` printed
    Enroll(command::Arguments),
    /// Judges pictures or windows with a model, without server or configuration
    Infer(infer::Arguments),
    /// Runs one model for the core, which starts it
    #[command(hide = true)]
    Worker(worker::Arguments),
    /// The configuration file
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// What waits on this device for the server; the agent must not run meanwhile
    Spool {
        #[command(subcommand)]
        verb: SpoolVerb,
    },
}

#[derive(Debug, Subcommand)]
pub enum SpoolVerb {
    /// Reads every byte of the stores and says what is wrong; exit code 8 where something is
    Check(SpoolArguments),
    /// Saves what can be read, enters the rest into the gap ledger, and lets updates go on
    Repair(SpoolArguments),
}

#[derive(Debug, clap::Args)]
pub struct SpoolArguments {
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Reads the file and says what is wrong with it
    Check {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use wayside_common::{enrolment::Token, id::Digest};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_token_may_begin_with_a_hyphen() {
        let token = Token::new([0xf8; 32], Digest::of(b"a key")).to_string();
        assert!(token.starts_with('-'));
        let parsed = Cli::try_parse_from(["wayside-agent", "enroll", "https://127.0.0.1:8443", "--token", &token]);
        assert!(matches!(parsed.unwrap().command, Command::Enroll(_)));
    }
}

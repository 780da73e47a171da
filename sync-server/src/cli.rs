//! The command line: noun, then verb; flags are named.
//!
//! Invariant: data goes to stdout, everything else to stderr; the exit code is 0, 1 (it failed), 2 (usage), 4 (not allowed),
//! 8 (checked and not healthy) or 124 (timeout). Not here:
//! what a command does (`cli/*`), and anything that the REST API does not offer, except making and using keys.

pub mod broker;
pub mod client;
#[cfg(feature = "postgres")]
pub mod db;
pub mod device;
pub mod key;
pub mod model;
pub mod output;
pub mod release;
pub mod retrain;
pub mod sample;
pub mod serve;
pub mod wait;

use clap::{Args, Parser, Subcommand};

use crate::{
    cli::{
        client::{Client, NotAllowed},
        output::Output,
        wait::{NotHealthy, TimedOut},
    },
    config::{self, Config},
};

/// Sync server of a Wayside fleet, and its operator's command line.
#[derive(Debug, Parser)]
#[command(name = "wayside", version)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Args)]
struct Global {
    /// How results are printed
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Output,
    /// Address of the server's REST API [env: WAYSIDE_SERVER] [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL", global = true)]
    server: Option<String>,
    /// Token that the server printed when it started [env: WAYSIDE_TOKEN]
    #[arg(long, global = true)]
    token: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Run the server
    Serve(serve::Serve),
    /// Devices, as the server knows them
    Device {
        #[command(subcommand)]
        verb: Option<device::Verb>,
    },
    /// Model versions in the registry
    Model {
        #[command(subcommand)]
        verb: Option<model::Verb>,
    },
    /// Packages on their way to devices
    Release {
        #[command(subcommand)]
        verb: Option<release::Verb>,
    },
    /// Frames and windows worth a label
    Sample {
        #[command(subcommand)]
        verb: Option<sample::Verb>,
    },
    /// Retraining jobs and their runs
    Retrain {
        #[command(subcommand)]
        verb: Option<retrain::Verb>,
    },
    /// The keys of a fleet
    Key {
        #[command(subcommand)]
        verb: key::Verb,
    },
    /// The server's store
    #[cfg(feature = "postgres")]
    Db {
        #[command(subcommand)]
        verb: db::Verb,
    },
    /// A broker beside the embedded one
    Broker {
        #[command(subcommand)]
        verb: broker::Verb,
    },
}

/// What every command that asks a server gets.
pub struct Context {
    pub client: Client,
    pub output: Output,
}

impl Cli {
    /// `serve` is what runs a server: wiring one is for `main` alone.
    pub fn run(self, serve: fn(Config, Option<String>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Global { output, server, token } = self.global;
        let context = |token: Option<String>| Context { client: Client::new(config::client(server, token)), output };
        match self.noun {
            Noun::Serve(flags) => serve(flags.config()?, token),
            Noun::Device { verb } => verb.unwrap_or_default().run(&context(token)),
            Noun::Model { verb } => verb.unwrap_or_default().run(&context(token)),
            Noun::Release { verb } => verb.unwrap_or_default().run(&context(token)),
            Noun::Sample { verb } => verb.unwrap_or_default().run(&context(token)),
            Noun::Retrain { verb } => verb.unwrap_or_default().run(&context(token)),
            Noun::Key { verb } => verb.run(),
            #[cfg(feature = "postgres")]
            Noun::Db { verb } => verb.run(output),
            Noun::Broker { verb } => verb.run(),
        }
    }
}

/// What the shell gets for an error.
pub fn exit_code(e: &anyhow::Error) -> u8 {
    if e.is::<NotAllowed>() {
        4
    } else if e.is::<NotHealthy>() {
        8
    } else if e.is::<TimedOut>() {
        124
    } else {
        1
    }
}

//! The demo's command line.
//!
//! Invariant: without flags it runs until Ctrl-C and leaves nothing behind. Not here: what a scenario does (`story`).

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// A server and five simulated devices on this machine, and the story of a model's life.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo demo")]
pub struct Options {
    /// Run one scenario to its end, check it, and write what really happened
    #[arg(long)]
    pub headless: bool,
    /// Which story is told
    #[arg(long, value_enum, default_value_t = Scenario::FirstLight)]
    pub scenario: Scenario,
    /// Of everything that is drawn: scenes, motions, the order of pictures
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Show the cameras these pictures, DIR/CLASS/*.jpg, instead of drawn scenes
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Where the report goes; without it, to stdout (headless only)
    #[arg(long, value_name = "FILE", requires = "headless")]
    pub json: Option<PathBuf>,
    /// Leave the data folder, with all logs, for a look afterwards
    #[arg(long)]
    pub keep: bool,
    /// Take the programs that lie beside the demo, as they are
    #[arg(long)]
    pub no_build: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Readings and frames flow, a second model version comes, a bad one is refused, a head is trained again
    FirstLight,
    /// The same, while the server, an agent and a worker are killed
    Kills,
}

impl Scenario {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstLight => "first-light",
            Self::Kills => "kills",
        }
    }
}

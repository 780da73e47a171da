//! `cargo bench-wayside [SUITE]…`: runs suites and prints one JSON object per figure.
//!
//! Invariant: exit code 0 means that every suite ran to its end; a missed budget is said on stderr and is a figure like any other. Not
//! here: what is measured (`wayside_tests::bench`).

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use wayside_tests::bench::{self, Figure};

/// What Wayside costs, beside what others pay.
#[derive(Debug, Parser)]
#[command(name = "cargo bench-wayside")]
struct Options {
    /// Which suites; all without any
    suites: Vec<String>,
    /// Print the names of the suites
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let suites = bench::named(&options.suites).map_err(anyhow::Error::msg)?;
    if options.list {
        suites.iter().try_for_each(|suite| writeln!(io::stdout(), "{:8} {}", suite.name, suite.about))?;
        return Ok(());
    }
    if cfg!(debug_assertions) {
        eprintln!("bench: our code is not fully optimised here; figures of time are worse than what is shipped");
    }
    for suite in suites {
        let mut printed = Ok(());
        (suite.run)(&mut |figure| {
            if let Ok(()) = printed {
                printed = print(&figure);
            }
        })?;
        printed?;
    }
    Ok(())
}

fn print(figure: &Figure) -> anyhow::Result<()> {
    if figure.peer == "budget" && figure.ratio > 1.0 {
        eprintln!("bench: {} is {:.3} {}, {:.3} times its budget: MISSED", figure.name, figure.value, figure.unit, figure.ratio);
    }
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, figure)?;
    Ok(writeln!(stdout)?)
}

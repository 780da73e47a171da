//! `cargo demo`: parses the flags, runs, writes the report, decides the exit code.
//!
//! Invariant: exit code 0 means that every check held. Not here: the run itself (`wayside_tests::demo`).

use std::{fs, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use wayside_tests::demo::{self, interrupt, options::Options, report::Report, timeline::Timeline};

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) if e.is::<interrupt::Interrupted>() && !options.headless => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("demo: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<bool> {
    interrupt::watch()?;
    let timeline = Arc::new(Timeline::start());
    if !options.headless {
        return demo::live(options, timeline).map(|()| true);
    }
    let report = demo::headless(options, timeline)?;
    write(options, &report)?;
    for fault in &report.faults {
        eprintln!("demo: {fault}");
    }
    Ok(report.ok)
}

fn write(options: &Options, report: &Report) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    match &options.json {
        Some(file) => fs::write(file, text + "\n").with_context(|| format!("could not write {}", file.display())),
        None => {
            println!("{text}");
            Ok(())
        }
    }
}

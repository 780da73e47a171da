//! `sim`: runs seeds of the simulated fleet and says how often each fault came about.
//!
//! Invariant: it exits with 0 only if every run kept every promise and every fault of its mix came about. Not here: the runs
//! (`simulator`).

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use clap::Parser;
use wayside_tests::simulator::{
    mix::Mix,
    world::{self, Tally},
};

/// Runs seeds of the simulated fleet.
#[derive(Parser)]
struct Options {
    /// Which world; all where absent.
    #[arg(long)]
    mix: Vec<Mix>,
    /// How many seeds of each.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// One seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Ends at the first broken promise.
    #[arg(long)]
    first: bool,
    /// What the agent and the server log, as in "wayside_agent=debug"; for one seed.
    #[arg(long)]
    log: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(filter) = &options.log {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let mixes = if options.mix.is_empty() { Mix::ALL.to_vec() } else { options.mix };
    let (from, count) = options.seed.map_or((options.from, options.seeds), |seed| (seed, 1));
    let mut good = true;
    for mix in mixes {
        good &= run_mix(mix, from, count, options.seed.is_none(), options.first);
        if options.first && !good {
            break;
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_mix(mix: Mix, from: u64, count: u64, expect_all: bool, first: bool) -> bool {
    let begun = Instant::now();
    let (next, total, failed) = (AtomicU64::new(from), Mutex::new(Tally::default()), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < from + count) {
                    match world::run(mix, seed) {
                        Ok(tally) => add(&mut total.lock().unwrap_or_else(PoisonError::into_inner), tally),
                        Err(error) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            if first {
                                next.store(from + count, Ordering::Relaxed);
                            }
                            eprintln!("mix {mix}, seed {seed}: {error:#}");
                            eprintln!("  again: cargo run --quiet --package wayside-tests --bin sim -- --mix {mix} --seed {seed}");
                        }
                    }
                }
            });
        }
    });
    let (total, failed) = (total.into_inner().unwrap_or_else(PoisonError::into_inner), failed.into_inner());
    let runs = count - failed;
    println!(
        "{mix}: {runs} of {count} runs kept every promise in {:.1} s; {} records, {} redelivered, {} lives",
        begun.elapsed().as_secs_f64(),
        total.records,
        total.redelivered,
        total.lives
    );
    let faults: BTreeMap<_, _> = mix.faults().map(|fault| (fault, total.faults.get(&fault).copied().unwrap_or(0))).collect();
    let line: Vec<String> = faults.iter().map(|(fault, often)| format!("{fault:?} {often}")).collect();
    println!("  {}", line.join(", "));
    println!("  {:?}", total.missing);
    let never: Vec<_> = faults.iter().filter(|(_, often)| **often == 0).map(|(fault, _)| fault).collect();
    if expect_all && !never.is_empty() {
        eprintln!("{mix}: {never:?} never came about");
    }
    failed == 0 && (never.is_empty() || !expect_all)
}

fn add(total: &mut Tally, tally: Tally) {
    for (fault, often) in tally.faults {
        *total.faults.entry(fault).or_default() += often;
    }
    total.records += tally.records;
    total.redelivered += tally.redelivered;
    total.lives += tally.lives;
    for (reason, often) in tally.missing {
        *total.missing.entry(reason).or_default() += often;
    }
}

//! `wayside-agent spool check` and `spool repair`: what lies in the stores, what is wrong with it, and making it good.
//!
//! Invariant: `check` moves and deletes nothing; `repair` loses nothing without an entry in the gap ledger. Not here: reading a damaged
//! file (`spool`).

use std::{fmt::Write as _, io::Write as _, path::Path, process::ExitCode};

use anyhow::Context;
use serde::Serialize;
use wayside_common::time::Wall;

use super::{Output, SpoolArguments, SpoolVerb};
use crate::{
    config::Config,
    epoch,
    spool::{
        Spool,
        check::{Examined, examine},
    },
    state::{
        State,
        check::{ExaminedState, examine_state},
    },
};

/// Checked, and not healthy.
const NOT_HEALTHY: u8 = 8;

#[derive(Debug, Serialize)]
struct Found {
    healthy: bool,
    state: ExaminedState,
    spool: Examined,
}

#[derive(Debug, Serialize)]
struct Repaired {
    /// Files that were moved to `NAME.damaged`.
    moved_aside: Vec<&'static str>,
    /// Batches that go on, of a spool that was moved aside.
    saved: u64,
    /// Batches that did not fit their checksum.
    damaged: u64,
    /// Entries that went into the gap ledger.
    entries: u64,
    /// Nobody knows what was held; the next start enters that.
    unknown: bool,
}

pub fn run(verb: &SpoolVerb) -> anyhow::Result<ExitCode> {
    let (SpoolVerb::Check(SpoolArguments { config, output }) | SpoolVerb::Repair(SpoolArguments { config, output })) = verb;
    let file = config;
    let config = Config::load(file)?;
    let (text, code) = match verb {
        SpoolVerb::Check(_) => {
            let found = check(&config)?;
            let code = if found.healthy { ExitCode::SUCCESS } else { ExitCode::from(NOT_HEALTHY) };
            (if *output == Output::Json { serde_json::to_string(&found)? } else { table(&found, &config, file) }, code)
        }
        SpoolVerb::Repair(_) => {
            let repaired = repair(&config, now())?;
            (if *output == Output::Json { serde_json::to_string(&repaired)? } else { told(&repaired) }, ExitCode::SUCCESS)
        }
    };
    writeln!(std::io::stdout(), "{}", text.trim_end())?;
    Ok(code)
}

fn now() -> Wall {
    crate::clock::Clock::start().wall()
}

fn check(config: &Config) -> anyhow::Result<Found> {
    let stop_it = "stop the agent first, then ask again";
    let state = examine_state(&config.data_dir.join("state.db")).context(stop_it)?;
    let spool = examine(&config.data_dir.join("spool.db")).context(stop_it)?;
    Ok(Found { healthy: state.is_healthy() && spool.is_healthy(), state, spool })
}

fn repair(config: &Config, now: Wall) -> anyhow::Result<Repaired> {
    let before = check(config)?;
    std::fs::create_dir_all(&config.data_dir).with_context(|| format!("{} cannot be made", config.data_dir.display()))?;
    let mut state = State::open(&config.data_dir)?;
    let (mut spool, damage) = Spool::open(&config.data_dir, &config.spool)?;
    let damage = match before.spool.faults.first() {
        Some(fault) if damage.is_none() => {
            spool.rebuild(fault)?;
            spool.take_damage()
        }
        _ => damage,
    };
    epoch::recover(&mut state, &spool, now)?;
    let damaged = spool.verify()?.len() as u64;
    let gaps = spool.given_up()?;
    state.enter_gaps(&gaps)?;
    spool.forget()?;
    state.repaired()?;
    let aside = [("state.db", !before.state.faults.is_empty()), ("spool.db", damage.is_some())];
    Ok(Repaired {
        moved_aside: aside.iter().filter(|(_, was)| *was).map(|(name, _)| *name).collect(),
        saved: damage.as_ref().map_or(0, |damage| damage.saved),
        damaged,
        entries: gaps.len() as u64,
        unknown: damage.is_some_and(|damage| damage.unknown),
    })
}

fn table(found: &Found, config: &Config, file: &Path) -> String {
    let Found { state, spool, healthy } = found;
    let mut text = String::new();
    let mut line = |good: bool, what: &str, says: String| {
        let _ = writeln!(text, "  {:<5} {what:<9} {says}", if good { "ok" } else { "FAIL" });
    };
    line(state.faults.is_empty(), "state", format!("{} reports wait, {} ledger entries", state.reports, state.ledger));
    state.faults.iter().for_each(|fault| line(false, "state", fault.clone()));
    if let Some(damage) = &state.damage {
        line(false, "updates", format!("stopped, the state store was lost: {damage}"));
    }
    if state.storage_fault {
        line(false, "storage", "a store has failed since the last repair".into());
    }
    let oldest = spool.oldest_ms.map_or("nothing waits".to_owned(), |ms| format!("oldest from {}", Wall(ms)));
    let ladder = format!("{} downsampled, {} sketches", spool.downsampled, spool.sketches);
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let size = format!("{:.1} of {:.1} MB", megabytes(spool.bytes), megabytes(config.spool.max_bytes));
    line(spool.is_healthy(), "spool", format!("{} batches, {size}, {ladder}, {oldest}", spool.batches));
    spool.faults.iter().for_each(|fault| line(false, "spool", fault.clone()));
    if spool.damaged > 0 {
        line(false, "spool", format!("{} batches do not fit their checksums", spool.damaged));
    }
    if spool.bytes_of_batches > 0 {
        let ratio = spool.bytes_written as f64 / spool.bytes_of_batches as f64;
        let amount = megabytes(spool.bytes_written);
        line(true, "flash", format!("{amount:.1} MB written since the spool was made, {ratio:.1} bytes per byte of batches"));
    }
    if !healthy {
        let _ = write!(text, "Next: wayside-agent spool repair --config {}", file.display());
    }
    text
}

fn told(repaired: &Repaired) -> String {
    let mut text = String::new();
    for name in &repaired.moved_aside {
        let _ = writeln!(text, "{name} was damaged and lies in {name}.damaged now");
    }
    let Repaired { saved, damaged, entries, .. } = repaired;
    let _ =
        writeln!(text, "{saved} batches saved, {damaged} damaged ones given up, {entries} entries in the gap ledger; updates may go on");
    if repaired.unknown {
        let _ = writeln!(text, "what else was held nobody knows; the next start enters that into the gap ledger");
    }
    text
}

#[cfg(test)]
mod tests {
    use wayside_common::{
        block::Block,
        id::Epoch,
        reading::Reading,
        record::Body,
        schedule::Position,
        time::{ClockStamp, Mono, WallQuality},
    };

    use super::*;
    use crate::{scratch::Scratch, spool::Cut};

    fn config(dir: &Scratch) -> Config {
        let text = format!(
            "data_dir = {:?}\n[device]\nid = \"a\"\nfleet = \"f\"\nclass = \"c\"\n[link]\nbroker = \"mqtt://127.0.0.1:1\"\n[trust]\nroot = \"r\"\n",
            dir.path()
        );
        Config::parse(&text).unwrap()
    }

    fn fill(config: &Config) {
        let epoch = Epoch { counter: 1, nonce: 1 };
        let mut state = State::open(&config.data_dir).unwrap();
        state.begin_epoch(epoch, Wall(0), &[], &[]).unwrap();
        let (mut spool, _) = Spool::open(&config.data_dir, &config.spool).unwrap();
        spool.remember(&state.memory().unwrap()).unwrap();
        let reading = |p| Reading { position: Position(p), mono: Mono(p), values: vec![] };
        let cut = |first_seq: u64| Cut {
            stream: "imu0.readings".parse().unwrap(),
            first_seq,
            body: Body::Readings(Block::pack(&[], &(first_seq..first_seq + 500).map(reading).collect::<Vec<_>>()).unwrap()),
            positions: Some((Position(first_seq), Position(first_seq + 499))),
            span: (Wall(0), Wall(1)),
        };
        let clock = ClockStamp { mono: Mono(0), wall: Wall(1), quality: WallQuality::Plausible };
        let cuts: Vec<Cut> = (0..100).map(|i| cut(i * 500)).collect();
        spool.append(epoch, clock, &cuts).unwrap();
    }

    #[test]
    fn a_check_tells_and_a_repair_makes_good() {
        let dir = Scratch::new();
        let config = config(&dir);
        assert!(check(&config).unwrap().healthy, "nothing is there yet");
        fill(&config);
        let found = check(&config).unwrap();
        assert!(found.healthy && found.spool.batches == 100, "{found:?}");
        assert!(table(&found, &config, Path::new("agent.toml")).contains("ok    spool     100 batches"));

        let path = dir.path().join("spool.db-wal");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at..at + 20_000].fill(0xee);
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(dir.path().join("state.db"), [7; 10_000]).unwrap();
        let found = check(&config).unwrap();
        assert!(!found.healthy && !found.state.faults.is_empty(), "{found:?}");
        assert!(table(&found, &config, Path::new("agent.toml")).contains("Next: wayside-agent spool repair"));

        let repaired = repair(&config, Wall(5)).unwrap();
        assert!(repaired.moved_aside.contains(&"state.db"), "{repaired:?}");
        assert!(dir.path().join("state.db.damaged").exists());
        let after = check(&config).unwrap();
        assert!(after.healthy, "{after:?}");
        assert!(after.state.ledger > 0, "the lost reports are there at least");
    }
}

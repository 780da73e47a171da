//! Suite `spool`: what the device's spool writes to the flash, and how long it takes, against a table with a row per reading.
//!
//! A *raw byte* is a byte of what a user would count: six axes as i16 and a time as i64, 20 bytes a reading. Bytes written are those
//! that SQLite hands to the disk, database and log, from the first batch until all are acked and deleted; counted below it, by the disk
//! in RAM. Times are measured on the real disk, in a folder of the system's temporary one. Invariant: ours and the peer's figures are of
//! the same readings. Not here: what the file system and the flash add.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use rusqlite::{Connection, params};
use wayside_agent::{
    config::Config as AgentConfig,
    source::{self, Item, Shape},
    spool::{Config, Cut, Spool},
};
use wayside_common::{
    block::Block,
    id::Epoch,
    reading::{Column, Reading},
    record::Body,
    schedule::Position,
    sync::sender::BatchKey,
    time::{ClockStamp, Mono, Wall, WallQuality},
};

use super::Figure;
use crate::simulator::disk::Disk;

const RAW_BYTES: u64 = 6 * 2 + 8;
const BATCH: u64 = 1_000;
/// At 100 Hz.
const PERIOD_US: u64 = 10_000;
const EPOCH: Epoch = Epoch { counter: 1, nonce: 1 };
const BUDGET: f64 = 2.0;

pub fn run(tell: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    run_sized(200, 20_000, tell)
}

/// `batches` for the bytes, `held` for the times.
fn run_sized(batches: u64, held: u64, tell: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let (columns, rows) = recorded(batches * BATCH)?;
    written(&columns, &rows, tell)?;
    times(&columns, &rows, held, tell)
}

/// Six axes of the simulated IMU.
fn recorded(count: u64) -> anyhow::Result<(Vec<Column>, Vec<Reading>)> {
    let config = AgentConfig::parse(
        "data_dir = \"d\"\n[device]\nid = \"a\"\nfleet = \"f\"\nclass = \"c\"\n[link]\nbroker = \"mqtt://127.0.0.1:1\"\n[trust]\nroot = \"r\"\n\
         [[source]]\nname = \"imu0\"\nkind = \"sim-imu\"\nperiod = \"10ms\"\n",
    )?;
    let mut source = source::open(&config.sources[0], Wall(0)).map_err(|error| anyhow::anyhow!("{error}"))?;
    let Shape::Columns(mut columns) = source.shape() else { anyhow::bail!("an IMU has columns") };
    columns.truncate(6);
    let mut rows = Vec::with_capacity(count as usize);
    for position in 0..count {
        let Item::Reading(mut values) = source.read(Position(position)).map_err(|error| anyhow::anyhow!("{error}"))? else {
            anyhow::bail!("an IMU has readings");
        };
        values.truncate(6);
        rows.push(Reading { position: Position(position), mono: Mono(position * PERIOD_US), values });
    }
    Ok((columns, rows))
}

fn cut(columns: &[Column], rows: &[Reading], first_seq: u64) -> anyhow::Result<Cut> {
    let wall = |row: &Reading| Wall((row.mono.0 / 1_000) as i64);
    let (first, last) = rows.first().zip(rows.last()).context("a batch has readings")?;
    Ok(Cut {
        stream: "imu0.readings".parse()?,
        first_seq,
        body: Body::Readings(Block::pack(columns, rows)?),
        positions: Some((first.position, last.position)),
        span: (wall(first), wall(last)),
    })
}

fn clock(mono: Mono) -> ClockStamp {
    ClockStamp { mono, wall: Wall((mono.0 / 1_000) as i64), quality: WallQuality::Plausible }
}

fn written(columns: &[Column], rows: &[Reading], tell: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let peer = row_per_reading(rows)?;
    struct Case {
        name: &'static str,
        batch: u64,
        /// Acked as they come, or only when all are there.
        online: bool,
    }
    let cases = [
        Case { name: "bytes_written_per_raw_byte", batch: BATCH, online: false },
        Case { name: "bytes_written_per_raw_byte_online", batch: BATCH, online: true },
        Case { name: "bytes_written_per_raw_byte_at_100_readings_a_batch", batch: 100, online: true },
    ];
    for Case { name, batch, online } in cases {
        let value = of_spool(columns, rows, batch, online)? / (rows.len() as u64 * RAW_BYTES) as f64;
        let n = rows.len() as u64;
        tell(Figure { suite: "spool", name: name.into(), value, unit: "B/B", peer: "a row per reading", ratio: value / peer, n });
        if name == "bytes_written_per_raw_byte" {
            let name = format!("{name}_budget");
            tell(Figure { suite: "spool", name, value, unit: "B/B", peer: "budget", ratio: value / BUDGET, n });
        }
    }
    Ok(())
}

/// The bytes that the spool writes for these readings, until it is empty again.
fn of_spool(columns: &[Column], rows: &[Reading], batch: u64, online: bool) -> anyhow::Result<f64> {
    let disk = Disk::new();
    let (mut spool, _) = Spool::open_in(disk.folder(), &disk.root(), &Config { max_bytes: u64::MAX / 16, ..Config::default() })?;
    let before = disk.counts().bytes_written;
    let mut waiting: Vec<BatchKey> = Vec::new();
    for (at, rows) in rows.chunks(batch as usize).enumerate() {
        let last = rows.last().map_or(Mono(0), |row| row.mono);
        let held = spool.append(EPOCH, clock(last), &[cut(columns, rows, at as u64 * batch)?])?;
        waiting.extend(held.into_iter().map(|held| held.key));
        if online {
            drain(&mut spool, &mut waiting)?;
        }
    }
    drain(&mut spool, &mut waiting)?;
    anyhow::ensure!(spool.bytes() == 0, "all is acked");
    drop(spool);
    Ok((disk.counts().bytes_written - before) as f64)
}

/// As the uplink does it: eight on their way, and then their acks.
fn drain(spool: &mut Spool, waiting: &mut Vec<BatchKey>) -> anyhow::Result<()> {
    for keys in waiting.chunks(8) {
        for key in keys {
            spool.take(key)?;
        }
        spool.delete(keys)?;
    }
    waiting.clear();
    Ok(())
}

/// What is usually done: a row per reading, a commit each, deleted when it was sent; per raw byte. A tenth of the readings tells it.
fn row_per_reading(rows: &[Reading]) -> anyhow::Result<f64> {
    let disk = Disk::new();
    let connection = Connection::open(disk.root().join("readings.db"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.execute_batch("CREATE TABLE reading (t INTEGER PRIMARY KEY, ax, ay, az, gx, gy, gz)")?;
    let before = disk.counts().bytes_written;
    let rows = &rows[..rows.len() / 10];
    let mut insert = connection.prepare("INSERT INTO reading VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for row in rows {
        let value = |at: usize| row.values.get(at).copied().flatten();
        insert.execute(params![row.mono.0 as i64, value(0), value(1), value(2), value(3), value(4), value(5)])?;
    }
    let mut delete = connection.prepare("DELETE FROM reading WHERE t IN (SELECT t FROM reading ORDER BY t LIMIT 100)")?;
    while delete.execute([])? > 0 {}
    drop((insert, delete));
    drop(connection);
    Ok((disk.counts().bytes_written - before) as f64 / (rows.len() as u64 * RAW_BYTES) as f64)
}

/// A folder on the real disk.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("wayside-bench-spool-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn times(columns: &[Column], rows: &[Reading], held: u64, tell: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let (mut spool, _) = Spool::open(&folder.0, &Config { max_bytes: u64::MAX / 16, ..Config::default() })?;
    let cuts: Vec<Cut> = rows.chunks(BATCH as usize).map(|rows| cut(columns, rows, 0)).collect::<anyhow::Result<_>>()?;
    let (mut plain, mut synced, mut keys) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..held {
        let cut = Cut { first_seq: at * BATCH, ..cuts[at as usize % cuts.len()].clone() };
        // A second between two: every fifth commit is synced, the others are not.
        let clock = clock(Mono(at * 1_000_000));
        let start = Instant::now();
        let held = spool.append(EPOCH, clock, &[cut])?;
        let took = start.elapsed();
        if at.is_multiple_of(5) {
            synced.push(took)
        } else {
            plain.push(took)
        }
        keys.extend(held.into_iter().map(|held| held.key));
    }
    let mut figure = |name: &str, value: f64, unit, peer, ratio, n| {
        tell(Figure { suite: "spool", name: name.into(), value, unit, peer, ratio, n });
    };
    let peer = transactions(&folder.0.join("peer.db"), rows)?;
    let (append, commit) = (p99(&mut plain), p99(&mut synced));
    figure("append_p99_us", append.as_secs_f64() * 1e6, "us", "a row per reading", ratio(append, peer * BATCH as u32), plain.len() as u64);
    let (commit_ms, commit_by) = (commit.as_secs_f64() * 1e3, ratio(commit, Duration::from_secs(1)));
    figure("commit_p99_ms", commit_ms, "ms", "budget", commit_by, synced.len() as u64);
    let start = Instant::now();
    drain(&mut spool, &mut keys)?;
    spool.delete_acked()?;
    let took = start.elapsed();
    figure("drain_ms_per_1000_batches", took.as_secs_f64() * 1e6 / held as f64, "ms", "itself", 1.0, held);
    Ok(())
}

/// What one reading costs that has a row and a commit of its own.
fn transactions(path: &std::path::Path, rows: &[Reading]) -> anyhow::Result<Duration> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.execute_batch("CREATE TABLE reading (t INTEGER PRIMARY KEY, ax, ay, az, gx, gy, gz)")?;
    let mut insert = connection.prepare("INSERT INTO reading VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    let rows = &rows[..rows.len().min(2_000)];
    let start = Instant::now();
    for row in rows {
        let value = |at: usize| row.values.get(at).copied().flatten();
        insert.execute(params![row.mono.0 as i64, value(0), value(1), value(2), value(3), value(4), value(5)])?;
    }
    Ok(start.elapsed() / rows.len().max(1) as u32)
}

fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).or(times.last()).copied().unwrap_or_default()
}

fn ratio(ours: Duration, peer: Duration) -> f64 {
    ours.as_secs_f64() / peer.as_secs_f64().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_tells_every_figure() {
        let mut figures = Vec::new();
        run_sized(40, 400, &mut |figure| figures.push(figure)).unwrap();
        figures.iter().for_each(|figure| println!("{}", serde_json::to_string(figure).unwrap()));
        let of = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap_or_else(|| panic!("no {name}"));
        for name in ["append_p99_us", "commit_p99_ms", "drain_ms_per_1000_batches"] {
            assert!(of(name).value > 0.0 && of(name).n > 0, "{name}");
        }
        let written = of("bytes_written_per_raw_byte");
        // The budget is for the bench to judge, with more batches; this only sees when it grows by a half.
        assert!(written.value > 0.3 && written.value <= 1.5 * BUDGET, "{written:?}");
        assert!(written.ratio < 0.1, "{written:?}");
    }
}

//! Recordings of real sensors from the data folder (`$WAYSIDE_TEST_DATA`, else `../shared/data` beside the workspace).
//!
//! Invariant: values are rounded to the resolution that the budget names, times are those that were recorded. Not here: what is measured
//! on them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use wayside_common::{
    reading::{Column, Reading},
    schedule::Position,
    time::{Mono, Wall},
};

/// One file: a trial, or days in a room.
pub struct Recording {
    pub columns: Vec<Column>,
    pub readings: Vec<Reading>,
}

pub fn folder() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    env::var_os("WAYSIDE_TEST_DATA").map_or_else(beside, PathBuf::from)
}

/// Every trial of `imu/`: at most nine axes, at 95.2 Hz.
pub fn imu(data: &Path, axes: usize) -> anyhow::Result<Vec<Recording>> {
    let kinds = [("a", "m/s2", 9.80665 / 2048.0), ("g", "rad/s", 0.0010653), ("m", "uT", 0.15)];
    let column = |(kind, unit, lsb): (&str, &str, f64)| ["x", "y", "z"].map(|axis| column(&format!("{kind}{axis}"), unit, lsb));
    let columns: Vec<Column> = kinds.into_iter().flat_map(column).take(axes).collect();
    files(&data.join("imu"), "csv")?
        .iter()
        .map(|file| {
            read(file, &columns, |row| {
                let millis: u64 = row.get(0)?.parse().ok()?;
                let values = (1..=axes).map(|at| row.get(at)?.parse().ok()).collect::<Option<Vec<f64>>>()?;
                Some((millis * 1_000, values))
            })
        })
        .collect()
}

/// Both files of `climate/`: at most temperature, humidity, light and CO2, once a minute.
pub fn climate(data: &Path, channels: usize) -> anyhow::Result<Vec<Recording>> {
    let all = [("temperature", "degC", 0.01), ("humidity", "%RH", 0.01), ("light", "lux", 0.5), ("co2", "ppm", 0.25)];
    let columns: Vec<Column> = all.iter().take(channels).map(|(name, unit, lsb)| column(name, unit, *lsb)).collect();
    files(&data.join("climate"), "txt")?
        .iter()
        .map(|file| {
            // The row's number comes first, under no name or its own.
            let mut begin = None;
            read(file, &columns, |row| {
                let wall = Wall::from_rfc3339(&format!("{}Z", row.get(1)?.replace(' ', "T")))?;
                let begin = *begin.get_or_insert(wall);
                let values = (2..2 + channels).map(|at| row.get(at)?.parse().ok()).collect::<Option<Vec<f64>>>()?;
                Some(((wall.0 - begin.0).unsigned_abs() * 1_000, values))
            })
        })
        .collect()
}

fn column(name: &str, unit: &str, lsb: f64) -> Column {
    Column { name: name.into(), unit: unit.into(), offset: 0.0, lsb }
}

fn files(folder: &Path, ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let missing = || format!("no data: {} (set WAYSIDE_TEST_DATA)", folder.display());
    let entries = fs::read_dir(folder).with_context(missing)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = entries.collect::<Result<Vec<_>, _>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == ending));
    files.sort();
    if files.is_empty() {
        bail!("no data: no .{ending} in {}", folder.display());
    }
    Ok(files)
}

/// `row`: time in microseconds and values.
fn read(file: &Path, columns: &[Column], mut row: impl FnMut(&csv::StringRecord) -> Option<(u64, Vec<f64>)>) -> anyhow::Result<Recording> {
    let mut rows = csv::ReaderBuilder::new().flexible(true).from_path(file)?;
    let mut readings = Vec::new();
    for (at, record) in rows.records().enumerate() {
        let (mono, values) = row(&record?).with_context(|| format!("{}: row {}", file.display(), at + 1))?;
        readings.push(Reading {
            position: Position(at as u64),
            mono: Mono(mono),
            values: columns.iter().zip(values).map(|(column, value)| column.quantise(value)).collect(),
        });
    }
    Ok(Recording { columns: columns.to_vec(), readings })
}

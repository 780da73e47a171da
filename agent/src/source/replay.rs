//! A recording in a CSV file, played again: its columns by name, at its own pace, faster, or with a given period.
//!
//! Invariant: position = pass * rows + row; a row that cannot be read is a reading of missing values, so that every later row
//! keeps its position. Not here: what the columns mean.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use csv::ByteRecord;
use serde::Deserialize;
use wayside_common::{
    block::MAX_COLUMNS,
    reading::Column,
    schedule::{Position, Schedule},
    time::Wall,
};

use crate::source::{Item, Pace, Shape, Source, SourceError};

/// The rows are held in memory.
const MAX_FILE: u64 = 64 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub path: PathBuf,
    pub columns: Vec<ColumnConfig>,
    pub pace: ReplayPace,
    /// Absent: for ever.
    pub passes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ReplayPace {
    Every(Duration),
    /// The mean interval of this column's times, divided by `speed`. Numbers are taken in the unit that the column's name
    /// ends with (`_us`, `_ms`, `_s`), texts as `YYYY-MM-DD HH:MM:SS`.
    Recorded {
        column: String,
        speed: f64,
    },
}

/// One column of the source, and where its values stand in the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnConfig {
    pub name: String,
    /// In the file's header; absent: as `name`.
    pub column: Option<String>,
    pub unit: String,
    #[serde(default)]
    pub offset: f64,
    pub lsb: f64,
}

pub struct Replay {
    columns: Vec<Column>,
    rows: Vec<Vec<Option<i32>>>,
    schedule: Schedule,
}

impl Replay {
    pub fn open(config: &Config, anchor: Wall) -> Result<Self, SourceError> {
        let fault = |what: String| SourceError::Fault(format!("{}: {what}", config.path.display()));
        let bytes = read_bounded(&config.path).map_err(|error| fault(error.to_string()))?;
        parse(config, &bytes, anchor).map_err(fault)
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

fn parse(config: &Config, bytes: &[u8], anchor: Wall) -> Result<Replay, String> {
    let columns = checked_columns(&config.columns)?;
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(bytes);
    let header = reader.byte_headers().map_err(|error| error.to_string())?.clone();
    let records: Vec<ByteRecord> = reader.byte_records().map(Result::unwrap_or_default).collect();
    let Some(first) = records.first() else { return Err("no rows".into()) };
    // One field more than names: some tools leave the row number's column without a name.
    let shift = usize::from(first.len() == header.len() + 1);
    let find = |name: &str| {
        let at = header.iter().position(|field| field == name.as_bytes());
        at.map(|at| at + shift).ok_or_else(|| format!("no column {name:?} in its header"))
    };
    let fields: Vec<usize> = config.columns.iter().map(|c| find(c.column.as_deref().unwrap_or(&c.name))).collect::<Result<_, String>>()?;
    let period = match &config.pace {
        ReplayPace::Every(period) => *period,
        ReplayPace::Recorded { column, speed } => recorded_period(&records, find(column)?, column, *speed)?,
    };
    let rows: Vec<Vec<Option<i32>>> = records
        .iter()
        .map(|record| {
            let values = columns.iter().zip(&fields);
            values.map(|(column, &at)| column.quantise(number(record.get(at)?)?)).collect()
        })
        .collect();
    let count = config.passes.map(|passes| passes.saturating_mul(rows.len() as u64));
    Ok(Replay { columns, rows, schedule: Schedule { anchor, period, count } })
}

fn checked_columns(columns: &[ColumnConfig]) -> Result<Vec<Column>, String> {
    if columns.is_empty() || columns.len() > MAX_COLUMNS {
        return Err(format!("{} columns, and 1 to {MAX_COLUMNS} are allowed", columns.len()));
    }
    let check = |c: &ColumnConfig| {
        if c.name.len() > 64 || c.unit.len() > 64 {
            return Err(format!("column {:?}: name and unit have at most 64 bytes", c.name));
        }
        if !(c.lsb.is_finite() && c.lsb >= 0.0 && c.offset.is_finite()) {
            return Err(format!("column {:?}: lsb is not below zero, and offset and lsb are finite", c.name));
        }
        Ok(Column { name: c.name.clone(), unit: c.unit.clone(), offset: c.offset, lsb: c.lsb })
    };
    columns.iter().map(check).collect()
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok().map(str::trim)
}

fn number(field: &[u8]) -> Option<f64> {
    text(field)?.parse().ok()
}

fn recorded_period(records: &[ByteRecord], at: usize, column: &str, speed: f64) -> Result<Duration, String> {
    let scale = [("_us", 1e-6), ("_ms", 1e-3), ("_s", 1.0)].into_iter().find(|(suffix, _)| column.ends_with(suffix));
    let seconds = |record: &ByteRecord| {
        let field = text(record.get(at)?)?;
        match (field.parse::<f64>(), scale) {
            (Ok(value), Some((_, scale))) => Some(value * scale),
            (Ok(_), None) => None,
            (Err(_), _) => Wall::from_rfc3339(&format!("{}Z", field.replacen(' ', "T", 1))).map(|wall| wall.0 as f64 / 1e3),
        }
    };
    let ends = records.first().and_then(seconds).zip(records.last().and_then(seconds));
    let Some((first, last)) = ends else {
        return Err(format!("the times in column {column:?} are neither numbers of a unit in its name nor YYYY-MM-DD HH:MM:SS"));
    };
    let period = (last - first) / (records.len().max(2) - 1) as f64 / speed;
    // Whole microseconds: a schedule counts in them.
    match Duration::try_from_secs_f64(period).map(|period| Duration::from_micros(period.as_micros() as u64)) {
        Ok(period) if !period.is_zero() => Ok(period),
        _ => Err(format!("the times in column {column:?} do not rise")),
    }
}

impl Source for Replay {
    fn shape(&self) -> Shape {
        Shape::Columns(self.columns.clone())
    }

    fn pace(&self) -> Pace {
        Pace::Timed(self.schedule)
    }

    fn read(&mut self, position: Position) -> Result<Item, SourceError> {
        if self.schedule.count.is_some_and(|count| position.0 >= count) {
            return Err(SourceError::Ended);
        }
        let row = (position.0 % self.rows.len() as u64) as usize;
        Ok(Item::Reading(self.rows[row].clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(columns: &[(&str, f64)], pace: ReplayPace) -> Config {
        let columns = columns.iter().map(|(name, lsb)| ColumnConfig {
            name: name.to_ascii_lowercase(),
            column: Some((*name).into()),
            unit: "1".into(),
            offset: 0.0,
            lsb: *lsb,
        });
        Config { path: "x.csv".into(), columns: columns.collect(), pace, passes: Some(2) }
    }

    #[test]
    fn rows_become_readings_and_what_cannot_be_read_is_missing() {
        let recorded = |column: &str, speed| ReplayPace::Recorded { column: column.into(), speed };
        struct Case {
            csv: &'static [u8],
            config: Config,
            period_us: u64,
            rows: Vec<Vec<Option<i32>>>,
        }
        let cases = [
            Case {
                csv: b"t_ms,ax,ay\n0,0.10,1\n10,x,2\n21\n32,\xff,-3\n",
                config: config(&[("ay", 1.0), ("ax", 0.01)], recorded("t_ms", 1.0)),
                period_us: 10_666,
                rows: vec![vec![Some(1), Some(10)], vec![Some(2), None], vec![None, None], vec![Some(-3), None]],
            },
            Case {
                csv: b"\"date\",\"Temperature\"\n\"1\",\"2015-02-04 17:51:00\",23.18\n\"2\",\"2015-02-04 17:52:00\",nan\n",
                config: config(&[("Temperature", 0.01)], recorded("date", 600.0)),
                period_us: 100_000,
                rows: vec![vec![Some(2318)], vec![None]],
            },
            // No resolution: the bits of an f32.
            Case {
                csv: b"a\n-2.5\n7\n",
                config: config(&[("a", 0.0)], ReplayPace::Every(Duration::from_millis(5))),
                period_us: 5_000,
                rows: [-2.5f32, 7.0].map(|value| vec![Some(value.to_bits().cast_signed())]).to_vec(),
            },
            Case {
                csv: b"a\n1e12\n7\n",
                config: config(&[("a", 1.0)], ReplayPace::Every(Duration::from_millis(5))),
                period_us: 5_000,
                rows: vec![vec![None], vec![Some(7)]],
            },
        ];
        for case in cases {
            let mut replay = parse(&case.config, case.csv, Wall(0)).unwrap();
            assert_eq!(replay.schedule.period, Duration::from_micros(case.period_us));
            for pass in 0..2 {
                for (row, expected) in case.rows.iter().enumerate() {
                    let position = Position((pass * case.rows.len() + row) as u64);
                    assert_eq!(replay.read(position), Ok(Item::Reading(expected.clone())));
                }
            }
            assert_eq!(replay.read(Position(2 * case.rows.len() as u64)), Err(SourceError::Ended));
        }
    }

    #[test]
    fn a_file_that_does_not_fit_its_configuration_is_refused() {
        let every = || ReplayPace::Every(Duration::from_millis(5));
        struct Case(&'static [u8], Config);
        for Case(csv, config) in [
            Case(b"a,b\n", config(&[("a", 1.0)], every())),
            Case(b"a\n1\n", config(&[("b", 1.0)], every())),
            Case(b"a\n1\n", config(&[("a", -1.0)], every())),
            Case(b"a\n1\n", config(&[], every())),
            Case(b"a\n1\n2\n", config(&[("a", 1.0)], ReplayPace::Recorded { column: "a".into(), speed: 1.0 })),
            Case(b"t_s\n1\n1\n", config(&[("t_s", 1.0)], ReplayPace::Recorded { column: "t_s".into(), speed: 1.0 })),
        ] {
            assert!(parse(&config, csv, Wall(0)).is_err(), "{csv:?}");
        }
    }
}

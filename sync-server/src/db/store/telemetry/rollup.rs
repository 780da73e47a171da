//! One-minute rollups of readings: count, minimum, maximum and sum of each column, as the source's integers; a column
//! of floats, which declares no resolution, has none.
//!
//! Invariant: a reading is counted once, in the transaction that stores it, in the minute of its wall time; rollups outlive blocks. What
//! came degraded first stays counted as its buckets were when it comes better. Not here: buckets of any width (`series`).

use std::{collections::BTreeMap, ops::ControlFlow};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use wayside_common::{degraded::Bucket, reading::Column, wire};

use crate::db::sql::{Tx, params};

pub const MINUTE_MS: i64 = 60_000;
/// A minute in which a device changes its columns more often counts readings alone from there on.
const MAX_COLUMNS: usize = 512;

/// What was sensed in one minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    pub readings: u64,
    /// Of these, how many were counted out of buckets.
    pub degraded: u64,
    pub columns: Vec<ColumnRollup>,
}

/// A column as it was declared; another resolution is another entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnRollup {
    pub column: Column,
    /// Of present values.
    pub count: u64,
    pub sum: i64,
    pub min: i32,
    pub max: i32,
}

/// The minutes that one batch touches.
#[derive(Default)]
pub struct Minutes(BTreeMap<i64, Minute>);

impl Minutes {
    pub fn reading(&mut self, wall: i64, columns: &[Column], values: &[Option<i32>]) {
        let minute = self.0.entry(wall.div_euclid(MINUTE_MS)).or_default();
        minute.readings += 1;
        for (at, (column, value)) in columns.iter().zip(values).enumerate() {
            if let (Some(value), false) = (*value, column.is_float()) {
                minute.add(at, &ColumnRollup { column: column.clone(), count: 1, sum: i64::from(value), min: value, max: value });
            }
        }
    }

    /// A mean stands for every reading of its bucket.
    pub fn bucket(&mut self, wall: i64, columns: &[Column], bucket: &Bucket) {
        let minute = self.0.entry(wall.div_euclid(MINUTE_MS)).or_default();
        let count = u64::from(bucket.len);
        (minute.readings, minute.degraded) = (minute.readings + count, minute.degraded + count);
        for (at, column) in columns.iter().enumerate() {
            if let (Some(mean), Some(min), Some(max), false) = (bucket.means[at], bucket.minima[at], bucket.maxima[at], column.is_float()) {
                minute.add(at, &ColumnRollup { column: column.clone(), count, sum: i64::from(mean) * count as i64, min, max });
            }
        }
    }

    /// Adds what was counted to what is stored.
    pub fn store(self, tx: &Tx, source: i64) -> anyhow::Result<()> {
        for (number, minute) in self.0 {
            let known = tx.first("SELECT bytes FROM rollup WHERE source = $1 AND minute = $2", params![source, number], |row| {
                row.get::<_, Vec<u8>>(0)
            })?;
            let mut sum: Minute = known.map_or(Ok(Minute::default()), |bytes| wire::decode(&bytes)).context("a stored rollup")?;
            sum.readings += minute.readings;
            sum.degraded += minute.degraded;
            for (at, column) in minute.columns.iter().enumerate() {
                sum.add(at, column);
            }
            tx.execute(
                "INSERT INTO rollup (source, minute, bytes) VALUES ($1, $2, $3) ON CONFLICT (source, minute) DO UPDATE SET bytes = excluded.bytes",
                params![source, number, wire::encode(&sum)],
            )?;
        }
        Ok(())
    }
}

impl Minute {
    /// `at`: where the column is found unless the columns have changed.
    fn add(&mut self, at: usize, more: &ColumnRollup) {
        let same = |known: &ColumnRollup| known.column == more.column;
        let found = if self.columns.get(at).is_some_and(same) { Some(at) } else { self.columns.iter().position(same) };
        match found {
            Some(at) => {
                let known = &mut self.columns[at];
                known.count += more.count;
                known.sum = known.sum.saturating_add(more.sum);
                (known.min, known.max) = (known.min.min(more.min), known.max.max(more.max));
            }
            None if self.columns.len() < MAX_COLUMNS => self.columns.push(more.clone()),
            None => {}
        }
    }
}

/// Hears of each minute of `from..=to`, in order, with its first millisecond.
pub fn each(tx: &Tx, source: i64, (from, to): (i64, i64), mut hear: impl FnMut(i64, &Minute)) -> anyhow::Result<()> {
    let sql = "SELECT minute, bytes FROM rollup WHERE source = $1 AND minute >= $2 AND minute <= $3 ORDER BY minute";
    tx.each(sql, params![source, from.div_euclid(MINUTE_MS), to.div_euclid(MINUTE_MS)], |row| {
        let minute: Minute = wire::decode(&row.get::<_, Vec<u8>>(1)?).context("a stored rollup")?;
        hear(row.get::<_, i64>(0)?.saturating_mul(MINUTE_MS), &minute);
        Ok(ControlFlow::Continue(()))
    })
}

/// First and last millisecond of what is rolled up.
pub fn extent(tx: &Tx, source: i64) -> anyhow::Result<Option<(i64, i64)>> {
    let sql = "SELECT min(minute), max(minute) FROM rollup WHERE source = $1";
    let (first, last): (Option<i64>, Option<i64>) = tx.one(sql, params![source], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let span = |(first, last): (i64, i64)| (first.saturating_mul(MINUTE_MS), last.saturating_mul(MINUTE_MS).saturating_add(MINUTE_MS - 1));
    Ok(first.zip(last).map(span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_column_is_found_wherever_it_stands_and_another_resolution_is_another_column() {
        let (ax, ay) = (fixture::column("ax"), fixture::column("ay"));
        let finer = Column { lsb: 0.25, ..ax.clone() };
        let mut minutes = Minutes::default();
        minutes.reading(0, &[ax.clone(), ay.clone()], &[Some(3), None]);
        minutes.reading(1, &[ay.clone(), ax.clone()], &[Some(-7), Some(5)]);
        minutes.reading(59_999, &[finer.clone()], &[Some(100)]);
        minutes.reading(-1, &[ay.clone()], &[Some(1)]);
        assert_eq!(minutes.0.keys().copied().collect::<Vec<_>>(), [-1, 0]);
        let minute = &minutes.0[&0];
        assert_eq!((minute.readings, minute.degraded), (3, 0));
        let found: Vec<_> = minute.columns.iter().map(|c| (&c.column, c.count, c.sum, c.min, c.max)).collect();
        assert_eq!(found, [(&ax, 2, 8, 3, 5), (&ay, 1, -7, -7, -7), (&finer, 1, 100, 100, 100)]);
    }
}

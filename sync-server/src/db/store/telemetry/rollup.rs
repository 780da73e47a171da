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

/// The minutes that one batch touches; all its records have the same columns.
pub struct Minutes<'a> {
    columns: &'a [Column],
    counted: BTreeMap<i64, Counted>,
}

#[derive(Default)]
struct Counted {
    readings: u64,
    degraded: u64,
    /// Of each column; nothing where it had no value.
    columns: Vec<Option<Values>>,
}

#[derive(Clone, Copy)]
struct Values {
    count: u64,
    sum: i64,
    min: i32,
    max: i32,
}

impl Values {
    fn and(self, more: Self) -> Self {
        Self {
            count: self.count + more.count,
            sum: self.sum.saturating_add(more.sum),
            min: self.min.min(more.min),
            max: self.max.max(more.max),
        }
    }
}

impl<'a> Minutes<'a> {
    pub fn new(columns: &'a [Column]) -> Self {
        Self { columns, counted: BTreeMap::new() }
    }

    pub fn reading(&mut self, wall: i64, values: &[Option<i32>]) {
        let minute = self.minute(wall);
        minute.readings += 1;
        for (known, value) in minute.columns.iter_mut().zip(values) {
            if let Some(value) = *value {
                let one = Values { count: 1, sum: i64::from(value), min: value, max: value };
                *known = Some(known.map_or(one, |known| known.and(one)));
            }
        }
    }

    /// A mean stands for every reading of its bucket.
    pub fn bucket(&mut self, wall: i64, bucket: &Bucket) {
        let minute = self.minute(wall);
        let count = u64::from(bucket.len);
        (minute.readings, minute.degraded) = (minute.readings + count, minute.degraded + count);
        for (at, known) in minute.columns.iter_mut().enumerate() {
            if let (Some(mean), Some(min), Some(max)) = (bucket.means[at], bucket.minima[at], bucket.maxima[at]) {
                let all = Values { count, sum: i64::from(mean) * i64::from(bucket.len), min, max };
                *known = Some(known.map_or(all, |known| known.and(all)));
            }
        }
    }

    fn minute(&mut self, wall: i64) -> &mut Counted {
        let width = self.columns.len();
        self.counted.entry(wall.div_euclid(MINUTE_MS)).or_insert_with(|| Counted { columns: vec![None; width], ..Counted::default() })
    }

    /// Adds what was counted to what is stored.
    pub fn store(self, tx: &Tx, source: i64) -> anyhow::Result<()> {
        for (number, counted) in self.counted {
            let known = tx.first("SELECT bytes FROM rollup WHERE source = $1 AND minute = $2", params![source, number], |row| {
                row.get::<_, Vec<u8>>(0)
            })?;
            let mut sum: Minute = known.map_or(Ok(Minute::default()), |bytes| wire::decode(&bytes)).context("a stored rollup")?;
            sum.take(self.columns, &counted);
            tx.execute(
                "INSERT INTO rollup (source, minute, bytes) VALUES ($1, $2, $3) ON CONFLICT (source, minute) DO UPDATE SET bytes = excluded.bytes",
                params![source, number, wire::encode(&sum)],
            )?;
        }
        Ok(())
    }
}

impl Minute {
    fn take(&mut self, columns: &[Column], counted: &Counted) {
        self.readings += counted.readings;
        self.degraded += counted.degraded;
        for (at, (column, values)) in columns.iter().zip(&counted.columns).enumerate() {
            if let (Some(values), false) = (values, column.is_float()) {
                self.add(at, column, *values);
            }
        }
    }

    /// `at`: where the column is found unless the columns have changed.
    fn add(&mut self, at: usize, column: &Column, values: Values) {
        let same = |known: &ColumnRollup| known.column == *column;
        let found = if self.columns.get(at).is_some_and(same) { Some(at) } else { self.columns.iter().position(same) };
        match found {
            Some(at) => {
                let known = &mut self.columns[at];
                let sum = Values { count: known.count, sum: known.sum, min: known.min, max: known.max }.and(values);
                (known.count, known.sum, known.min, known.max) = (sum.count, sum.sum, sum.min, sum.max);
            }
            None if self.columns.len() < MAX_COLUMNS => {
                let Values { count, sum, min, max } = values;
                self.columns.push(ColumnRollup { column: column.clone(), count, sum, min, max });
            }
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
        let mut minute = Minute::default();
        let batches = [
            (vec![ax.clone(), ay.clone()], 0, vec![Some(3), None]),
            (vec![ay.clone(), ax.clone()], 1, vec![Some(-7), Some(5)]),
            (vec![finer.clone()], 59_999, vec![Some(100)]),
        ];
        for (columns, wall, values) in &batches {
            let mut minutes = Minutes::new(columns);
            minutes.reading(*wall, values);
            minutes.reading(*wall - MINUTE_MS, values);
            assert_eq!(minutes.counted.keys().copied().collect::<Vec<_>>(), [-1, 0]);
            minute.take(columns, &minutes.counted[&0]);
        }
        assert_eq!((minute.readings, minute.degraded), (3, 0));
        let found: Vec<_> = minute.columns.iter().map(|c| (&c.column, c.count, c.sum, c.min, c.max)).collect();
        assert_eq!(found, [(&ax, 2, 8, 3, 5), (&ay, 1, -7, -7, -7), (&finer, 1, 100, 100, 100)]);
    }
}

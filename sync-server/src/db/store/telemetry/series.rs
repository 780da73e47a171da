//! A range of time in so many buckets: minimum, maximum and mean of each column, out of readings or, for wide buckets, out of rollups.
//!
//! Invariant: values are in the column's unit, whatever resolution it had when. Not here: single readings (`reading`).

use std::ops::ControlFlow;

use wayside_common::{id::DeviceId, reading::Column};

use super::{
    coverage, degraded,
    record::StoredBlock,
    rollup::{self, MINUTE_MS, Minute},
    sources,
};
use crate::db::{
    sql::{Tx, params},
    telemetry::{Range, Series, SeriesBucket, SeriesColumn, SeriesOf, Summary},
};

pub fn series(tx: &Tx, device: &DeviceId, asked: &Range) -> anyhow::Result<Series> {
    let mut series = Series::default();
    let Some((source, _)) = sources(tx, device, "readings", Some(asked.source.as_str()))?.pop() else { return Ok(series) };
    let Some(stored) = rollup::extent(tx, source)? else { return Ok(series) };
    // Nothing lies outside, so that a range without bounds has buckets of a useful width.
    let (from, to) = (asked.from.max(stored.0), asked.to.min(stored.1));
    let count = asked.limit.max(1);
    if from <= to {
        let width = (i128::from(to) - i128::from(from) + 1).div_euclid(i128::from(count)) + 1;
        series.width_ms = i64::try_from(width).unwrap_or(i64::MAX);
        series.from_ms = from;
        if series.width_ms >= MINUTE_MS {
            series.of = SeriesOf::Rollups;
            series.from_ms = from.div_euclid(MINUTE_MS) * MINUTE_MS;
            series.width_ms = series.width_ms.div_euclid(MINUTE_MS).saturating_add(1).saturating_mul(MINUTE_MS);
            rollup::each(tx, source, (from, to), |wall, minute| add_minute(&mut series, wall, minute))?;
        } else {
            add_readings(tx, source, (from, to), &mut series)?;
            add_buckets(tx, source, asked, (from, to), &mut series)?;
        }
        series.buckets.sort_by_key(|bucket| bucket.from_ms);
    }
    // The gaps are those of the range as it was asked for: what was never stored lies outside as well.
    let span = (asked.from, asked.to);
    series.coverage = match series.of {
        SeriesOf::Readings => coverage::of_readings(tx, device, source, asked.source.as_str(), span)?,
        SeriesOf::Rollups => coverage::of_rollups(tx, device, source, asked.source.as_str(), span)?,
    };
    let width = series.columns.len();
    series.buckets.iter_mut().for_each(|bucket| bucket.values.resize(width, None));
    Ok(series)
}

fn add_minute(series: &mut Series, wall: i64, minute: &Minute) {
    let bucket = bucket_at(series, wall);
    series.buckets[bucket].count += minute.readings;
    series.buckets[bucket].degraded += minute.degraded;
    for rolled in &minute.columns {
        let value = |raw: i32| rolled.column.value(raw);
        let mean = rolled.column.offset + rolled.column.lsb * (rolled.sum as f64 / rolled.count.max(1) as f64);
        add(series, bucket, &rolled.column, (value(rolled.min), value(rolled.max), mean, rolled.count));
    }
}

fn add_readings(tx: &Tx, source: i64, (from, to): (i64, i64), series: &mut Series) -> anyhow::Result<()> {
    let sql = "SELECT first_seq, clock, bytes FROM block WHERE source = $1 AND last_wall >= $2 AND first_wall <= $3";
    tx.each(sql, params![source, from, to], |row| {
        let block = StoredBlock::read(row)?;
        for reading in block.block.unpack()? {
            let wall = block.wall(&reading).0;
            if !(from..=to).contains(&wall) {
                continue;
            }
            let bucket = bucket_at(series, wall);
            series.buckets[bucket].count += 1;
            for (column, raw) in block.block.columns.iter().zip(&reading.values) {
                if let Some(value) = raw.map(|raw| column.value(raw)) {
                    add(series, bucket, column, (value, value, value, 1));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

fn add_buckets(tx: &Tx, source: i64, asked: &Range, (from, to): (i64, i64), series: &mut Series) -> anyhow::Result<()> {
    let range = Range { from, to, limit: u32::MAX, ..asked.clone() };
    for stretch in degraded::range(tx, source, &range)?.0 {
        for row in &stretch.buckets {
            let bucket = bucket_at(series, row.from_ms.max(from));
            series.buckets[bucket].count += row.count;
            series.buckets[bucket].degraded += row.count;
            for (at, column) in stretch.columns.iter().enumerate() {
                if let (Some(min), Some(max), Some(mean)) = (row.minima[at], row.maxima[at], row.means[at]) {
                    add(series, bucket, column, (column.value(min), column.value(max), column.value(mean), row.count));
                }
            }
        }
    }
    Ok(())
}

/// The place of the bucket that holds an instant; only buckets that hold something are made.
fn bucket_at(series: &mut Series, wall: i64) -> usize {
    let width = i128::from(series.width_ms);
    let number = (i128::from(wall) - i128::from(series.from_ms)).div_euclid(width);
    let from_ms = i64::try_from(i128::from(series.from_ms) + number * width).unwrap_or(i64::MIN);
    // What comes is nearly in the order of time.
    if let Some(at) = series.buckets.iter().rposition(|bucket| bucket.from_ms == from_ms) {
        return at;
    }
    series.buckets.push(SeriesBucket { from_ms, count: 0, degraded: 0, values: Vec::new() });
    series.buckets.len() - 1
}

fn add(series: &mut Series, bucket: usize, column: &Column, (min, max, mean, count): (f64, f64, f64, u64)) {
    let same = |known: &SeriesColumn| known.name == column.name && known.unit == column.unit;
    let at = series.columns.iter().position(same).unwrap_or_else(|| {
        series.columns.push(SeriesColumn { name: column.name.clone(), unit: column.unit.clone() });
        series.columns.len() - 1
    });
    let values = &mut series.buckets[bucket].values;
    if values.len() <= at {
        values.resize(at + 1, None);
    }
    let more = Summary { min, max, mean, count };
    values[at] = Some(match &values[at] {
        None => more,
        Some(known) => Summary {
            min: known.min.min(min),
            max: known.max.max(max),
            mean: known.mean + (mean - known.mean) * (count as f64 / (known.count + count).max(1) as f64),
            count: known.count + count,
        },
    });
}

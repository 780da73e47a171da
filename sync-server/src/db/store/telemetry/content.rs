//! What is stored of each stream, found by reading the content and not by trusting the keys.
//!
//! Invariant: positions come out of the stored records themselves, so that a position stored twice under two names shows. Nothing
//! is cached. Not here: the receiver's row.

use std::{collections::BTreeMap, ops::ControlFlow};

use wayside_common::{id::DeviceId, wire};

use super::{degraded, record::StoredBlock, retention};
use crate::db::{
    sql::{Tx, params},
    telemetry::{ReportRow, StreamContent},
};

struct Row {
    id: i64,
    source: i64,
    kind: String,
    content: StreamContent,
}

/// In the order of epochs.
pub fn streams(tx: &Tx, device: &DeviceId) -> anyhow::Result<Vec<StreamContent>> {
    let rows = rows(tx, device)?;
    // Of earlier epochs, per source and kind.
    let mut earlier: BTreeMap<(i64, String), Vec<(u64, u64)>> = BTreeMap::new();
    let mut contents = Vec::with_capacity(rows.len());
    for Row { id, source, kind, mut content } in rows {
        let (mut positions, claims) = match kind.as_str() {
            "readings" => (reading_positions(tx, id)?, degraded::positions(tx, id)?),
            "frames" => (frame_positions(tx, id)?, Vec::new()),
            _ => (Vec::new(), Vec::new()),
        };
        positions.sort_unstable();
        let seen = earlier.entry((source, kind)).or_default();
        let before = positions.len();
        positions.dedup();
        let repeated = positions.iter().filter(|&&position| contains(seen, position)).count();
        content.positions = merge(positions.iter().map(|&position| (position, position)).collect());
        let claimed = count(&claims);
        content.degraded = without(&without(&merge(claims), &content.positions), seen);
        content.duplicate_positions = (before - positions.len() + repeated) as u64 + claimed - count(&content.degraded);
        *seen = merge(seen.iter().chain(&content.positions).chain(&content.degraded).copied().collect());
        content.retired = without(&merge(retention::positions(tx, id)?), seen);
        contents.push(content);
    }
    Ok(contents)
}

fn rows(tx: &Tx, device: &DeviceId) -> anyhow::Result<Vec<Row>> {
    tx.rows(
        "SELECT stream.id, source, kind, epoch, source.name, watermark, ranges, records, redelivered, differing, replaced
         FROM stream JOIN source ON source.id = stream.source WHERE stream.device = $1 ORDER BY epoch_counter, epoch, source.name, kind",
        params![device.as_str()],
        |row| {
            let (kind, source): (String, String) = (row.get(2)?, row.get(4)?);
            let content = StreamContent {
                epoch: row.get(3)?,
                stream: format!("{source}.{kind}"),
                watermark: row.get(5)?,
                ranges: wire::decode(&row.get::<_, Vec<u8>>(6)?)?,
                records: row.get(7)?,
                positions: Vec::new(),
                degraded: Vec::new(),
                retired: Vec::new(),
                duplicate_positions: 0,
                redelivered: row.get(8)?,
                differing: row.get(9)?,
                replaced: row.get(10)?,
            };
            Ok(Row { id: row.get(0)?, source: row.get(1)?, kind, content })
        },
    )
}

fn reading_positions(tx: &Tx, stream: i64) -> anyhow::Result<Vec<u64>> {
    let mut positions = Vec::new();
    tx.each("SELECT first_seq, clock, bytes FROM block WHERE stream = $1 ORDER BY first_seq", params![stream], |row| {
        positions.extend(StoredBlock::read(row)?.block.unpack()?.iter().map(|reading| reading.position.0));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(positions)
}

fn frame_positions(tx: &Tx, stream: i64) -> anyhow::Result<Vec<u64>> {
    tx.rows("SELECT position FROM frame WHERE stream = $1 ORDER BY seq", params![stream], |row| row.get(0))
}

/// Sorted, disjoint, inclusive ranges.
fn contains(ranges: &[(u64, u64)], position: u64) -> bool {
    let after = ranges.partition_point(|&(from, _)| from <= position);
    after.checked_sub(1).is_some_and(|at| position <= ranges[at].1)
}

/// How many positions inclusive ranges name, one that two of them name twice.
fn count(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|(from, to)| to - from + 1).sum()
}

/// What of sorted, disjoint, inclusive ranges lies outside others of that kind.
fn without(ranges: &[(u64, u64)], others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for &(from, to) in ranges {
        let mut at = from;
        let first = others.partition_point(|&(_, end)| end < from);
        for &(begin, end) in others[first..].iter().take_while(|&&(begin, _)| begin <= to) {
            if at < begin {
                left.push((at, begin - 1));
            }
            at = at.max(end.saturating_add(1));
        }
        if at <= to {
            left.push((at, to));
        }
    }
    left
}

/// Inclusive ranges, touching ones joined.
fn merge(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, to) in ranges {
        match merged.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// Newest first.
pub fn reports(tx: &Tx, device: &DeviceId, limit: u32) -> anyhow::Result<Vec<ReportRow>> {
    tx.rows(
        "SELECT source.name, epoch, seq, wall, fact FROM report JOIN stream ON stream.id = report.stream JOIN source ON source.id = stream.source
         WHERE stream.device = $1 ORDER BY epoch_counter DESC, epoch, wall DESC, seq DESC LIMIT $2",
        params![device.as_str(), limit],
        |row| {
            let fact: String = row.get(4)?;
            Ok(ReportRow {
                source: row.get(0)?,
                epoch: row.get(1)?,
                seq: row.get(2)?,
                wall_ms: row.get(3)?,
                fact: serde_json::from_str(&fact).unwrap_or_default(),
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(merge(vec![(7, 9), (0, 0), (1, 2), (3, 5), (9, 12)]), [(0, 5), (7, 12)]);
        assert_eq!(merge(vec![(u64::MAX, u64::MAX), (0, u64::MAX)]), [(0, u64::MAX)]);
    }

    #[test]
    fn what_others_hold_is_left_out() {
        struct Case {
            ranges: &'static [(u64, u64)],
            others: &'static [(u64, u64)],
            left: &'static [(u64, u64)],
        }
        let cases = [
            Case { ranges: &[(0, 9)], others: &[], left: &[(0, 9)] },
            Case { ranges: &[(0, 9)], others: &[(0, 9)], left: &[] },
            Case { ranges: &[(0, 9), (20, 29)], others: &[(5, 22), (25, 25)], left: &[(0, 4), (23, 24), (26, 29)] },
            Case { ranges: &[(3, 4)], others: &[(0, 1), (9, 9)], left: &[(3, 4)] },
            Case { ranges: &[(3, 1 << 53)], others: &[(5, 1 << 53)], left: &[(3, 4)] },
        ];
        for case in cases {
            assert_eq!(without(case.ranges, case.others), case.left, "{:?} without {:?}", case.ranges, case.others);
        }
    }

    #[test]
    fn a_position_is_found_in_its_range() {
        let ranges = [(2, 4), (8, 8)];
        let inside: Vec<u64> = (0..10).filter(|&position| contains(&ranges, position)).collect();
        assert_eq!(inside, [2, 3, 4, 8]);
    }
}

//! The gap ledger as devices tell it, and the holes that only the server can see.
//!
//! Invariant: the ledger is cumulative; telling an entry again, or a grown one, changes no count twice. Not here: the ledger of the device.

use rusqlite::{Transaction, params};
use wayside_common::{
    fleet::{Hello, StreamHold},
    gap::{Extent, Gap, Reason},
    id::DeviceId,
    sync::receiver::StreamRow,
    wire,
};

use super::int;
use crate::db::telemetry::GapEntry;

/// Takes the entries in; gives how many are new.
pub fn take(tx: &Transaction, device: &DeviceId, ledger: &[Gap]) -> anyhow::Result<u64> {
    let mut new = 0;
    for gap in ledger {
        new += u64::from(take_one(tx, device, gap)?);
    }
    Ok(new)
}

/// An entry that has grown replaces what it grew from; one inside a known entry is old news.
fn take_one(tx: &Transaction, device: &DeviceId, gap: &Gap) -> anyhow::Result<bool> {
    let (id, epoch, stream, reason) = (device.as_str(), gap.epoch.to_string(), gap.stream.to_string(), gap.reason.as_str());
    let replaced = match gap.extent {
        Extent::Exact { first_seq, last_seq } => {
            let (first, last) = (int(first_seq)?, int(last_seq)?);
            let inside: i64 = tx.query_row(
                "SELECT count(*) FROM gap WHERE device = ?1 AND epoch = ?2 AND stream = ?3 AND first_seq <= ?4 AND last_seq >= ?5",
                params![id, epoch, stream, first, last],
                |row| row.get(0),
            )?;
            if inside > 0 {
                return Ok(false);
            }
            tx.execute(
                "DELETE FROM gap WHERE device = ?1 AND epoch = ?2 AND stream = ?3 AND first_seq >= ?4 AND last_seq <= ?5",
                params![id, epoch, stream, first, last],
            )?
        }
        Extent::Unknown { after_seq } => tx.execute(
            "DELETE FROM gap WHERE device = ?1 AND epoch = ?2 AND stream = ?3 AND first_seq IS NULL AND after_seq IS ?4 AND reason = ?5
             AND span_from = ?6",
            params![id, epoch, stream, after_seq.map(int).transpose()?, reason, gap.span.0.0],
        )?,
    };
    insert(tx, device, gap)?;
    Ok(replaced == 0)
}

fn insert(tx: &Transaction, device: &DeviceId, gap: &Gap) -> anyhow::Result<()> {
    let (first, last, after) = match gap.extent {
        Extent::Exact { first_seq, last_seq } => (Some(int(first_seq)?), Some(int(last_seq)?), None),
        Extent::Unknown { after_seq } => (None, None, after_seq.map(int).transpose()?),
    };
    tx.execute(
        "INSERT INTO gap (device, epoch, epoch_counter, stream, first_seq, last_seq, after_seq, from_position, to_position, span_from, span_to, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            device.as_str(),
            gap.epoch.to_string(),
            gap.epoch.counter,
            gap.stream.to_string(),
            first,
            last,
            after,
            gap.positions.map(|(from, _)| int(from.0)).transpose()?,
            gap.positions.map(|(_, to)| int(to.0)).transpose()?,
            gap.span.0.0,
            gap.span.1.0,
            gap.reason.as_str()
        ],
    )?;
    Ok(())
}

/// What the device holds no more, what no ledger explains and what is not here was acked by a store that is gone.
/// Gives how many stretches were found anew.
pub fn find_lost(tx: &Transaction, device: &DeviceId, hello: &Hello) -> anyhow::Result<u64> {
    let mut found = 0;
    for hold in &hello.streams {
        let mut explained = committed(tx, device, hold)?;
        explained.extend(exact(tx, device, hold)?);
        for (from, to) in holes(explained, hold.lowest_held) {
            let span = (hello.clock.wall, hello.clock.wall);
            let extent = Extent::Exact { first_seq: from, last_seq: to - 1 };
            let gap = Gap { epoch: hold.epoch, stream: hold.stream.clone(), extent, positions: None, span, reason: Reason::LostByServer };
            insert(tx, device, &gap)?;
            found += 1;
        }
    }
    Ok(found)
}

/// What of `0..end` no range `from..to` covers.
fn holes(mut covered: Vec<(u64, u64)>, end: u64) -> Vec<(u64, u64)> {
    covered.sort_unstable();
    let mut holes = Vec::new();
    let mut at = 0;
    for (from, to) in covered {
        if at < from.min(end) {
            holes.push((at, from.min(end)));
        }
        at = at.max(to);
    }
    if at < end {
        holes.push((at, end));
    }
    holes
}

fn committed(tx: &Transaction, device: &DeviceId, hold: &StreamHold) -> anyhow::Result<Vec<(u64, u64)>> {
    let mut statement = tx.prepare(
        "SELECT watermark, ranges FROM stream JOIN source ON source.id = stream.source
         WHERE stream.device = ?1 AND epoch = ?2 AND source.name = ?3 AND kind = ?4",
    )?;
    let mut rows =
        statement.query(params![device.as_str(), hold.epoch.to_string(), hold.stream.source.as_str(), hold.stream.kind.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(Vec::new()) };
    let row = StreamRow { watermark: row.get::<_, i64>(0)? as u64, ranges: wire::decode(&row.get::<_, Vec<u8>>(1)?)? };
    Ok(row.ranges.into_iter().chain([(0, row.watermark)]).collect())
}

fn exact(tx: &Transaction, device: &DeviceId, hold: &StreamHold) -> anyhow::Result<Vec<(u64, u64)>> {
    let mut statement =
        tx.prepare("SELECT first_seq, last_seq FROM gap WHERE device = ?1 AND epoch = ?2 AND stream = ?3 AND first_seq IS NOT NULL")?;
    let rows = statement.query_map(params![device.as_str(), hold.epoch.to_string(), hold.stream.to_string()], |row| {
        Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64 + 1))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn list(tx: &Transaction, device: &DeviceId) -> anyhow::Result<Vec<GapEntry>> {
    let mut statement = tx.prepare(
        "SELECT epoch, stream, from_position, to_position, first_seq, last_seq, after_seq, span_from, span_to, reason
         FROM gap WHERE device = ?1 ORDER BY epoch_counter, stream, span_from, coalesce(first_seq, after_seq), id",
    )?;
    let number = |row: &rusqlite::Row, at: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(|n| n as u64));
    let rows = statement.query_map(params![device.as_str()], |row| {
        let (first_seq, last_seq) = (number(row, 4)?, number(row, 5)?);
        let count = first_seq.zip(last_seq).map(|(first, last)| last - first + 1);
        Ok(GapEntry {
            epoch: row.get(0)?,
            stream: row.get(1)?,
            from: number(row, 2)?,
            to: number(row, 3)?,
            first_seq,
            last_seq,
            after_seq: number(row, 6)?,
            span: (row.get(7)?, row.get(8)?),
            count,
            unknown: count.is_none(),
            reason: row.get(9)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_what_no_range_covers() {
        struct Case {
            covered: &'static [(u64, u64)],
            end: u64,
            holes: &'static [(u64, u64)],
        }
        let cases = [
            Case { covered: &[], end: 0, holes: &[] },
            Case { covered: &[], end: 5, holes: &[(0, 5)] },
            Case { covered: &[(0, 5)], end: 5, holes: &[] },
            Case { covered: &[(3, 9), (0, 2)], end: 5, holes: &[(2, 3)] },
            Case { covered: &[(0, 2), (8, 9)], end: 5, holes: &[(2, 5)] },
            Case { covered: &[(0, 4), (1, 2)], end: 6, holes: &[(4, 6)] },
        ];
        for case in cases {
            assert_eq!(holes(case.covered.to_vec(), case.end), case.holes, "{:?} to {}", case.covered, case.end);
        }
    }
}

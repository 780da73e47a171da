//! The gap ledger as devices tell it, and the holes that only the server can see.
//!
//! Invariant: the ledger is cumulative; telling an entry again, or a grown one, changes no count twice. Not here: the ledger of the device.

use std::{collections::BTreeMap, ops::ControlFlow};

use wayside_common::{
    fleet::Hello,
    gap::{Extent, Gap, Reason},
    id::DeviceId,
    wire,
};

use super::{degraded, int, record, retention};
use crate::db::{
    sql::{Row, Tx, params},
    telemetry::GapEntry,
};

/// Takes the entries in; gives how many are new.
pub fn take(tx: &Tx, device: &DeviceId, ledger: &[Gap]) -> anyhow::Result<u64> {
    let mut new = 0;
    for gap in ledger {
        new += u64::from(take_one(tx, device, gap)?);
    }
    Ok(new)
}

/// An entry that has grown replaces what it grew from; one inside a known entry is old news.
fn take_one(tx: &Tx, device: &DeviceId, gap: &Gap) -> anyhow::Result<bool> {
    let (id, epoch, stream, reason) = (device.as_str(), gap.epoch.to_string(), gap.stream.to_string(), gap.reason.as_str());
    let replaced = match gap.extent {
        Extent::Exact { first_seq, last_seq } => {
            let (first, last) = (int(first_seq)?, int(last_seq)?);
            let inside: i64 = tx.one(
                "SELECT count(*) FROM gap WHERE device = $1 AND epoch = $2 AND stream = $3 AND first_seq <= $4 AND last_seq >= $5",
                params![id, epoch, stream, first, last],
                |row| row.get(0),
            )?;
            if inside > 0 {
                return Ok(false);
            }
            tx.execute(
                "DELETE FROM gap WHERE device = $1 AND epoch = $2 AND stream = $3 AND first_seq >= $4 AND last_seq <= $5",
                params![id, epoch, stream, first, last],
            )?
        }
        Extent::Unknown { after_seq } => tx.execute(
            "DELETE FROM gap WHERE device = $1 AND epoch = $2 AND stream = $3 AND first_seq IS NULL AND after_seq IS NOT DISTINCT FROM $4 AND reason = $5
             AND span_from = $6",
            params![id, epoch, stream, after_seq.map(int).transpose()?, reason, gap.span.0.0],
        )?,
    };
    insert(tx, device, gap)?;
    Ok(replaced == 0)
}

fn insert(tx: &Tx, device: &DeviceId, gap: &Gap) -> anyhow::Result<()> {
    let (first, last, after) = match gap.extent {
        Extent::Exact { first_seq, last_seq } => (Some(int(first_seq)?), Some(int(last_seq)?), None),
        Extent::Unknown { after_seq } => (None, None, after_seq.map(int).transpose()?),
    };
    tx.execute(
        "INSERT INTO gap (device, epoch, epoch_counter, stream, first_seq, last_seq, after_seq, from_position, to_position, span_from, span_to, reason)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
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

/// Remembers what the device holds no more, even of streams that this store knows nothing of.
pub fn note_holds(tx: &Tx, device: &DeviceId, hello: &Hello) -> anyhow::Result<()> {
    let sql = "INSERT INTO hold (device, epoch, epoch_counter, stream, lowest_held) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (device, epoch, stream) DO UPDATE SET lowest_held = excluded.lowest_held WHERE excluded.lowest_held > hold.lowest_held";
    for hold in &hello.streams {
        let (epoch, stream) = (hold.epoch.to_string(), hold.stream.to_string());
        tx.execute(sql, params![device.as_str(), epoch, hold.epoch.counter, stream, int(hold.lowest_held)?])?;
    }
    Ok(())
}

/// Of how many streams the device says that more was acked than this store has committed, and no ledger explains it. Looks at the
/// streams' rows alone, for it runs in every hello.
pub fn streams_with_loss(tx: &Tx, device: &DeviceId, hello: &Hello) -> anyhow::Result<u64> {
    let sql = "SELECT watermark, ranges FROM stream JOIN source ON source.id = stream.source
         WHERE stream.device = $1 AND epoch = $2 AND source.name = $3 AND kind = $4";
    let mut with_loss = 0;
    for hold in &hello.streams {
        let epoch = hold.epoch.to_string();
        let mut explained = exact(tx, device, &epoch, &hold.stream.to_string())?;
        let (source, kind) = (hold.stream.source.as_str(), hold.stream.kind.as_str());
        let found = tx.first(sql, params![device.as_str(), epoch, source, kind], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        if let Some((watermark, ranges)) = found {
            explained.push((0, watermark));
            explained.extend(wire::decode::<Vec<(u64, u64)>>(&ranges)?);
        }
        with_loss += u64::from(!holes(explained, hold.lowest_held).is_empty());
    }
    Ok(with_loss)
}

/// What the device holds no more, is not stored, and no ledger explains: acked by a store that is gone, or its ledger is lost.
/// Computed anew each time, so that a ledger that comes later takes it back.
fn lost(tx: &Tx, device: &DeviceId) -> anyhow::Result<Vec<GapEntry>> {
    let mut lost = Vec::new();
    for place in places(tx, device)? {
        // Below its watermark a stream that was never told to skip has every record: nothing to look for, and no batch to read.
        if place.end <= place.watermark && place.records >= place.watermark + above(&place.ranges)? {
            continue;
        }
        let stored = stored(tx, device, &place.epoch, &place.stream)?;
        let mut explained: Vec<(u64, u64)> = stored.iter().map(|run| (run.from, run.to)).collect();
        explained.extend(exact(tx, device, &place.epoch, &place.stream)?);
        for (from, to) in holes(explained, place.end) {
            let (positions, count) = (positions_around(tx, device, &place, from, to)?, to - from);
            lost.push(GapEntry {
                epoch: place.epoch.clone(),
                stream: place.stream.clone(),
                from: positions.map(|(from, _)| from),
                to: positions.map(|(_, to)| to),
                exact: positions.is_some_and(|(from, to)| to - from + 1 == count),
                first_seq: Some(from),
                last_seq: Some(to - 1),
                after_seq: None,
                span: span_around(&stored, from, to),
                count: Some(count),
                unknown: false,
                reason: Reason::LostByServer.as_str().into(),
            });
        }
    }
    Ok(lost)
}

/// A stream of one epoch as the device tells of it, or as it is stored, or both.
struct Told {
    epoch: String,
    counter: i64,
    stream: String,
    /// The row of the stream, where there is one.
    id: Option<i64>,
    /// Below it nothing more will come.
    end: u64,
    watermark: u64,
    ranges: Option<Vec<u8>>,
    records: u64,
}

fn places(tx: &Tx, device: &DeviceId) -> anyhow::Result<Vec<Told>> {
    let sql = "SELECT epoch_counter, epoch, source.name || '.' || kind, stream.id, watermark, watermark, ranges, records FROM stream
         JOIN source ON source.id = stream.source WHERE stream.device = $1
         UNION ALL
         SELECT epoch_counter, epoch, stream, NULL, lowest_held, 0, NULL, 0 FROM hold WHERE device = $1";
    let mut places: BTreeMap<(i64, String, String), Told> = BTreeMap::new();
    tx.each(sql, params![device.as_str()], |row| {
        let (epoch, stream): (String, String) = (row.get(1)?, row.get(2)?);
        let counter: i64 = row.get(0)?;
        let fresh =
            Told { epoch: epoch.clone(), counter, stream: stream.clone(), id: None, end: 0, watermark: 0, ranges: None, records: 0 };
        let place = places.entry((counter, epoch, stream)).or_insert(fresh);
        place.end = place.end.max(row.get(4)?);
        if let Some(id) = row.get(3)? {
            (place.id, place.ranges) = (Some(id), row.get(6)?);
            (place.watermark, place.records) = (row.get(5)?, row.get(7)?);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(places.into_values().collect())
}

/// The positions between the records, or the entries of the ledger, on both sides of a hole of `from..to`. `None`: a side is not
/// known, or its records are no positions of a source.
fn positions_around(tx: &Tx, device: &DeviceId, place: &Told, from: u64, to: u64) -> anyhow::Result<Option<(u64, u64)>> {
    let name = [device.as_str(), &place.epoch, &place.stream];
    let kind = place.stream.rsplit('.').next().unwrap_or_default();
    let stored = |seq: Option<u64>| match (place.id, seq) {
        (Some(stream), Some(seq)) => position_at(tx, stream, kind, seq),
        _ => Ok(None),
    };
    // What follows an epoch's last record begins after its seq; what came before its first one, after none.
    let gap = |column: &str, condition: &str, seq: Option<u64>| -> anyhow::Result<Option<u64>> {
        let sql = format!("SELECT {column} FROM gap WHERE device = $1 AND epoch = $2 AND stream = $3 AND {condition}");
        let found: Option<u64> = tx.one(&sql, params![name[0], name[1], name[2], seq.map(int).transpose()?], |row| row.get(0))?;
        Ok(found)
    };
    let (last, next) = (from.checked_sub(1), Some(to));
    let before = match stored(last)? {
        Some(position) => Some(position),
        None if last.is_some() => gap("max(to_position)", "last_seq = $4", last)?,
        None => match gap("max(to_position)", "first_seq IS NULL AND after_seq IS NOT DISTINCT FROM $4", None)? {
            Some(position) => Some(position),
            None => end_of_epoch_before(tx, device, place)?,
        },
    };
    let after = match stored(next)? {
        Some(position) => Some(position),
        None => match gap("min(from_position)", "first_seq = $4", next)? {
            Some(position) => Some(position),
            None => gap("min(from_position)", "first_seq IS NULL AND after_seq = $4", Some(to - 1))?,
        },
    };
    Ok(before.zip(after).map(|(before, after)| (before.saturating_add(1), after.saturating_sub(1))).filter(|(from, to)| from <= to))
}

/// The last position of what the device says was not running before this epoch. An entry of an older epoch would be no neighbour:
/// whatever is stored or told since then lies between.
fn end_of_epoch_before(tx: &Tx, device: &DeviceId, place: &Told) -> anyhow::Result<Option<u64>> {
    tx.one(
        "SELECT max(to_position) FROM gap WHERE device = $1 AND stream = $2 AND first_seq IS NULL AND epoch_counter = $3
         AND 1 = (SELECT count(DISTINCT other.epoch) FROM gap AS other WHERE other.device = $1 AND other.epoch_counter = $3)",
        params![device.as_str(), place.stream, place.counter - 1],
        |row| row.get(0),
    )
}

/// Of the record with this seq, where it is stored.
fn position_at(tx: &Tx, stream: i64, kind: &str, seq: u64) -> anyhow::Result<Option<u64>> {
    match kind {
        "frames" => {
            let sql = "SELECT position FROM frame WHERE stream = $1 AND seq = $2";
            tx.first(sql, params![stream, int(seq)?], |row| row.get(0))
        }
        "readings" => match record::position_of(tx, stream, seq)? {
            Some(position) => Ok(Some(position)),
            None => {
                let edges = degraded::around(tx, stream, seq)?;
                let degraded = edges.and_then(|edges| edges.into_iter().find(|(edge, _)| *edge == seq)).map(|(_, position)| position);
                degraded.map_or_else(|| retention::position_at(tx, stream, seq), |position| Ok(Some(position)))
            }
        },
        _ => Ok(None),
    }
}

/// How many records a stream's row has above its watermark.
fn above(ranges: &Option<Vec<u8>>) -> anyhow::Result<u64> {
    let ranges = ranges.as_ref().map_or(Ok(Vec::new()), |bytes| wire::decode::<Vec<(u64, u64)>>(bytes))?;
    Ok(ranges.iter().map(|(from, to)| to - from).sum())
}

/// Stored seqs `from..to`, and the wall times of the first and the last.
struct Run {
    from: u64,
    to: u64,
    walls: (i64, i64),
}

fn stored(tx: &Tx, device: &DeviceId, epoch: &str, stream: &str) -> anyhow::Result<Vec<Run>> {
    let sql = "SELECT first_seq, end_seq, first_wall, last_wall FROM batch JOIN stream ON stream.id = batch.stream
         JOIN source ON source.id = stream.source
         WHERE stream.device = $1 AND epoch = $2 AND source.name || '.' || kind = $3 ORDER BY first_seq";
    tx.rows(sql, params![device.as_str(), epoch, stream], |row| {
        Ok(Run { from: row.get(0)?, to: row.get(1)?, walls: (row.get(2)?, row.get(3)?) })
    })
}

/// From the last record before to the first after; where one side has none, the other side's time alone is known.
fn span_around(stored: &[Run], from: u64, to: u64) -> (i64, i64) {
    let before = stored.iter().rev().find(|run| run.to <= from).map(|run| run.walls.1);
    let after = stored.iter().find(|run| run.from >= to).map(|run| run.walls.0);
    let either = before.or(after).unwrap_or_default();
    (before.unwrap_or(either), after.unwrap_or(either))
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

fn exact(tx: &Tx, device: &DeviceId, epoch: &str, stream: &str) -> anyhow::Result<Vec<(u64, u64)>> {
    let sql = "SELECT first_seq, last_seq FROM gap WHERE device = $1 AND epoch = $2 AND stream = $3 AND first_seq IS NOT NULL";
    tx.rows(sql, params![device.as_str(), epoch, stream], |row| Ok((row.get(0)?, row.get::<_, u64>(1)? + 1)))
}

/// The ledger, and behind it what the server finds missing itself.
pub fn list(tx: &Tx, device: &DeviceId) -> anyhow::Result<Vec<GapEntry>> {
    let sql = "SELECT epoch, stream, from_position, to_position, first_seq, last_seq, after_seq, span_from, span_to, reason
         FROM gap WHERE device = $1 ORDER BY epoch_counter, stream, span_from, coalesce(first_seq, after_seq, -1), id";
    let number = |row: &Row, at: usize| row.get::<_, Option<u64>>(at);
    let told: Vec<GapEntry> = tx.rows(sql, params![device.as_str()], |row| {
        let (first_seq, last_seq) = (number(row, 4)?, number(row, 5)?);
        let count = first_seq.zip(last_seq).map(|(first, last)| last - first + 1);
        let (from, to) = (number(row, 2)?, number(row, 3)?);
        Ok(GapEntry {
            epoch: row.get(0)?,
            stream: row.get(1)?,
            exact: from.zip(to).zip(count).is_some_and(|((from, to), count)| (to + 1).checked_sub(from) == Some(count)),
            from,
            to,
            first_seq,
            last_seq,
            after_seq: number(row, 6)?,
            span: (row.get(7)?, row.get(8)?),
            count,
            unknown: count.is_none(),
            reason: row.get(9)?,
        })
    })?;
    let all: Vec<GapEntry> = told.into_iter().chain(lost(tx, device)?).collect();
    trimmed(all, |gap| stored_positions(tx, device, gap))
}

/// The positions of the gap's source that are stored, `from..=to`, as far as they lie in it.
fn stored_positions(tx: &Tx, device: &DeviceId, gap: &GapEntry) -> anyhow::Result<Vec<(u64, u64)>> {
    let (Some(from), Some(to)) = (gap.from, gap.to) else { return Ok(Vec::new()) };
    let sql = "SELECT first_position, last_position FROM stream JOIN source ON source.id = stream.source
         JOIN batch ON batch.stream = stream.id
         WHERE stream.device = $1 AND source.name || '.' || kind = $2 AND last_position >= $3 AND first_position <= $4";
    tx.rows(sql, params![device.as_str(), gap.stream, int(from)?, int(to)?], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// An entry of an unknown count is what a device could not know better: after a power cut it may name what had been sent. So it tells
/// only what is neither stored nor in another entry; of two that do not know, the earlier one tells.
fn trimmed(gaps: Vec<GapEntry>, stored: impl Fn(&GapEntry) -> anyhow::Result<Vec<(u64, u64)>>) -> anyhow::Result<Vec<GapEntry>> {
    let mut taken: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for gap in gaps.iter().filter(|gap| !gap.unknown && gap.exact) {
        taken.entry(gap.stream.clone()).or_default().extend(gap.from.zip(gap.to));
    }
    let mut left = Vec::with_capacity(gaps.len());
    for gap in gaps {
        let (Some(from), Some(to), true) = (gap.from, gap.to, gap.unknown) else {
            left.push(gap);
            continue;
        };
        let taken = taken.entry(gap.stream.clone()).or_default();
        let covered = stored(&gap)?.into_iter().chain(taken.iter().copied()).map(|(from, to)| (from, to.saturating_add(1)));
        for (from, end) in holes(covered.chain([(0, from)]).collect(), to.saturating_add(1)) {
            taken.push((from, end - 1));
            left.push(GapEntry { from: Some(from), to: Some(end - 1), ..gap.clone() });
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_could_not_know_gives_way_to_what_is_known() {
        let gap = |(from, to), unknown: bool, span| GapEntry {
            epoch: "1-0000000000000001".into(),
            stream: "imu0.readings".into(),
            from: Some(from),
            to: Some(to),
            exact: !unknown,
            first_seq: None,
            last_seq: None,
            after_seq: None,
            span: (span, span),
            count: None,
            unknown,
            reason: "crash".into(),
        };
        let told = vec![gap((10, 29), true, 1), gap((25, 40), true, 2), gap((27, 28), false, 3), gap((50, 59), true, 4)];
        let left = trimmed(told, |gap| Ok(if gap.from == Some(50) { vec![(40, 60)] } else { vec![(0, 11), (20, 21)] })).unwrap();
        let ranges: Vec<_> = left.iter().map(|gap| (gap.from.unwrap(), gap.to.unwrap(), gap.span.0)).collect();
        assert_eq!(ranges, [(12, 19, 1), (22, 26, 1), (29, 29, 1), (30, 40, 2), (27, 28, 3)]);
    }

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

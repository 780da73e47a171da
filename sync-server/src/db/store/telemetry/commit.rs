//! Batches into rows: the receiver's verdict under the stream's row, in the transaction that stores the records.
//!
//! Invariant: the stream's row and the records change together or not at all; one batch that fails takes no other with it; what is
//! stored is compared, never replaced. Not here: how a record becomes a row (`record`).

use std::collections::BTreeMap;

use anyhow::Context;
use wayside_common::{
    id::Digest,
    record::{Batch, Body},
    sync::receiver::{Ack, StreamRow, Verdict, receive},
    wire,
};

use super::{
    degraded, device, int, latest,
    record::{self, Stamp},
};
use crate::db::{
    sql::{Tx, params},
    telemetry::{Arrival, Receipt, Tally},
};

/// (epoch, stream) rows of one device; each start of an agent makes a few.
const MAX_STREAMS: i64 = 200_000;

/// Stores a group of batches, each under a savepoint of its own.
pub fn group(tx: &Tx, incarnation: u64, arrivals: &[Arrival]) -> anyhow::Result<Vec<Receipt>> {
    // Servers that share a store take the devices' rows in one order, so that none waits for another in a ring.
    let mut order: Vec<usize> = (0..arrivals.len()).collect();
    order.sort_by_key(|at| &arrivals[*at].device);
    let mut receipts: Vec<Option<Receipt>> = arrivals.iter().map(|_| None).collect();
    for at in order {
        tx.script("SAVEPOINT arrival")?;
        let receipt = match one(tx, incarnation, &arrivals[at]) {
            Ok(receipt) => receipt,
            Err(e) => {
                tx.script("ROLLBACK TO SAVEPOINT arrival")?;
                Receipt::Failed(format!("{e:#}"))
            }
        };
        tx.script("RELEASE SAVEPOINT arrival")?;
        receipts[at] = Some(receipt);
    }
    Ok(receipts.into_iter().map(|receipt| receipt.expect("the order names each arrival")).collect())
}

/// Where a batch's records go.
pub struct Place {
    pub stream: i64,
    pub source: i64,
}

/// Which seqs of a batch are stored by it.
pub struct Fresh<'a> {
    before: &'a StreamRow,
    replaced: &'a [(u64, u64)],
}

impl Fresh<'_> {
    pub fn is(&self, seq: u64) -> bool {
        self.counts(seq) || self.replaced.iter().any(|&(from, to)| (from..to).contains(&seq))
    }

    /// It was never stored in any fidelity.
    pub fn counts(&self, seq: u64) -> bool {
        !self.before.covers(seq, seq + 1)
    }
}

struct Known {
    place: Place,
    row: StreamRow,
}

fn one(tx: &Tx, incarnation: u64, arrival: &Arrival) -> anyhow::Result<Receipt> {
    let batch = &arrival.batch;
    let nonsense = || Receipt::Refused("a batch that is empty or below what the device still holds".into());
    if receive(&StreamRow::default(), batch.first_seq, batch.end_seq(), batch.lowest_held).1 == Verdict::Nonsense {
        return Ok(nonsense());
    }
    // Its row is the device's lock: no other server makes or reads a stream of it until this transaction ends.
    device::presence(tx, &arrival.device, true, arrival.received)?;
    let known = find(tx, arrival)?;
    let before = known.as_ref().map(|known| known.row.clone()).unwrap_or_default();
    let (after, verdict) = receive(&before, batch.first_seq, batch.end_seq(), batch.lowest_held);
    let ack = Ack { epoch: batch.epoch, stream: batch.stream.clone(), row: after.clone(), incarnation };
    match verdict {
        Verdict::Nonsense => return Ok(nonsense()),
        Verdict::Deferred => return Ok(Receipt::Deferred { ack }),
        Verdict::New | Verdict::Known | Verdict::Overlap => {}
    }
    let place = match known {
        Some(known) => known.place,
        None => match make(tx, arrival)? {
            Some(place) => place,
            None => return Ok(Receipt::Refused(format!("more than {MAX_STREAMS} streams of one device"))),
        },
    };
    let tally = store(tx, &place, arrival, &before, verdict)?;
    tx.execute(
        "UPDATE stream SET watermark = $1, ranges = $2, records = records + $3, redelivered = redelivered + $4, differing = differing + $5,
         replaced = replaced + $6 WHERE id = $7",
        params![
            int(after.watermark)?,
            wire::encode(&after.ranges),
            int(tally.stored)?,
            int(tally.redelivered)?,
            int(tally.differing)?,
            int(tally.replaced)?,
            place.stream
        ],
    )?;
    Ok(Receipt::Stored { ack, verdict, tally })
}

/// Stores what `before` does not cover, and what is better than what is there; compares the rest.
fn store(tx: &Tx, place: &Place, arrival: &Arrival, before: &StreamRow, verdict: Verdict) -> anyhow::Result<Tally> {
    let batch = &arrival.batch;
    let digest = Digest::of(&wire::encode(&batch.body));
    let mut tally = Tally::default();
    let replaced = if verdict == Verdict::New { Vec::new() } else { degraded::give_way(tx, place, batch)? };
    let fresh = Fresh { before, replaced: &replaced };
    if verdict != Verdict::New {
        (tally.redelivered, tally.differing) = compare(tx, place, batch, &fresh, &digest)?;
    }
    if verdict != Verdict::Known || !replaced.is_empty() {
        let inserted = record::insert(tx, place, arrival, &fresh)?;
        tally.replaced = replaced.iter().map(|(from, to)| to - from).sum();
        tally.stored = inserted.saturating_sub(tally.replaced);
        note_runs(tx, place, arrival, &fresh, &digest)?;
        latest::note(tx, place, arrival, &fresh)?;
    }
    Ok(tally)
}

/// One row per run of stored records; only a batch that was stored whole can be recognised by its digest.
fn note_runs(tx: &Tx, place: &Place, arrival: &Arrival, fresh: &Fresh, digest: &Digest) -> anyhow::Result<()> {
    let batch = &arrival.batch;
    let stamps: Vec<(u64, Stamp)> = (batch.first_seq..).zip(record::stamps(batch)?).filter(|(seq, _)| fresh.is(*seq)).collect();
    let sql = "INSERT INTO batch (stream, first_seq, end_seq, digest, received, first_wall, last_wall, first_position, last_position)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    for run in stamps.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
        let ((first_seq, first), (last_seq, last)) = (run[0], run[run.len() - 1]);
        let digest: &[u8] = if run.len() as u64 == batch.len() { &digest.0 } else { &[] };
        let (first_seq, end_seq) = (int(first_seq)?, int(last_seq + 1)?);
        let position = |stamp: Stamp| stamp.position.map(|position| int(position.0)).transpose();
        let (from, to) = (position(first)?, position(last)?);
        tx.execute(sql, params![place.stream, first_seq, end_seq, digest, arrival.received.0, first.wall, last.wall, from, to])?;
    }
    Ok(())
}

/// How many of the covered records are the same, and how many differ. One that is covered and not stored is a hole that the
/// device had announced; it stays one.
fn compare(tx: &Tx, place: &Place, batch: &Batch, fresh: &Fresh, digest: &Digest) -> anyhow::Result<(u64, u64)> {
    let (first, end) = (int(batch.first_seq)?, int(batch.end_seq())?);
    let sql = "SELECT digest FROM batch WHERE stream = $1 AND first_seq = $2 AND end_seq = $3";
    let stored: Option<Vec<u8>> = tx.first(sql, params![place.stream, first, end], |row| row.get(0))?;
    if stored.is_some_and(|stored| stored == digest.0) {
        return Ok((batch.len(), 0));
    }
    let stored: BTreeMap<u64, [u8; 16]> = match &batch.body {
        Body::Degraded(remains) => return degraded::compare(tx, place, batch, remains, fresh),
        Body::Readings(_) => record::stored_readings(tx, place, first, end)?,
        _ => record::stored_contents(tx, place, batch.stream.kind, first, end)?,
    };
    let (mut same, mut differing) = (0, 0);
    for (seq, content) in (batch.first_seq..).zip(record::contents(&batch.body)?) {
        if !fresh.is(seq) {
            match stored.get(&seq) {
                Some(other) if *other != content => differing += 1,
                _ => same += 1,
            }
        }
    }
    Ok((same, differing))
}

fn find(tx: &Tx, arrival: &Arrival) -> anyhow::Result<Option<Known>> {
    let Arrival { device, batch, .. } = arrival;
    let sql = format!(
        "SELECT stream.id, stream.source, watermark, ranges FROM stream JOIN source ON source.id = stream.source
         WHERE stream.device = $1 AND epoch = $2 AND source.name = $3 AND kind = $4{}",
        tx.lock("stream")
    );
    let (epoch, stream) = (batch.epoch.to_string(), &batch.stream);
    let found = tx.first(&sql, params![device.as_str(), epoch, stream.source.as_str(), stream.kind.as_str()], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?, row.get::<_, Vec<u8>>(3)?))
    })?;
    let Some((stream, source, watermark, ranges)) = found else { return Ok(None) };
    let ranges = wire::decode(&ranges).context("the ranges of a stream's row")?;
    Ok(Some(Known { place: Place { stream, source }, row: StreamRow { watermark: watermark as u64, ranges } }))
}

/// `None`: the device has too many streams.
fn make(tx: &Tx, arrival: &Arrival) -> anyhow::Result<Option<Place>> {
    let Arrival { device, batch, .. } = arrival;
    let sql = "UPDATE device SET streams = streams + 1 WHERE id = $1 RETURNING streams";
    let streams: i64 = tx.one(sql, params![device.as_str()], |row| row.get(0))?;
    if streams > MAX_STREAMS {
        return Ok(None);
    }
    tx.execute(
        "INSERT INTO source (device, name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        params![device.as_str(), batch.stream.source.as_str()],
    )?;
    let source: i64 =
        tx.one("SELECT id FROM source WHERE device = $1 AND name = $2", params![device.as_str(), batch.stream.source.as_str()], |row| {
            row.get(0)
        })?;
    let stream = tx.one(
        "INSERT INTO stream (device, epoch, source, kind, epoch_counter, watermark, ranges) VALUES ($1, $2, $3, $4, $5, 0, $6) RETURNING id",
        params![
            device.as_str(),
            batch.epoch.to_string(),
            source,
            batch.stream.kind.as_str(),
            batch.epoch.counter,
            wire::encode(&Vec::<(u64, u64)>::new())
        ],
        |row| row.get(0),
    )?;
    Ok(Some(Place { stream, source }))
}

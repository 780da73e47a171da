//! Readings in less than full fidelity, beside the blocks.
//!
//! Invariant: a seq is stored in one fidelity. The better one takes the place of a stretch that it covers as a whole; what is stored is
//! never cut into parts. Not here: which seqs are committed (`common::sync::receiver`).

use std::ops::ControlFlow;

use anyhow::Context;
use wayside_common::{
    degraded::{Bucket, Degraded},
    record::{Batch, Body},
    schedule::Position,
    time::{ClockStamp, Mono},
    wire,
};

use super::{
    commit::{Fresh, Place},
    int,
    rollup::Minutes,
};
use crate::{
    db::{
        sql::{Row, Tx, params},
        telemetry::{Arrival, BucketRow, DegradedStretch, Range},
    },
    ingest::wall_of,
};

/// A row of the table.
struct Stored {
    id: i64,
    /// The seqs for which it stands, `first..end`.
    seqs: (u64, u64),
    /// The seq of the first record of `remains`.
    base: u64,
    clock: ClockStamp,
    remains: Degraded,
}

impl Stored {
    /// From the columns `id, first_seq, end_seq, base_seq, clock, bytes`.
    fn read(row: &Row) -> anyhow::Result<Self> {
        let (clock, bytes): (Vec<u8>, Vec<u8>) = (row.get(4)?, row.get(5)?);
        Ok(Self {
            id: row.get(0)?,
            seqs: (row.get(1)?, row.get(2)?),
            base: row.get(3)?,
            clock: wire::decode(&clock).context("the clock of stored degraded readings")?,
            remains: wire::decode(&bytes).context("stored degraded readings")?,
        })
    }

    /// The buckets that hold a record of its seqs.
    fn buckets(&self) -> anyhow::Result<Vec<Bucket>> {
        let mut begin = self.base;
        let mut buckets = self.remains.buckets()?;
        buckets.retain(|bucket| {
            let end = begin + u64::from(bucket.len);
            let inside = begin < self.seqs.1 && self.seqs.0 < end;
            begin = end;
            inside
        });
        Ok(buckets)
    }
}

fn overlapping(tx: &Tx, place: &Place, batch: &Batch) -> anyhow::Result<Vec<Stored>> {
    tx.rows(
        "SELECT id, first_seq, end_seq, base_seq, clock, bytes FROM degraded WHERE stream = $1 AND first_seq < $2 AND end_seq > $3
         ORDER BY first_seq",
        params![place.stream, int(batch.end_seq())?, int(batch.first_seq)?],
        Stored::read,
    )
}

/// Removes what the batch holds in higher fidelity; gives the seqs, which are now to be stored again.
pub fn give_way(tx: &Tx, place: &Place, batch: &Batch) -> anyhow::Result<Vec<(u64, u64)>> {
    if !matches!(batch.body, Body::Readings(_) | Body::Degraded(_)) {
        return Ok(Vec::new());
    }
    let mut seqs = Vec::new();
    for stored in overlapping(tx, place, batch)? {
        let (first, end) = stored.seqs;
        if stored.remains.fidelity() >= batch.body.fidelity() || first < batch.first_seq || end > batch.end_seq() {
            continue;
        }
        tx.execute("DELETE FROM degraded WHERE id = $1", params![stored.id])?;
        let sql = "DELETE FROM batch WHERE stream = $1 AND first_seq >= $2 AND end_seq <= $3";
        tx.execute(sql, params![place.stream, int(first)?, int(end)?])?;
        seqs.push(stored.seqs);
    }
    Ok(seqs)
}

/// One row per run of fresh seqs; gives how many these are.
pub fn insert(tx: &Tx, place: &Place, arrival: &Arrival, remains: &Degraded, fresh: &Fresh) -> anyhow::Result<u64> {
    let batch = &arrival.batch;
    let numbered: Vec<(u64, Mono)> =
        (batch.first_seq..).zip(stamps(remains)?).map(|(seq, (mono, _))| (seq, mono)).filter(|(seq, _)| fresh.is(*seq)).collect();
    let sql = "INSERT INTO degraded (stream, first_seq, end_seq, base_seq, source, first_wall, last_wall, clock, bytes)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    for run in numbered.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
        let walls = || run.iter().map(|(_, mono)| wall_of(&batch.clock, *mono).0);
        let span = (walls().min().unwrap_or_default(), walls().max().unwrap_or_default());
        let (first_seq, end_seq) = (int(run[0].0)?, int(run[run.len() - 1].0 + 1)?);
        let (clock, bytes) = (wire::encode(&batch.clock), wire::encode(remains));
        let base = int(batch.first_seq)?;
        tx.execute(sql, params![place.stream, first_seq, end_seq, base, place.source, span.0, span.1, clock, bytes])?;
    }
    let mut minutes = Minutes::new(remains.columns());
    let mut begin = batch.first_seq;
    for bucket in remains.buckets()? {
        if fresh.counts(begin) {
            minutes.bucket(wall_of(&batch.clock, bucket.monos.0).0, &bucket);
        }
        begin += u64::from(bucket.len);
    }
    minutes.store(tx, place.source)?;
    Ok(numbered.len() as u64)
}

/// What is known of each record's time and position: those of its bucket's first one, counted on; of the last record, its own.
pub fn stamps(remains: &Degraded) -> anyhow::Result<Vec<(Mono, Position)>> {
    let buckets = remains.buckets()?;
    let of = |bucket: &Bucket, i: u32| (bucket.monos.0, Position((bucket.positions.0.0 + u64::from(i)).min(bucket.positions.1.0)));
    let mut stamps: Vec<(Mono, Position)> = buckets.iter().flat_map(|bucket| (0..bucket.len).map(move |i| of(bucket, i))).collect();
    if let (Some(last), Some(bucket)) = (stamps.last_mut(), buckets.last()) {
        *last = (bucket.monos.1, bucket.positions.1);
    }
    Ok(stamps)
}

/// How many of the records that are not fresh are the same as stored, and how many differ: those that another batch left in this
/// same fidelity. What is stored in a higher one says more than they do.
pub fn compare(tx: &Tx, place: &Place, batch: &Batch, remains: &Degraded, fresh: &Fresh) -> anyhow::Result<(u64, u64)> {
    let stored = overlapping(tx, place, batch)?;
    let differs = |other: &Stored| other.remains.fidelity() == remains.fidelity() && other.remains != *remains;
    let others: Vec<(u64, u64)> = stored.iter().filter(|other| differs(other)).map(|other| other.seqs).collect();
    let known: Vec<u64> = (batch.first_seq..batch.end_seq()).filter(|seq| !fresh.is(*seq)).collect();
    let differing = known.iter().filter(|seq| others.iter().any(|(from, to)| (from..to).contains(seq))).count() as u64;
    Ok((known.len() as u64 - differing, differing))
}

/// The positions for which a stream has buckets alone, as inclusive ranges in the order of seqs.
pub fn positions(tx: &Tx, stream: i64) -> anyhow::Result<Vec<(u64, u64)>> {
    let sql = "SELECT id, first_seq, end_seq, base_seq, clock, bytes FROM degraded WHERE stream = $1 ORDER BY first_seq";
    let mut positions = Vec::new();
    tx.each(sql, params![stream], |row| {
        positions.extend(Stored::read(row)?.buckets()?.iter().map(|bucket| (bucket.positions.0.0, bucket.positions.1.0)));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(positions)
}

/// Those of one row.
pub fn positions_of(tx: &Tx, id: i64) -> anyhow::Result<Vec<(u64, u64)>> {
    let sql = "SELECT id, first_seq, end_seq, base_seq, clock, bytes FROM degraded WHERE id = $1";
    let stored = tx.one(sql, params![id], Stored::read)?;
    Ok(stored.buckets()?.iter().map(|bucket| (bucket.positions.0.0, bucket.positions.1.0)).collect())
}

/// First and last position of the stretch that holds this seq, with its first and last seq.
pub fn around(tx: &Tx, stream: i64, seq: u64) -> anyhow::Result<Option<[(u64, u64); 2]>> {
    let sql = "SELECT id, first_seq, end_seq, base_seq, clock, bytes FROM degraded WHERE stream = $1 AND first_seq <= $2 AND end_seq > $2";
    let Some(stored) = tx.first(sql, params![stream, int(seq)?], Stored::read)? else { return Ok(None) };
    let buckets = stored.buckets()?;
    let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else { return Ok(None) };
    Ok(Some([(stored.seqs.0, first.positions.0.0), (stored.seqs.1 - 1, last.positions.1.0)]))
}

/// What lies in a range of time, at most `range.limit` buckets; and from when on there is more.
pub fn range(tx: &Tx, source: i64, range: &Range) -> anyhow::Result<(Vec<DegradedStretch>, Option<i64>)> {
    let sql = "SELECT id, first_seq, end_seq, base_seq, clock, bytes, first_wall FROM degraded
         WHERE source = $1 AND last_wall >= $2 AND first_wall <= $3 ORDER BY first_wall, id";
    let mut stretches: Vec<DegradedStretch> = Vec::new();
    let (mut count, mut more) = (0, None);
    tx.each(sql, params![source, range.from, range.to], |row| {
        let unread: i64 = row.get(6)?;
        if count >= range.limit as usize && unread > range.from {
            more = Some(unread);
            return Ok(ControlFlow::Break(()));
        }
        let stored = Stored::read(row)?;
        let mut buckets: Vec<BucketRow> = stored.buckets()?.iter().map(|bucket| row_of(&stored.clock, bucket)).collect();
        buckets.retain(|bucket| bucket.to_ms >= range.from && bucket.from_ms <= range.to);
        count += buckets.len();
        if !buckets.is_empty() {
            let (fidelity, columns) = (stored.remains.fidelity(), stored.remains.columns().to_vec());
            stretches.push(DegradedStretch { fidelity, columns, buckets });
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((stretches, more))
}

fn row_of(clock: &ClockStamp, bucket: &Bucket) -> BucketRow {
    BucketRow {
        from: bucket.positions.0.0,
        to: bucket.positions.1.0,
        from_ms: wall_of(clock, bucket.monos.0).0,
        to_ms: wall_of(clock, bucket.monos.1).0,
        count: u64::from(bucket.len),
        means: bucket.means.clone(),
        minima: bucket.minima.clone(),
        maxima: bucket.maxima.clone(),
    }
}

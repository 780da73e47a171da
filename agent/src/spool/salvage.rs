//! What can still be read of a damaged spool, whatever is damaged: rows by their pages, without the database around them.
//!
//! Invariant: a batch is saved only if its bytes fit their checksum and say which batch they are; what was held and is not saved stands in
//! [`Salvage::lost`], exact where its row is left and it was never sent, else as "unknown" with a span of time. Not here: the pages' format
//! (`page`), putting the saved ones into a new file (`open`).

use std::collections::{BTreeMap, BTreeSet};

use wayside_common::{
    gap::{Extent, Gap, Reason},
    id::{Epoch, StreamId},
    record::{Batch, Body},
    schedule::Position,
    time::{Mono, Wall},
    wire,
};

use super::{
    checksum,
    memory::Memory,
    page::{Leaves, Pages, Row, Value},
};

/// A row of `stream`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedMark {
    pub next_seq: u64,
    pub last_position: Option<i64>,
    pub last_wall: i64,
    pub committed: i64,
}

/// What a row of `batch` says besides the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub end_seq: u64,
    pub sent: bool,
    /// As in the table; 0 is not given up.
    pub given_up: i64,
    pub positions: Option<(Position, Position)>,
    pub span: (Wall, Wall),
    pub ran: i64,
}

pub type Name = (Epoch, StreamId, u64);

/// See the module. The blobs are not here: they are handed out one by one.
#[derive(Debug, Default)]
pub struct Salvage {
    pub marks: BTreeMap<(Epoch, StreamId), SavedMark>,
    pub saved: BTreeMap<Name, About>,
    pub lost: Vec<Gap>,
    /// Rows of the table `memory`.
    pub memory: BTreeMap<String, Vec<u8>>,
    /// Not even the names of the streams are left, or perhaps not of all: nobody knows what was held.
    pub unknown: bool,
}

/// A batch's row, of which the stream's row may be lost.
struct BatchRow {
    stream: i64,
    first_seq: u64,
    about: About,
}

/// Reads all that can be read; `save` gets the blob of each batch that is saved.
pub fn salvage(pages: &Pages<'_>, mut save: impl FnMut(i64, &Name, &About, &[u8])) -> Salvage {
    let tables = Tables::find(pages);
    let mut found = Salvage { unknown: !tables.streams_whole, ..Salvage::default() };
    let mut names = BTreeMap::new();
    for (id, columns) in tables.rows(pages, &tables.streams) {
        if let Some((name, mark)) = mark_of(&columns) {
            names.insert(id, name.clone());
            found.marks.insert(name, mark);
        }
    }
    for (_, columns) in tables.rows(pages, &tables.notes) {
        match &columns[..] {
            [Value::Text(name), Value::Blob(value)] => drop(found.memory.insert(name.clone(), value.clone())),
            [Value::Null, Value::Blob(gap)] => found.lost.extend(wire::decode::<Gap>(gap).ok()),
            _ => {}
        }
    }
    let rows: BTreeMap<i64, BatchRow> =
        tables.rows(pages, &tables.batches).filter_map(|(id, columns)| Some((id, batch_row(&columns)?))).collect();
    let mut done = BTreeSet::new();
    // What the newest batch of a stream knew of the oldest one that was held.
    let mut lowest: BTreeMap<(Epoch, StreamId), u64> = BTreeMap::new();
    for (id, columns) in tables.rows(pages, &tables.blobs) {
        let Some((batch, blob)) = blob_of(&columns) else { continue };
        let row = rows.get(&id);
        // Without a row it was deleted, if all rows are there; and what was given up stays given up.
        if row.is_none() && tables.batches_whole || row.is_some_and(|row| row.about.given_up > 0) {
            continue;
        }
        let fits = |row: &&BatchRow| row.first_seq == batch.first_seq && row.about.end_seq == batch.end_seq();
        let about = row.filter(fits).map_or_else(|| about(&batch), |row| row.about);
        let name = (batch.epoch, batch.stream.clone(), batch.first_seq);
        let low = lowest.entry((batch.epoch, batch.stream.clone())).or_default();
        *low = (*low).max(batch.lowest_held);
        done.insert(id);
        if found.saved.insert(name.clone(), about).is_none() {
            save(id, &name, &about, blob);
        }
    }
    for (_, row) in rows.iter().filter(|(id, _)| !done.contains(*id)) {
        if let Some((epoch, stream)) = names.get(&row.stream) {
            found.lost.push(lost_row(*epoch, stream.clone(), row, tables.batches_whole));
        }
    }
    if !tables.batches_whole {
        holes(&mut found, &lowest);
    }
    found
}

/// On which pages the rows of each table stand.
struct Tables {
    streams: Vec<u32>,
    batches: Vec<u32>,
    blobs: Vec<u32>,
    /// Of `memory` and of `loss`.
    notes: Vec<u32>,
    streams_whole: bool,
    batches_whole: bool,
}

impl Tables {
    fn find(pages: &Pages<'_>) -> Self {
        let roots = pages.roots().unwrap_or_default();
        let of = |table: &str| roots.get(table).map(|root| pages.leaves(*root)).unwrap_or_default();
        let tables = ["stream", "batch", "blob", "memory", "loss"].map(of);
        // Damaged cells count as well: a page of which only some rows can be read does not tell what it had.
        let readable = |leaves: &Leaves| leaves.whole && leaves.pages.iter().all(|page| pages.rows(*page).len() == pages.cells(*page));
        let streams_whole = readable(&tables[0]);
        let batches_whole = streams_whole && readable(&tables[1]);
        // A table that cannot be walked may stand on any page that is not free; rows are told apart by their columns.
        let free = pages.free().unwrap_or_default();
        let anywhere = || pages.numbers().filter(|page| !free.contains(page)).collect();
        let [streams, batches, blobs, mut notes, losses] = tables.map(|leaves| if leaves.whole { leaves.pages } else { anywhere() });
        notes.extend(losses);
        notes.sort_unstable();
        notes.dedup();
        Self { streams, batches, blobs, notes, streams_whole, batches_whole }
    }

    fn rows<'p>(&self, pages: &'p Pages<'_>, on: &'p [u32]) -> impl Iterator<Item = Row> + 'p {
        on.iter().flat_map(|page| pages.rows(*page))
    }
}

fn mark_of(columns: &[Value]) -> Option<((Epoch, StreamId), SavedMark)> {
    let [Value::Null, epoch, stream, next_seq, last_position, last_wall, committed] = columns else { return None };
    let mark = SavedMark {
        next_seq: next_seq.int()? as u64,
        last_position: last_position.int(),
        last_wall: last_wall.int()?,
        committed: committed.int()?,
    };
    Some(((epoch.text()?.parse().ok()?, stream.text()?.parse().ok()?), mark))
}

fn batch_row(columns: &[Value]) -> Option<BatchRow> {
    let [Value::Null, stream, first_seq, end_seq, _class, _fidelity, sent, given_up, from, to, from_wall, to_wall, ran, _length] = columns
    else {
        return None;
    };
    let about = About {
        end_seq: end_seq.int()? as u64,
        sent: sent.int()? != 0,
        given_up: given_up.int()?,
        positions: from.int().zip(to.int()).map(|(from, to)| (Position(from as u64), Position(to as u64))),
        span: (Wall(from_wall.int()?), Wall(to_wall.int()?)),
        ran: ran.int()?,
    };
    (about.end_seq > first_seq.int()? as u64).then_some(BatchRow { stream: stream.int()?, first_seq: first_seq.int()? as u64, about })
}

/// A blob that is what was written.
fn blob_of(columns: &[Value]) -> Option<(Batch, &[u8])> {
    let [Value::Null, Value::Blob(sum), Value::Blob(blob)] = columns else { return None };
    let batch: Batch = if checksum(blob) == *sum { wire::decode(blob).ok()? } else { return None };
    (!batch.is_empty()).then_some((batch, blob.as_slice()))
}

/// What a batch itself tells, where its row is lost.
fn about(batch: &Batch) -> About {
    let items: Vec<(Option<Position>, Mono)> = match &batch.body {
        Body::Readings(block) => block.unpack().unwrap_or_default().iter().map(|reading| (Some(reading.position), reading.mono)).collect(),
        Body::Degraded(degraded) => {
            let buckets = degraded.buckets().unwrap_or_default();
            let ends = |bucket: &wayside_common::degraded::Bucket| {
                [(Some(bucket.positions.0), bucket.monos.0), (Some(bucket.positions.1), bucket.monos.1)]
            };
            buckets.iter().flat_map(ends).collect()
        }
        Body::Frames(frames) => frames.iter().map(|frame| (Some(frame.position), frame.mono)).collect(),
        Body::Predictions(predictions) => predictions.iter().map(|prediction| (None, prediction.mono)).collect(),
        Body::Sketches(sketches) => sketches.iter().map(|sketch| (None, sketch.mono)).collect(),
        Body::Samples(samples) => samples.iter().map(|sample| (None, sample.mono)).collect(),
        Body::Reports(reports) => reports.iter().map(|report| (None, report.mono)).collect(),
    };
    let wall = |mono: Mono| batch.clock.wall.minus(batch.clock.mono.saturating_since(mono));
    let (first, last) = (items.first(), items.last());
    About {
        end_seq: batch.end_seq(),
        // Nobody knows; so it is treated as one that the server may have.
        sent: true,
        given_up: 0,
        positions: first.and_then(|(position, _)| *position).zip(last.and_then(|(position, _)| *position)),
        span: (first.map_or(batch.clock.wall, |(_, mono)| wall(*mono)), last.map_or(batch.clock.wall, |(_, mono)| wall(*mono))),
        ran: 0,
    }
}

/// `live`: the row was found as the database has it, and is no leftover of a batch that was acked.
fn lost_row(epoch: Epoch, stream: StreamId, row: &BatchRow, live: bool) -> Gap {
    let About { end_seq, sent, given_up, positions, span, .. } = row.about;
    let reason = Reason::ALL.get((given_up as usize).wrapping_sub(1)).copied().unwrap_or(Reason::SpoolLost);
    let extent = if sent || !live {
        Extent::Unknown { after_seq: row.first_seq.checked_sub(1) }
    } else {
        Extent::Exact { first_seq: row.first_seq, last_seq: end_seq - 1 }
    };
    Gap { epoch, stream, extent, positions, span, reason }
}

/// From and to which seq, and when.
type Part = (u64, u64, (Wall, Wall));

/// Between what is known of a stream there may have been batches of which no row is left, or none: acked ones leave none either.
fn holes(found: &mut Salvage, lowest: &BTreeMap<(Epoch, StreamId), u64>) {
    let mut known: BTreeMap<(Epoch, StreamId), Vec<Part>> = BTreeMap::new();
    for ((epoch, stream, first_seq), about) in &found.saved {
        known.entry((*epoch, stream.clone())).or_default().push((*first_seq, about.end_seq, about.span));
    }
    for gap in &found.lost {
        if let Extent::Exact { first_seq, last_seq } = gap.extent {
            known.entry((gap.epoch, gap.stream.clone())).or_default().push((first_seq, last_seq + 1, gap.span));
        }
    }
    let memory: Memory = found.memory.get("state").and_then(|bytes| wire::decode(bytes).ok()).unwrap_or_default();
    let started = |epoch: Epoch| memory.epochs.iter().find(|(known, _)| *known == epoch).map(|(_, started)| *started);
    let streams: BTreeSet<(Epoch, StreamId)> = known.keys().chain(found.marks.keys()).cloned().collect();
    for name in streams {
        let mut parts = known.remove(&name).unwrap_or_default();
        parts.sort_unstable_by_key(|part| part.0);
        let mark = found.marks.get(&name);
        let mut at = lowest.get(&name).copied().unwrap_or(0);
        let end = mark.map(|mark| (mark.next_seq, mark.next_seq, (Wall(mark.last_wall), Wall(mark.last_wall))));
        let mut since = started(name.0);
        for (from, to, span) in parts.into_iter().chain(end) {
            if from > at {
                found.lost.push(Gap {
                    epoch: name.0,
                    stream: name.1.clone(),
                    extent: Extent::Unknown { after_seq: at.checked_sub(1) },
                    positions: None,
                    // Where nobody remembers when the epoch began, it began at any time before.
                    span: (since.unwrap_or(Wall(0)).min(span.0), span.0),
                    reason: Reason::SpoolLost,
                });
            }
            at = at.max(to);
            since = Some(span.1);
        }
    }
}

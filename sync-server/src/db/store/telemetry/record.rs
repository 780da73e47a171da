//! One record, one row; one run of readings, one block.
//!
//! Invariant: what is inserted here has the seq of its record and the wall time by its batch's clocks. Not here: which records are
//! inserted (`commit`).

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;
use wayside_common::{
    block::Block,
    id::{Digest, StreamKind},
    reading::Reading,
    record::{Answer, Batch, Body, Frame, NoAnswer, Prediction, Report, Sample, SampleReason, Sketch},
    schedule::Position,
    time::{ClockStamp, Mono, Wall},
    wire,
};

use super::{
    commit::{Fresh, Place},
    degraded, int, latest,
    rollup::Minutes,
};
use crate::{
    db::{
        sql::{Row, Tx, params},
        telemetry::Arrival,
    },
    ingest::wall_of,
};

/// Inserts the records whose seq is fresh; gives how many.
pub fn insert(tx: &Tx, place: &Place, arrival: &Arrival, fresh: &Fresh) -> anyhow::Result<u64> {
    let batch = &arrival.batch;
    let numbered = |len: usize| (batch.first_seq..).zip(0..len).filter(|(seq, _)| fresh.is(*seq));
    let mut stored = 0;
    match &batch.body {
        Body::Readings(block) => return insert_readings(tx, place, arrival, block, fresh),
        Body::Degraded(remains) => return degraded::insert(tx, place, arrival, remains, fresh),
        Body::Frames(records) => {
            for (seq, at) in numbered(records.len()) {
                stored += insert_frame(tx, place, seq, &batch.clock, &records[at])?;
            }
        }
        Body::Predictions(records) => {
            for (seq, at) in numbered(records.len()) {
                stored += insert_prediction(tx, place, seq, &batch.clock, &records[at])?;
            }
        }
        Body::Sketches(records) => {
            for (seq, at) in numbered(records.len()) {
                stored += insert_sketch(tx, place, seq, &batch.clock, &records[at])?;
            }
        }
        Body::Samples(records) => {
            for (seq, at) in numbered(records.len()) {
                stored += insert_sample(tx, place, seq, arrival, &records[at])?;
            }
        }
        Body::Reports(records) => {
            for (seq, at) in numbered(records.len()) {
                stored += insert_report(tx, place, seq, &batch.clock, &records[at])?;
            }
        }
    }
    Ok(stored as u64)
}

const INSERT_FRAME: &str = "INSERT INTO frame
    (stream, seq, source, position, wall, item, label, confidence, margin, micros, model, none, content)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
const INSERT_PREDICTION: &str = "INSERT INTO prediction
    (stream, seq, source, slot, first, last, wall, label, confidence, margin, micros, model, none, content)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
const INSERT_SKETCH: &str = "INSERT INTO sketch
    (stream, seq, source, slot, model, feature, \"window\", wall, counts, content)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
const INSERT_SAMPLE: &str = "INSERT INTO sample
    (id, stream, seq, slot, position, wall, item, model, label, confidence, margin, why, received, jpeg, embedding, content)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";
const INSERT_REPORT: &str = "INSERT INTO report (stream, seq, wall, fact, content) VALUES ($1, $2, $3, $4, $5)";

fn insert_frame(tx: &Tx, place: &Place, seq: u64, clock: &ClockStamp, frame: &Frame) -> anyhow::Result<usize> {
    let answer = Columns::of(&frame.answer);
    tx.execute(
        INSERT_FRAME,
        params![
            place.stream,
            int(seq)?,
            place.source,
            int(frame.position.0)?,
            wall_of(clock, frame.mono).0,
            frame.item,
            answer.label,
            answer.confidence,
            answer.margin,
            answer.micros,
            answer.model,
            answer.none,
            content(frame)
        ],
    )
}

fn insert_prediction(tx: &Tx, place: &Place, seq: u64, clock: &ClockStamp, prediction: &Prediction) -> anyhow::Result<usize> {
    let answer = Columns::of(&prediction.answer);
    tx.execute(
        INSERT_PREDICTION,
        params![
            place.stream,
            int(seq)?,
            place.source,
            prediction.slot.as_str(),
            int(prediction.from.0)?,
            int(prediction.to.0)?,
            wall_of(clock, prediction.mono).0,
            answer.label,
            answer.confidence,
            answer.margin,
            answer.micros,
            answer.model,
            answer.none,
            content(prediction)
        ],
    )
}

fn insert_sketch(tx: &Tx, place: &Place, seq: u64, clock: &ClockStamp, sketch: &Sketch) -> anyhow::Result<usize> {
    let counts: Vec<u8> = sketch.counts.iter().flat_map(|count| count.to_le_bytes()).collect();
    tx.execute(
        INSERT_SKETCH,
        params![
            place.stream,
            int(seq)?,
            place.source,
            sketch.slot.as_str(),
            sketch.model.0,
            sketch.feature,
            int(sketch.window)?,
            wall_of(clock, sketch.mono).0,
            counts,
            content(sketch)
        ],
    )
}

fn insert_sample(tx: &Tx, place: &Place, seq: u64, arrival: &Arrival, sample: &Sample) -> anyhow::Result<usize> {
    let Arrival { device, batch, received } = arrival;
    // Of the record's name, so that it is the same whenever the record is stored, and safe in a URL and a path.
    let id = Digest::of(format!("{device} {} {} {seq}", batch.epoch, batch.stream).as_bytes()).to_string()[..16].to_owned();
    let embedding: Vec<u8> = sample.embedding.iter().flat_map(|value| value.to_le_bytes()).collect();
    let why = match sample.why {
        SampleReason::LowMargin => "low_margin",
        SampleReason::Random => "random",
    };
    tx.execute(
        INSERT_SAMPLE,
        params![
            id,
            place.stream,
            int(seq)?,
            sample.slot.as_str(),
            int(sample.position.0)?,
            wall_of(&batch.clock, sample.mono).0,
            sample.item,
            sample.answer.model.0,
            sample.answer.label,
            f64::from(sample.answer.confidence),
            f64::from(sample.answer.margin),
            why,
            received.0,
            sample.jpeg,
            embedding,
            content(sample)
        ],
    )
}

fn insert_report(tx: &Tx, place: &Place, seq: u64, clock: &ClockStamp, report: &Report) -> anyhow::Result<usize> {
    let fact = serde_json::to_string(&report.fact)?;
    tx.execute(INSERT_REPORT, params![place.stream, int(seq)?, wall_of(clock, report.mono).0, fact, content(report)])
}

/// An answer, or why there is none, as columns.
struct Columns<'a> {
    label: Option<&'a str>,
    confidence: Option<f64>,
    margin: Option<f64>,
    micros: Option<u32>,
    model: Option<[u8; 32]>,
    none: Option<&'static str>,
}

impl<'a> Columns<'a> {
    fn of(answer: &'a Result<Answer, NoAnswer>) -> Self {
        match answer {
            Ok(answer) => Self {
                label: Some(&answer.label),
                confidence: Some(f64::from(answer.confidence)),
                margin: Some(f64::from(answer.margin)),
                micros: Some(answer.micros),
                model: Some(answer.model.0),
                none: None,
            },
            Err(reason) => {
                let none = match reason {
                    NoAnswer::WorkerCrash => "worker_crash",
                    NoAnswer::Busy => "busy",
                    NoAnswer::BadInput => "bad_input",
                    NoAnswer::NoModel => "no_model",
                    NoAnswer::Timeout => "timeout",
                };
                Self { label: None, confidence: None, margin: None, micros: None, model: None, none: Some(none) }
            }
        }
    }
}

/// A whole block is stored as it came; of a part, each run is packed again.
fn insert_readings(tx: &Tx, place: &Place, arrival: &Arrival, block: &Block, fresh: &Fresh) -> anyhow::Result<u64> {
    let batch = &arrival.batch;
    let readings = block.unpack().context("a block that passed its check")?;
    let numbered: Vec<(u64, Reading)> = (batch.first_seq..).zip(readings).filter(|(seq, _)| fresh.is(*seq)).collect();
    let sql = "INSERT INTO block (stream, first_seq, end_seq, source, first_wall, last_wall, clock, bytes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    for run in numbered.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
        let bytes = if run.len() == block.len() {
            wire::encode(block)
        } else {
            let rest: Vec<Reading> = run.iter().map(|(_, reading)| reading.clone()).collect();
            wire::encode(&Block::pack(&block.columns, &rest)?)
        };
        let walls = || run.iter().map(|(_, reading)| wall_of(&batch.clock, reading.mono).0);
        let (first_seq, end_seq) = (run[0].0, run[run.len() - 1].0 + 1);
        let span = (walls().min().unwrap_or_default(), walls().max().unwrap_or_default());
        let clock = wire::encode(&batch.clock);
        tx.execute(sql, params![place.stream, int(first_seq)?, int(end_seq)?, place.source, span.0, span.1, clock, bytes])?;
    }
    let mut minutes = Minutes::new(&block.columns);
    for (_, reading) in numbered.iter().filter(|(seq, _)| fresh.counts(*seq)) {
        minutes.reading(wall_of(&batch.clock, reading.mono).0, &reading.values);
    }
    minutes.store(tx, place.source)?;
    if let Some((seq, newest)) = numbered.last() {
        latest::note_reading(tx, place, arrival, &block.columns, *seq, newest)?;
    }
    Ok(numbered.len() as u64)
}

/// A block as it is stored.
pub struct StoredBlock {
    pub first_seq: u64,
    clock: ClockStamp,
    pub block: Block,
}

impl StoredBlock {
    /// From the columns `first_seq, clock, bytes`.
    pub fn read(row: &Row) -> anyhow::Result<Self> {
        let (clock, bytes): (Vec<u8>, Vec<u8>) = (row.get(1)?, row.get(2)?);
        Ok(Self {
            first_seq: row.get(0)?,
            clock: wire::decode(&clock).context("the clock of a stored block")?,
            block: wire::decode(&bytes).context("a stored block")?,
        })
    }

    pub fn wall(&self, reading: &Reading) -> Wall {
        wall_of(&self.clock, reading.mono)
    }
}

/// When a record was made, and which item of its source it is, where it carries the source's items.
#[derive(Clone, Copy)]
pub struct Stamp {
    pub wall: i64,
    pub position: Option<Position>,
}

/// Of each record of a batch, in order.
pub fn stamps(batch: &Batch) -> anyhow::Result<Vec<Stamp>> {
    let stamp = |mono: Mono, position: Option<Position>| Stamp { wall: wall_of(&batch.clock, mono).0, position };
    Ok(match &batch.body {
        Body::Reports(records) => records.iter().map(|record| stamp(record.mono, None)).collect(),
        Body::Frames(records) => records.iter().map(|record| stamp(record.mono, Some(record.position))).collect(),
        Body::Predictions(records) => records.iter().map(|record| stamp(record.mono, None)).collect(),
        Body::Sketches(records) => records.iter().map(|record| stamp(record.mono, None)).collect(),
        Body::Samples(records) => records.iter().map(|record| stamp(record.mono, None)).collect(),
        Body::Readings(block) => block.unpack()?.iter().map(|reading| stamp(reading.mono, Some(reading.position))).collect(),
        Body::Degraded(remains) => degraded::stamps(remains)?.into_iter().map(|(mono, position)| stamp(mono, Some(position))).collect(),
    })
}

/// What identifies the content of each record of a batch, in order.
pub fn contents(body: &Body) -> anyhow::Result<Vec<[u8; 16]>> {
    Ok(match body {
        Body::Reports(records) => records.iter().map(content).collect(),
        Body::Frames(records) => records.iter().map(content).collect(),
        Body::Predictions(records) => records.iter().map(content).collect(),
        Body::Sketches(records) => records.iter().map(content).collect(),
        Body::Samples(records) => records.iter().map(content).collect(),
        Body::Readings(block) => block.unpack()?.iter().map(|reading| content(&(&block.columns, reading))).collect(),
        // The records are gone; what is left of them is compared as a whole.
        Body::Degraded(_) => Vec::new(),
    })
}

pub fn stored_readings(tx: &Tx, place: &Place, first: i64, end: i64) -> anyhow::Result<BTreeMap<u64, [u8; 16]>> {
    let sql = "SELECT first_seq, clock, bytes FROM block WHERE stream = $1 AND first_seq < $2 AND end_seq > $3";
    let mut stored = BTreeMap::new();
    for block in tx.rows(sql, params![place.stream, end, first], StoredBlock::read)? {
        stored.extend((block.first_seq..).zip(contents(&Body::Readings(block.block))?));
    }
    Ok(stored)
}

/// The position of a reading that is stored raw.
pub fn position_of(tx: &Tx, stream: i64, seq: u64) -> anyhow::Result<Option<u64>> {
    let sql = "SELECT first_seq, clock, bytes FROM block WHERE stream = $1 AND first_seq <= $2 AND end_seq > $2";
    let Some(stored) = tx.first(sql, params![stream, int(seq)?], StoredBlock::read)? else { return Ok(None) };
    let at = usize::try_from(seq.saturating_sub(stored.first_seq)).unwrap_or(usize::MAX);
    Ok(stored.block.unpack()?.get(at).map(|reading| reading.position.0))
}

pub fn stored_contents(tx: &Tx, place: &Place, kind: StreamKind, first: i64, end: i64) -> anyhow::Result<BTreeMap<u64, [u8; 16]>> {
    let sql = match kind {
        StreamKind::Frames => "SELECT seq, content FROM frame WHERE stream = $1 AND seq >= $2 AND seq < $3",
        StreamKind::Predictions => "SELECT seq, content FROM prediction WHERE stream = $1 AND seq >= $2 AND seq < $3",
        StreamKind::Sketches => "SELECT seq, content FROM sketch WHERE stream = $1 AND seq >= $2 AND seq < $3",
        StreamKind::Samples => "SELECT seq, content FROM sample WHERE stream = $1 AND seq >= $2 AND seq < $3",
        StreamKind::Reports => "SELECT seq, content FROM report WHERE stream = $1 AND seq >= $2 AND seq < $3",
        StreamKind::Readings => return stored_readings(tx, place, first, end),
    };
    Ok(tx.rows(sql, params![place.stream, first, end], |row| Ok((row.get(0)?, row.get(1)?)))?.into_iter().collect())
}

fn content<T: Serialize>(record: &T) -> [u8; 16] {
    let Digest(digest) = Digest::of(&wire::encode(record));
    digest[..16].try_into().expect("half of 32 bytes")
}

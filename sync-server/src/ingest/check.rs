//! What a packet of a device must satisfy before the store sees it.
//!
//! Invariant: plain functions of the packet; whatever passes can be stored, listed as JSON and unpacked again without another check.
//! Not here: the limits that devices keep as well (`common::record`), the stream's row (`common::sync::receiver`), signatures.

use wayside_common::{
    block::Block,
    degraded::Degraded,
    fleet::Hello,
    reading::Column,
    record::{
        Answer, Batch, Body, Frame, MAX_EMBEDDING, MAX_ITEM, MAX_LABEL, MAX_NUMBER, MAX_REASON, MAX_SAMPLE_JPEG, NoAnswer, Prediction,
        Report, Sample, Sketch,
    },
    schedule::Position,
    sketch::histogram::BINS,
    topic::Up,
    wire::{FromDevice, Thumbnail},
};

pub const MAX_RECORDS: u64 = 10_000;
/// Of a column and of its unit.
pub const MAX_NAME: usize = 64;
pub const MAX_THUMBNAIL: usize = 16 * 1024;
/// Slots of one device, and streams of one epoch.
pub const MAX_SLOTS: usize = 32;
pub const MAX_HOLDS: usize = 4096;

/// May this variant come on this topic?
pub fn topic(up: Up, packet: &FromDevice) -> bool {
    match packet {
        FromDevice::Batch { .. } => up == Up::Batch,
        FromDevice::Hello(_) | FromDevice::Gone | FromDevice::Slots(_) => up == Up::State,
        FromDevice::Need { .. } | FromDevice::Thumbnail(_) => up == Up::Blob,
        FromDevice::TrustRequest { .. } | FromDevice::TimeRequest { .. } => up == Up::Trust,
    }
}

/// `Err` says what is wrong.
pub fn batch(batch: &Batch) -> Result<(), String> {
    if batch.body.kind() != batch.stream.kind {
        return Err(format!("{:?} in stream {}", batch.body.kind(), batch.stream));
    }
    if batch.len() > MAX_RECORDS {
        return Err(format!("{} records in a batch, and {MAX_RECORDS} are allowed", batch.len()));
    }
    if batch.first_seq > MAX_NUMBER || batch.lowest_held > MAX_NUMBER {
        return Err(format!("seq {} is out of bounds", batch.first_seq.max(batch.lowest_held)));
    }
    match &batch.body {
        Body::Reports(records) => records.iter().try_for_each(report),
        Body::Frames(records) => records.iter().try_for_each(frame),
        Body::Predictions(records) => records.iter().try_for_each(prediction),
        Body::Sketches(records) => records.iter().try_for_each(sketch),
        Body::Readings(packed) => block(packed),
        Body::Samples(records) => records.iter().try_for_each(sample),
        Body::Degraded(remains) => degraded(remains),
    }
}

pub fn hello(hello: &Hello) -> Result<(), String> {
    text("agent version", &hello.agent_version, MAX_LABEL)?;
    if hello.slots.len() > MAX_SLOTS {
        return Err(format!("{} slots, and {MAX_SLOTS} are allowed", hello.slots.len()));
    }
    if hello.streams.len() > MAX_HOLDS {
        return Err(format!("{} streams, and {MAX_HOLDS} are allowed", hello.streams.len()));
    }
    let numbers = [hello.sent, hello.generation.0, hello.root_version, hello.targets_version, hello.ledger_version, hello.ledger_base];
    numbers.into_iter().try_for_each(number)?;
    for gap in &hello.ledger {
        if let Some((from, to)) = gap.positions {
            position(from)?;
            position(to)?;
            if to < from {
                return Err(format!("a gap from position {} to {}", from.0, to.0));
            }
        }
        match gap.extent {
            wayside_common::gap::Extent::Exact { first_seq, last_seq } => {
                number(first_seq)?;
                number(last_seq)?;
                if last_seq < first_seq {
                    return Err(format!("a gap from seq {first_seq} to {last_seq}"));
                }
            }
            wayside_common::gap::Extent::Unknown { after_seq } => number(after_seq.unwrap_or(0))?,
        }
    }
    hello.streams.iter().try_for_each(|hold| number(hold.lowest_held.max(hold.next)))
}

pub fn thumbnail(thumbnail: &Thumbnail) -> Result<(), String> {
    position(thumbnail.position)?;
    text("label", thumbnail.label.as_deref().unwrap_or_default(), MAX_LABEL)?;
    picture(&thumbnail.jpeg, MAX_THUMBNAIL)
}

fn report(report: &Report) -> Result<(), String> {
    use wayside_common::{
        fleet::Outcome,
        record::Fact::{Active, SourceFault, Started, Stopping, StorageFault, Update, WorkerDied},
    };
    match &report.fact {
        Started { agent_version } => text("agent version", agent_version, MAX_LABEL),
        Update(update) => {
            number(update.generation.0)?;
            text("target", update.target.as_deref().unwrap_or_default(), MAX_ITEM)?;
            match &update.outcome {
                Outcome::Refused { reason, .. } => text("reason", reason, MAX_REASON),
                Outcome::Progress(_) | Outcome::Active => Ok(()),
            }
        }
        WorkerDied { reason, .. } | SourceFault { reason, .. } | StorageFault { reason, .. } => text("reason", reason, MAX_REASON),
        Active { .. } | Stopping => Ok(()),
    }
}

fn frame(frame: &Frame) -> Result<(), String> {
    position(frame.position)?;
    text("item", &frame.item, MAX_ITEM)?;
    answer(&frame.answer)
}

fn prediction(prediction: &Prediction) -> Result<(), String> {
    position(prediction.from)?;
    position(prediction.to)?;
    if prediction.to < prediction.from {
        return Err(format!("a window from position {} to {}", prediction.from.0, prediction.to.0));
    }
    answer(&prediction.answer)
}

fn sketch(sketch: &Sketch) -> Result<(), String> {
    text("feature", &sketch.feature, MAX_LABEL)?;
    number(sketch.window)?;
    if sketch.counts.len() == BINS { Ok(()) } else { Err(format!("{} bins in a sketch, and {BINS} are right", sketch.counts.len())) }
}

fn sample(sample: &Sample) -> Result<(), String> {
    position(sample.position)?;
    text("item", &sample.item, MAX_ITEM)?;
    text("label", &sample.answer.label, MAX_LABEL)?;
    if sample.embedding.len() > MAX_EMBEDDING || sample.embedding.iter().any(|value| !value.is_finite()) {
        return Err("an embedding that is too long or not finite".into());
    }
    picture(&sample.jpeg, MAX_SAMPLE_JPEG)
}

fn block(block: &Block) -> Result<(), String> {
    block.columns.iter().try_for_each(column)?;
    let readings = block.unpack().map_err(|e| e.to_string())?;
    readings.iter().try_for_each(|reading| position(reading.position))
}

/// Its buckets follow each other: what they claim of the source's positions is told as ranges.
fn degraded(degraded: &Degraded) -> Result<(), String> {
    degraded.columns().iter().try_for_each(column)?;
    let mut unclaimed = 0;
    for bucket in degraded.buckets().map_err(|e| e.to_string())? {
        let (from, to) = bucket.positions;
        position(to)?;
        if from.0 < unclaimed || to < from {
            return Err(format!("a bucket from position {} to {} after {unclaimed}", from.0, to.0));
        }
        unclaimed = to.0 + 1;
    }
    Ok(())
}

fn column(column: &Column) -> Result<(), String> {
    text("column", &column.name, MAX_NAME)?;
    text("unit", &column.unit, MAX_NAME)?;
    let resolved = column.offset.is_finite() && column.lsb.is_finite() && column.lsb >= 0.0;
    if resolved { Ok(()) } else { Err(format!("column {} has no resolution", column.name)) }
}

fn answer(answer: &Result<Answer, NoAnswer>) -> Result<(), String> {
    answer.as_ref().map_or(Ok(()), |answer| text("label", &answer.label, MAX_LABEL))
}

fn picture(jpeg: &[u8], max: usize) -> Result<(), String> {
    if jpeg.len() > max {
        return Err(format!("a picture of {} bytes, and {max} are allowed", jpeg.len()));
    }
    if jpeg.starts_with(&[0xff, 0xd8]) { Ok(()) } else { Err("a picture that is not a JPEG".into()) }
}

fn position(position: Position) -> Result<(), String> {
    number(position.0)
}

fn number(number: u64) -> Result<(), String> {
    if number <= MAX_NUMBER { Ok(()) } else { Err(format!("{number} is out of bounds")) }
}

fn text(what: &str, text: &str, max: usize) -> Result<(), String> {
    if text.len() <= max { Ok(()) } else { Err(format!("{what} of {} bytes, and {max} are allowed", text.len())) }
}

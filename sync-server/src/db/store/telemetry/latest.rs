//! The newest record of each source and slot, kept as a row.
//!
//! Invariant: newer is a later epoch, then a higher seq; the device's clock, which may be put back, has no say. Not here: frames and
//! predictions themselves (`answer`), to which these rows point.

use wayside_common::{
    id::DeviceId,
    reading::{Column, Reading},
    record::Body,
    wire,
};

use super::{
    commit::{Fresh, Place},
    int,
};
use crate::{
    db::{
        sql::{Tx, params},
        telemetry::{Arrival, LatestReading, LatestValue},
    },
    ingest::wall_of,
};

/// Takes the newest of the records that were stored just now. Of degraded readings none is: their last one is not known.
pub fn note(tx: &Tx, place: &Place, arrival: &Arrival, fresh: &Fresh) -> anyhow::Result<()> {
    let batch = &arrival.batch;
    match &batch.body {
        Body::Frames(frames) => {
            let newest = (batch.first_seq..).zip(frames).filter(|(seq, _)| fresh.is(*seq)).last();
            newest.map_or(Ok(()), |(seq, frame)| put(tx, place, arrival, "frames", "", seq, wall_of(&batch.clock, frame.mono).0))
        }
        Body::Predictions(predictions) => {
            let mut slots: Vec<&str> = predictions.iter().map(|prediction| prediction.slot.as_str()).collect();
            slots.sort_unstable();
            slots.dedup();
            slots.into_iter().try_for_each(|slot| {
                let of_slot = (batch.first_seq..).zip(predictions).filter(|(seq, p)| p.slot.as_str() == slot && fresh.is(*seq));
                let Some((seq, prediction)) = of_slot.last() else { return Ok(()) };
                put(tx, place, arrival, "predictions", slot, seq, wall_of(&batch.clock, prediction.mono).0)
            })
        }
        Body::Readings(_) | Body::Degraded(_) | Body::Reports(_) | Body::Sketches(_) | Body::Samples(_) => Ok(()),
    }
}

const PUT: &str = "INSERT INTO latest (source, kind, slot, counter, stream, seq, wall, bytes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
     ON CONFLICT (source, kind, slot) DO UPDATE SET counter = excluded.counter, stream = excluded.stream, seq = excluded.seq,
     wall = excluded.wall, bytes = excluded.bytes
     WHERE excluded.counter > latest.counter OR (excluded.counter = latest.counter AND excluded.seq >= latest.seq)";

fn put(tx: &Tx, place: &Place, arrival: &Arrival, kind: &str, slot: &str, seq: u64, wall: i64) -> anyhow::Result<()> {
    let counter = arrival.batch.epoch.counter;
    tx.execute(PUT, params![place.source, kind, slot, counter, place.stream, int(seq)?, wall, None::<Vec<u8>>]).map(drop)
}

/// A reading is kept itself: its block may be retired before the next one comes.
pub fn note_reading(tx: &Tx, place: &Place, arrival: &Arrival, columns: &[Column], seq: u64, reading: &Reading) -> anyhow::Result<()> {
    let (counter, wall) = (arrival.batch.epoch.counter, wall_of(&arrival.batch.clock, reading.mono).0);
    let bytes = wire::encode(&(columns, reading));
    tx.execute(PUT, params![place.source, "readings", "", counter, place.stream, int(seq)?, wall, bytes]).map(drop)
}

/// The newest reading of each sensor.
pub fn readings(tx: &Tx, device: &DeviceId) -> anyhow::Result<Vec<LatestReading>> {
    let sql = "SELECT source.name, latest.wall, latest.bytes FROM latest JOIN source ON source.id = latest.source
         WHERE source.device = $1 AND latest.kind = 'readings' ORDER BY source.name";
    tx.rows(sql, params![device.as_str()], |row| {
        let (columns, reading): (Vec<Column>, Reading) = wire::decode(&row.get::<_, Vec<u8>>(2)?)?;
        let values = columns.iter().zip(&reading.values).map(|(column, value)| value_of(column, *value)).collect();
        Ok(LatestReading { source: row.get(0)?, position: reading.position.0, wall_ms: row.get(1)?, values })
    })
}

fn value_of(column: &Column, raw: Option<i32>) -> LatestValue {
    LatestValue { name: column.name.clone(), unit: column.unit.clone(), value: raw.map(|raw| column.value(raw)) }
}

//! Suite `wire`: bytes and time per reading in batches as they travel, beside JSON, protobuf and CBOR.
//!
//! Invariant: our bytes are all of the packet: envelope, columns, times, values, checksum. The peers carry the same positions, times
//! and values, and nothing of the envelope. Not here: MQTT's own bytes, which are the same for all.

use std::{hint::black_box, time::Instant};

use anyhow::ensure;
use prost::Message;
use wayside_common::{
    block::Block,
    id::Epoch,
    reading::{Column, Reading},
    record::{Batch, Body},
    time::{ClockStamp, Wall, WallQuality},
    wire::{self, FromDevice},
};

use super::{
    Figure,
    recorded::{self, Recording},
};

/// Readings of a batch, for the figures that have a budget.
const FULL: usize = 1_000;
/// As devices cut them, once a second or when the spool is full.
const SMALLER: [usize; 3] = [50, 100, 400];

struct Set {
    name: &'static str,
    budget: f64,
    recordings: Vec<Recording>,
}

pub fn run(print: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let data = recorded::folder();
    let sets = [
        Set { name: "imu6", budget: 5.8, recordings: recorded::imu(&data, 6)? },
        Set { name: "imu9", budget: 7.7, recordings: recorded::imu(&data, 9)? },
        Set { name: "climate4", budget: 2.2, recordings: recorded::climate(&data, 4)? },
        Set { name: "climate2", budget: 1.1, recordings: recorded::climate(&data, 2)? },
    ];
    for set in &sets {
        let n = set.recordings.iter().map(|recording| recording.readings.len() as u64).sum();
        let figure = |name: String, value, unit, peer, of| Figure { suite: "wire", name, value, unit, peer, ratio: value / of, n };
        let bytes = per_reading(&set.recordings, FULL, packet);
        let name = format!("{}_bytes_per_reading", set.name);
        print(figure(name.clone(), bytes, "B", "budget", set.budget));
        for (peer, encode) in PEERS {
            print(figure(name.clone(), bytes, "B", peer, per_reading(&set.recordings, FULL, *encode)));
        }
        for size in SMALLER {
            let bytes = per_reading(&set.recordings, size, packet);
            let name = format!("{}_bytes_per_reading_in_batches_of_{size}", set.name);
            for (peer, encode) in PEERS {
                print(figure(name.clone(), bytes, "B", peer, per_reading(&set.recordings, size, *encode)));
            }
        }
        for size in SMALLER.into_iter().chain([FULL]) {
            let times = times(&set.recordings, size)?;
            for (what, ours, json) in [("pack", times.pack, times.json_encode), ("unpack", times.unpack, times.json_decode)] {
                print(figure(format!("{}_{what}_ns_per_reading_in_batches_of_{size}", set.name), ours, "ns", "json", json));
            }
        }
    }
    Ok(())
}

/// The mean of the recordings' means.
fn per_reading(recordings: &[Recording], size: usize, encode: fn(&[Column], &[Reading]) -> Vec<u8>) -> f64 {
    let mean = |recording: &Recording| {
        let bytes: usize = recording.readings.chunks(size).map(|readings| encode(&recording.columns, readings).len()).sum();
        bytes as f64 / recording.readings.len() as f64
    };
    recordings.iter().map(mean).sum::<f64>() / recordings.len() as f64
}

struct Times {
    pack: f64,
    unpack: f64,
    json_encode: f64,
    json_decode: f64,
}

/// Recordings that are timed: they are alike, and JSON is slow.
const TIMED: usize = 3;

/// Nanoseconds per reading, readings to packet and back; what comes back is compared.
fn times(recordings: &[Recording], size: usize) -> anyhow::Result<Times> {
    let (mut times, mut rows) = (Times { pack: 0.0, unpack: 0.0, json_encode: 0.0, json_decode: 0.0 }, 0);
    for recording in recordings.iter().take(TIMED) {
        for readings in recording.readings.chunks(size) {
            let bytes = fastest(&mut times.pack, || packet(&recording.columns, black_box(readings)));
            let back = fastest(&mut times.unpack, || unpacked(black_box(&bytes)))?;
            ensure!(back == readings, "other readings came back");
            let bytes = fastest(&mut times.json_encode, || json(&recording.columns, black_box(readings)));
            fastest(&mut times.json_decode, || {
                serde_json::from_slice::<Vec<serde_json::Map<String, serde_json::Value>>>(black_box(&bytes))
            })?;
            rows += readings.len();
        }
    }
    let each = |sum: f64| sum / rows as f64;
    Ok(Times {
        pack: each(times.pack),
        unpack: each(times.unpack),
        json_encode: each(times.json_encode),
        json_decode: each(times.json_decode),
    })
}

/// Adds the shortest of a few runs: the longer ones are those of other programs.
fn fastest<T>(sum: &mut f64, run: impl Fn() -> T) -> T {
    let timed = || {
        let begin = Instant::now();
        let result = black_box(run());
        (begin.elapsed().as_nanos() as f64, result)
    };
    let (mut shortest, result) = timed();
    for _ in 0..3 {
        shortest = shortest.min(timed().0);
    }
    *sum += shortest;
    result
}

fn unpacked(bytes: &[u8]) -> anyhow::Result<Vec<Reading>> {
    let FromDevice::Batch { batch, .. } = wire::decode(bytes)? else { anyhow::bail!("another packet came back") };
    let Body::Readings(block) = &batch.body else { anyhow::bail!("another body came back") };
    Ok(block.unpack()?)
}

/// The whole packet of a batch, as the spool's bytes are sent.
fn packet(columns: &[Column], readings: &[Reading]) -> Vec<u8> {
    let mono = readings.last().map_or_else(Default::default, |reading| reading.mono);
    let batch = Batch {
        epoch: Epoch { counter: 412, nonce: 0x9e37_79b9_7f4a_7c15 },
        stream: "imu0.readings".parse().expect("a stream"),
        first_seq: readings.first().map_or(0, |reading| reading.position.0),
        lowest_held: readings.first().map_or(0, |reading| reading.position.0),
        clock: ClockStamp { mono, wall: Wall(1_795_435_041_000), quality: WallQuality::Synchronised },
        body: Body::Readings(Block::pack(columns, readings).expect("within all limits")),
    };
    wire::batch_packet(10_000_000, &wire::encode_batch(&batch)).expect("a batch has bytes")
}

type Encode = fn(&[Column], &[Reading]) -> Vec<u8>;
const PEERS: &[(&str, Encode)] = &[("json", json), ("protobuf", protobuf), ("cbor", cbor)];

/// An object per reading, with names, and values rounded to what the sensor resolves.
fn json(columns: &[Column], readings: &[Reading]) -> Vec<u8> {
    let digits = |column: &Column| (1.0 - column.lsb.log10()).ceil().max(0.0) as i32;
    let scales: Vec<f64> = columns.iter().map(|column| 10f64.powi(digits(column))).collect();
    let objects: Vec<serde_json::Map<String, serde_json::Value>> = readings
        .iter()
        .map(|reading| {
            let values = columns.iter().zip(&scales).zip(&reading.values);
            let values = values.map(|((column, scale), raw)| {
                (column.name.clone(), raw.map_or(serde_json::Value::Null, |raw| ((column.value(raw) * scale).round() / scale).into()))
            });
            [("t_us".to_string(), reading.mono.0.into())].into_iter().chain(values).collect()
        })
        .collect();
    serde_json::to_vec(&objects).expect("it is JSON")
}

/// Integers in units of the resolution, zigzag and packed; columns are told once.
#[derive(Clone, PartialEq, Message)]
struct ProtoBatch {
    #[prost(message, repeated, tag = "1")]
    columns: Vec<ProtoColumn>,
    #[prost(message, repeated, tag = "2")]
    readings: Vec<ProtoReading>,
}

#[derive(Clone, PartialEq, Message)]
struct ProtoColumn {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    unit: String,
    #[prost(double, tag = "3")]
    lsb: f64,
}

#[derive(Clone, PartialEq, Message)]
struct ProtoReading {
    #[prost(uint64, tag = "1")]
    micros: u64,
    #[prost(sint32, repeated, tag = "2")]
    values: Vec<i32>,
}

fn protobuf(columns: &[Column], readings: &[Reading]) -> Vec<u8> {
    let column = |column: &Column| ProtoColumn { name: column.name.clone(), unit: column.unit.clone(), lsb: column.lsb };
    let reading = |reading: &Reading| ProtoReading {
        micros: reading.mono.0,
        values: reading.values.iter().map(|raw| raw.unwrap_or(i32::MIN)).collect(),
    };
    ProtoBatch { columns: columns.iter().map(column).collect(), readings: readings.iter().map(reading).collect() }.encode_to_vec()
}

/// The columns once, then an array per reading: its time, and integers in units of the resolution.
fn cbor(columns: &[Column], readings: &[Reading]) -> Vec<u8> {
    let mut encoder = minicbor::Encoder::new(Vec::new());
    let written: Result<(), minicbor::encode::Error<std::convert::Infallible>> = (|| {
        encoder.array(2)?.array(columns.len() as u64)?;
        for column in columns {
            encoder.array(3)?.str(&column.name)?.str(&column.unit)?.f64(column.lsb)?;
        }
        encoder.array(readings.len() as u64)?;
        for reading in readings {
            encoder.array(1 + reading.values.len() as u64)?.u64(reading.mono.0)?;
            for raw in &reading.values {
                match raw {
                    Some(raw) => encoder.i32(*raw)?,
                    None => encoder.null()?,
                };
            }
        }
        Ok(())
    })();
    written.expect("writing to a Vec does not fail");
    encoder.into_writer()
}

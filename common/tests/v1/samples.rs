//! One value of each packet that travels, as version 1 of the wire has it.
//!
//! Invariant: [`name_of`] matches every variant by name, so a new one does not compile before it has a sample. Not here: the bytes, which
//! lie beside this file; `cargo run --package wayside-common --example v1_samples` writes them anew.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use wayside_common::{
    block::Block,
    degraded::Degraded,
    fleet::{Desired, DesiredKind, Generation, Hello, Intent, ModelRef, Outcome, SlotStatus, Stage, StreamHold, TargetRef, UpdateReport},
    gap::{Extent, Gap, Reason},
    id::{Digest, Epoch},
    reading::{Column, Reading},
    record::{Answer, Batch, Body, Fact, Frame, NoAnswer, Prediction, Report, Sample, SampleReason, Sketch},
    schedule::Position,
    sync::{
        credit::Credit,
        receiver::{Ack, StreamRow},
    },
    time::{ClockStamp, Mono, Wall, WallQuality},
    trust::signed,
    wire::{self, FromDevice, Thumbnail, ToDevice, WireError},
};

/// What lies in a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    Up(FromDevice),
    Down(ToDevice),
    /// As the spool keeps it.
    Stored(Batch),
}

impl Packet {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Up(packet) => wire::encode(packet),
            Self::Down(packet) => wire::encode(packet),
            Self::Stored(batch) => wire::encode_batch(batch),
        }
    }

    /// Decodes bytes as what this is.
    pub fn decode_like(&self, bytes: &[u8]) -> Result<Self, WireError> {
        match self {
            Self::Up(_) => wire::decode(bytes).map(Self::Up),
            Self::Down(_) => wire::decode(bytes).map(Self::Down),
            Self::Stored(_) => wire::decode(bytes).map(Self::Stored),
        }
    }
}

/// The file's name without its ending.
pub fn name_of(packet: &Packet) -> &'static str {
    match packet {
        Packet::Up(FromDevice::Batch { batch, .. }) => match &batch.body {
            Body::Reports(_) => "up_batch_reports",
            Body::Frames(_) => "up_batch_frames",
            Body::Predictions(_) => "up_batch_predictions",
            Body::Sketches(_) => "up_batch_sketches",
            Body::Readings(block) if block.columns.iter().any(Column::is_float) => "up_batch_readings_odd",
            Body::Readings(_) => "up_batch_readings",
            Body::Samples(_) => "up_batch_samples",
            Body::Degraded(degraded) if degraded.buckets().is_ok_and(|buckets| buckets.len() > 1) => "up_batch_downsampled",
            Body::Degraded(_) => "up_batch_sketch_of_readings",
        },
        Packet::Up(FromDevice::Hello(_)) => "up_hello",
        Packet::Up(FromDevice::Gone) => "up_gone",
        Packet::Up(FromDevice::Need { .. }) => "up_need",
        Packet::Up(FromDevice::Thumbnail(_)) => "up_thumbnail",
        Packet::Up(FromDevice::TrustRequest { .. }) => "up_trust_request",
        Packet::Up(FromDevice::Slots(_)) => "up_slots",
        Packet::Up(FromDevice::TimeRequest { .. }) => "up_time_request",
        Packet::Down(ToDevice::Ack { .. }) => "down_ack",
        Packet::Down(ToDevice::HelloAck { .. }) => "down_hello_ack",
        Packet::Down(ToDevice::Refused { .. }) => "down_refused",
        Packet::Down(ToDevice::Desired(_)) => "down_desired",
        Packet::Down(ToDevice::Trust(_)) => "down_trust",
        Packet::Down(ToDevice::Chunk { .. }) => "down_chunk",
        Packet::Down(ToDevice::NoChunk { .. }) => "down_no_chunk",
        Packet::Down(ToDevice::SayHello) => "down_say_hello",
        Packet::Down(ToDevice::Time(_)) => "down_time",
        Packet::Stored(_) => "stored_batch",
    }
}

/// How many names [`name_of`] knows.
pub const NAMES: usize = 26;

const EPOCH: Epoch = Epoch { counter: 7, nonce: 0x0123_4567_89ab_cdef };
const CREDIT: Credit = Credit { until: 1_234_567, ttl_ms: 60_000 };

fn clock() -> ClockStamp {
    ClockStamp { mono: Mono(61_000_000), wall: Wall(1_795_435_041_000), quality: WallQuality::Synchronised }
}

fn digest(of: &str) -> Digest {
    Digest::of(of.as_bytes())
}

fn answer() -> Answer {
    Answer { model: digest("model"), label: "truck".into(), confidence: 0.875, margin: 0.8125, micros: 42_000 }
}

fn batch(stream: &str, body: Body) -> Batch {
    let stream = stream.parse().expect("a stream");
    Batch { epoch: EPOCH, stream, first_seq: 500, lowest_held: 320, clock: clock(), body }
}

fn model() -> ModelRef {
    ModelRef { name: "vehicles".parse().expect("a name"), version: 2, digest: digest("package") }
}

/// An IMU at 95.2 Hz: noise on a slow swing, a time of whole milliseconds, two values missing.
pub fn readings() -> Block {
    let column = |name: &str, unit: &str, lsb| Column { name: name.into(), unit: unit.into(), offset: 0.0, lsb };
    let columns = ["ax", "ay", "az"].map(|name| column(name, "m/s2", 9.80665 / 2048.0));
    let columns: Vec<Column> = columns.into_iter().chain(["gx", "gy", "gz"].map(|name| column(name, "rad/s", 0.0010653))).collect();
    let reading = |i: u64| {
        let noise = |salt: u64| ((i * 6 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as i32 - 32;
        let swing = ((i as i32 % 120) - 60).abs() * 9;
        let values = (0..6).map(|at| Some(noise(at) / (1 + at as i32 / 3) + swing * (at as i32 - 2))).collect::<Vec<_>>();
        let missing = i == 17 || i == 18;
        Reading {
            position: Position(4_000 + i),
            mono: Mono((i * 10_504 + 500) / 1_000 * 1_000 + 42_000_000),
            values: values.into_iter().enumerate().map(|(at, value)| value.filter(|_| !(missing && at == 4))).collect(),
        }
    };
    Block::pack(&columns, &(0..150).map(reading).collect::<Vec<_>>()).expect("within all limits")
}

/// What a block must carry although no good source says it: repeated and reordered times, extremes, bits of floats.
pub fn odd_readings() -> Block {
    let columns = [
        Column { name: "pressure".into(), unit: "Pa".into(), offset: 0.0, lsb: 0.0 },
        Column { name: "count".into(), unit: "".into(), offset: -0.5, lsb: f64::MAX },
    ];
    let raws = [0x7fc0_1234, 0xff80_0000, 0x47c5_e680, 0x47c5_e700, 0x8000_0000, 0x0000_0001].map(|bits: u32| bits.cast_signed());
    let reading = |(at, (position, mono)): (usize, (u64, u64))| Reading {
        position: Position(position),
        mono: Mono(mono),
        values: vec![(at != 2).then_some(raws[at % raws.len()]), [Some(i32::MAX), None, Some(i32::MIN)][at % 3]],
    };
    let times = [(9, 100), (7, 50), (7, 50), (8, 49), (u64::MAX, u64::MAX), (0, 0), (1 << 63, 1 << 63), (1, 1)];
    Block::pack(&columns, &times.into_iter().enumerate().map(reading).collect::<Vec<_>>()).expect("within all limits")
}

fn bodies() -> Vec<(&'static str, Body)> {
    let slot = || "vehicles".parse().expect("a slot");
    let report = |fact| Report { mono: Mono(60_500_000), clock: clock(), fact };
    let refused = Outcome::Refused { stage: Stage::SelfTest, reason: "golden sample 3 differs".into() };
    let update =
        |outcome| Fact::Update(UpdateReport { generation: Generation(8), slot: Some(slot()), target: Some("vehicles/2".into()), outcome });
    let facts = [
        Fact::Started { agent_version: "0.1.0".into() },
        update(Outcome::Progress(Stage::Verifying)),
        update(Outcome::Active),
        update(refused),
        Fact::Active { slot: slot(), model: model() },
        Fact::WorkerDied { slot: slot(), model: digest("model"), reason: "signal 9".into() },
        Fact::SourceFault { source: "imu0".parse().expect("a source"), reason: "no answer on the bus".into() },
        Fact::StorageFault { store: "spool".into(), reason: "database disk image is malformed".into() },
        Fact::Stopping,
    ];
    let frame = |position, answer| Frame { position: Position(position), mono: Mono(position * 40_000), item: "0042.jpg".into(), answer };
    let no_answers = [NoAnswer::WorkerCrash, NoAnswer::Busy, NoAnswer::BadInput, NoAnswer::NoModel, NoAnswer::Timeout];
    let frames = [Ok(answer())].into_iter().chain(no_answers.map(Err)).zip(77..).map(|(answer, at)| frame(at, answer));
    let prediction =
        Prediction { slot: slot(), from: Position(100), to: Position(289), mono: Mono(3_000_000), answer: Err(NoAnswer::Timeout) };
    let sketch = Sketch {
        slot: slot(),
        model: digest("model"),
        feature: "luma_mean".into(),
        window: 12,
        mono: Mono(7_200_000_000),
        counts: (0..32).map(|bin| bin * bin * 40).collect(),
    };
    let sample = |why| Sample {
        position: Position(80),
        mono: Mono(3_200_000),
        slot: slot(),
        item: "0080.jpg".into(),
        answer: answer(),
        why,
        jpeg: vec![0xff, 0xd8, 0xff, 0xe0, 0, 16],
        embedding: vec![0.5, -1.25, 3.0],
    };
    let downsampled = Degraded::downsample(&readings()).expect("not empty");
    let sketched = downsampled.sketch().expect("not damaged").expect("there is a step below");
    vec![
        ("agent.reports", Body::Reports(facts.map(report).to_vec())),
        ("cam0.frames", Body::Frames(frames.collect())),
        ("imu0.predictions", Body::Predictions(vec![prediction])),
        ("cam0.sketches", Body::Sketches(vec![sketch])),
        ("imu0.readings", Body::Readings(readings())),
        ("odd0.readings", Body::Readings(odd_readings())),
        ("cam0.samples", Body::Samples(vec![sample(SampleReason::LowMargin), sample(SampleReason::Random)])),
        ("imu0.readings", Body::Degraded(downsampled)),
        ("imu0.readings", Body::Degraded(sketched)),
    ]
}

fn hello() -> Hello {
    let stream = || "imu0.readings".parse().expect("a stream");
    let gap = |extent, reason| Gap {
        epoch: EPOCH,
        stream: stream(),
        extent,
        positions: Some((Position(10), Position(19))),
        span: (Wall(1_795_435_000_000), Wall(1_795_435_001_000)),
        reason,
    };
    let exact = |at: usize| Extent::Exact { first_seq: at as u64 * 10, last_seq: at as u64 * 10 + 9 };
    let mut ledger: Vec<Gap> = Reason::ALL.into_iter().enumerate().map(|(at, reason)| gap(exact(at), reason)).collect();
    ledger.push(gap(Extent::Unknown { after_seq: Some(100) }, Reason::Crash));
    ledger.push(Gap { positions: None, ..gap(Extent::Unknown { after_seq: None }, Reason::NotRunning) });
    Hello {
        epoch: EPOCH,
        clock: clock(),
        agent_version: "0.1.0".into(),
        class: "camera".parse().expect("a class"),
        wire_version: 1,
        slots: slots(),
        streams: vec![StreamHold { epoch: EPOCH, stream: stream(), lowest_held: 320, next: 650, closed: false }],
        sent: 99_000,
        ledger,
        ledger_base: 11,
        ledger_version: 4,
        generation: Generation(8),
        root_version: 1,
        targets_version: 3,
        storage_fault: true,
        started: Wall(1_795_434_980_000),
    }
}

fn slots() -> Vec<SlotStatus> {
    vec![
        SlotStatus { slot: "vehicles".parse().expect("a slot"), active: Some(model()) },
        SlotStatus { slot: "spare".parse().expect("a slot"), active: None },
    ]
}

fn desired() -> Vec<u8> {
    let target = TargetRef { path: "vehicles/2".into(), length: 9_000_000, sha256: digest("package") };
    let desired = Desired {
        kind: DesiredKind::Desired,
        fleet: "plant".parse().expect("a fleet"),
        device: "cam-31".parse().expect("a device"),
        generation: Generation(9),
        start_before: "2030-01-01T00:00:00Z".into(),
        expires: "2030-02-01T00:00:00Z".into(),
        intent: Intent::Improve,
        slots: BTreeMap::from([("vehicles".parse().expect("a slot"), target)]),
        configuration: None,
        agent: None,
    };
    signed::sign(&desired, &[&SigningKey::from_bytes(&[3; 32])]).expect("it is JSON")
}

/// All of them, each with a name of its own.
pub fn all() -> Vec<Packet> {
    let stored = batch("imu0.readings", Body::Readings(readings()));
    let batches = bodies().into_iter().map(|(stream, body)| FromDevice::Batch { sent: 150_000, batch: batch(stream, body) });
    let up = batches.chain([
        FromDevice::Hello(hello()),
        FromDevice::Gone,
        FromDevice::Need { blob: digest("blob"), chunks: vec![digest("chunk 1"), digest("chunk 2")] },
        FromDevice::Thumbnail(Thumbnail {
            slot: "vehicles".parse().expect("a slot"),
            position: Position(80),
            mono: Mono(3_200_000),
            label: Some("truck".into()),
            jpeg: vec![0xff, 0xd8, 0xff, 0xe0, 0, 16],
        }),
        FromDevice::TrustRequest { root_version: 1, targets_version: 3 },
        FromDevice::Slots(slots()),
        FromDevice::TimeRequest { nonce: 0xfeed_f00d },
    ]);
    let row = StreamRow { watermark: 500, ranges: vec![(650, 800), (900, 1_000)] };
    let (epoch, stream) = (EPOCH, stored.stream.clone());
    let down = [
        ToDevice::Ack { ack: Ack { epoch, stream: stream.clone(), row, incarnation: 77 }, credit: CREDIT },
        ToDevice::HelloAck { ledger_version: 4, credit: CREDIT },
        ToDevice::Refused { epoch, stream, first_seq: 500, reason: "the block is damaged".into(), credit: CREDIT },
        ToDevice::Desired(desired()),
        ToDevice::Trust(vec![("targets".into(), b"{}".to_vec()), ("assign".into(), desired())]),
        ToDevice::Chunk { blob: digest("blob"), chunk: digest("chunk 1"), bytes: b"chunk 1".to_vec() },
        ToDevice::NoChunk { blob: digest("blob"), chunk: digest("chunk 2") },
        ToDevice::SayHello,
        ToDevice::Time(b"{}".to_vec()),
    ];
    let mut all: Vec<Packet> = up.map(Packet::Up).chain(down.map(Packet::Down)).collect();
    all.push(Packet::Stored(stored));
    all
}

//! Batches and hellos as a correct device would send them, for tests.
//!
//! Invariant: everything here passes every check; a test breaks what it wants broken. The module exists in tests only.

pub mod postgres;
pub mod store;

use wayside_common::{
    block::Block,
    degraded::{Degraded, Fidelity},
    fleet::{Generation, Hello, ModelRef, Outcome, SlotStatus, Stage, StreamHold, UpdateReport},
    id::{DeviceId, Digest, Epoch},
    reading::{Column, Reading},
    record::{Answer, Batch, Body, Fact, Frame, NoAnswer, Prediction, Report, Sample, SampleReason, Sketch},
    schedule::Position,
    time::{ClockStamp, Mono, Wall, WallQuality},
    wire::Thumbnail,
};

/// The wall time at which every fixture's clock has `Mono(0)`.
pub const START: i64 = 1_700_000_000_000;
pub const EPOCH: Epoch = Epoch { counter: 1, nonce: 0xa };

pub fn device(name: &str) -> DeviceId {
    name.parse().expect("a device id")
}

pub fn clock(mono_ms: u64) -> ClockStamp {
    ClockStamp { mono: Mono(mono_ms * 1000), wall: Wall(START + mono_ms as i64), quality: WallQuality::Plausible }
}

pub fn batch(stream: &str, first_seq: u64, body: Body) -> Batch {
    let stream = stream.parse().expect("a stream");
    Batch { epoch: EPOCH, stream, first_seq, lowest_held: first_seq, clock: clock(1_000_000), body }
}

pub fn column(name: &str) -> Column {
    Column { name: name.into(), unit: "m/s2".into(), offset: 1.0, lsb: 0.5 }
}

/// Position p is read 10 ms after p - 1 and has the value p.
pub fn readings(positions: std::ops::Range<u64>) -> Body {
    let rows: Vec<Reading> = positions
        .map(|p| Reading { position: Position(p), mono: Mono(p * 10_000), values: vec![Some(p as i32), (p % 7 != 0).then_some(-5)] })
        .collect();
    Body::Readings(Block::pack(&[column("ax"), column("ay")], &rows).expect("two columns"))
}

/// The same readings with less left of them: downsampled, or a sketch.
pub fn degraded(positions: std::ops::Range<u64>, fidelity: Fidelity) -> Body {
    let Body::Readings(block) = readings(positions) else { unreachable!("readings") };
    let downsampled = Degraded::downsample(&block).expect("there are readings");
    Body::Degraded(match fidelity {
        Fidelity::Sketch => downsampled.sketch().expect("undamaged").expect("there is a step below"),
        Fidelity::Downsampled | Fidelity::Raw => downsampled,
    })
}

pub fn model(byte: u8) -> Digest {
    Digest([byte; 32])
}

pub fn answer(label: &str) -> Answer {
    Answer { model: model(1), label: label.into(), confidence: 0.75, margin: 0.5, micros: 1234 }
}

/// Every third position has no answer.
pub fn frames(positions: std::ops::Range<u64>) -> Body {
    let frame = |p: u64| Frame {
        position: Position(p),
        mono: Mono(p * 100_000),
        item: format!("p{p}.jpg"),
        answer: if p % 3 == 2 { Err(NoAnswer::WorkerCrash) } else { Ok(answer("car")) },
    };
    Body::Frames(positions.map(frame).collect())
}

pub fn predictions(windows: std::ops::Range<u64>) -> Body {
    let prediction = |w: u64| Prediction {
        slot: "motion".parse().expect("a slot"),
        from: Position(w * 95),
        to: Position(w * 95 + 189),
        mono: Mono(w * 1_000_000),
        answer: Ok(answer("rest")),
    };
    Body::Predictions(windows.map(prediction).collect())
}

pub fn sketches(windows: std::ops::Range<u64>) -> Body {
    let sketch = |window: u64| Sketch {
        slot: "vehicles".parse().expect("a slot"),
        model: model(1),
        feature: "image.brightness".into(),
        window,
        mono: Mono(window * 10_000_000),
        counts: (0..32).collect(),
    };
    Body::Sketches(windows.map(sketch).collect())
}

pub fn samples(positions: std::ops::Range<u64>) -> Body {
    let sample = |p: u64| Sample {
        position: Position(p),
        mono: Mono(p * 100_000),
        slot: "vehicles".parse().expect("a slot"),
        item: format!("p{p}.jpg"),
        answer: answer("truck"),
        why: SampleReason::LowMargin,
        jpeg: vec![0xff, 0xd8, p as u8],
        embedding: vec![0.5, p as f32],
    };
    Body::Samples(positions.map(sample).collect())
}

pub fn reports() -> Body {
    let report = |fact| Report { mono: Mono(5), clock: clock(0), fact };
    let progress = UpdateReport {
        generation: Generation(3),
        slot: None,
        target: Some("vehicles/2".into()),
        outcome: Outcome::Progress(Stage::Fetching),
    };
    Body::Reports(vec![report(Fact::Started { agent_version: "0.1.0".into() }), report(Fact::Update(progress))])
}

pub fn hello() -> Hello {
    let active = Some(ModelRef { name: "vehicles-sim".parse().expect("a model"), version: 1, digest: model(1) });
    Hello {
        epoch: EPOCH,
        clock: clock(0),
        agent_version: "0.1.0".into(),
        class: "camera".parse().expect("a class"),
        wire_version: 1,
        slots: vec![SlotStatus { slot: "vehicles".parse().expect("a slot"), active }],
        streams: Vec::new(),
        sent: 0,
        ledger: Vec::new(),
        ledger_version: 4,
        ledger_base: 0,
        generation: Generation(2),
        root_version: 1,
        targets_version: 1,
        storage_fault: false,
        started: Wall(START),
    }
}

pub fn hold(stream: &str, lowest_held: u64, next: u64) -> StreamHold {
    StreamHold { epoch: EPOCH, stream: stream.parse().expect("a stream"), lowest_held, next, closed: false }
}

pub fn thumbnail(position: u64) -> Thumbnail {
    Thumbnail {
        slot: "vehicles".parse().expect("a slot"),
        position: Position(position),
        mono: Mono(0),
        label: Some("car".into()),
        jpeg: vec![0xff, 0xd8, 1, 2],
    }
}

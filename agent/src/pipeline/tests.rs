//! Cameras and sensors against a judge that answers when the test says so.

use std::collections::VecDeque;

use async_trait::async_trait;
use tokio::sync::Notify;
use wayside_common::{
    fleet::ModelRef,
    id::{Digest, Epoch},
    reading::Column,
    record::{Answer, Frame, MAX_SAMPLE_JPEG, Prediction},
    schedule::Position,
    sketch::histogram::Edges,
};
use wayside_models::manifest::{WindowColumn, WindowInput};

use super::{camera::Camera, sensor::Sensor, *};
use crate::{judge::Slot, pipeline::batcher::Limits, sampling, scratch::Scratch, sensed::Sensed, source::Item, state::State, store::Store};

/// Answers each question with what stands next in its script, after the gate was opened for it.
struct Scripted {
    script: std::sync::Mutex<VecDeque<Result<&'static str, NoAnswer>>>,
    gate: Option<tokio::sync::Semaphore>,
    asked: Notify,
}

fn digest() -> Digest {
    Digest::of(b"model")
}

fn judged(label: &str) -> Judged {
    Judged {
        answer: Answer { model: digest(), label: label.into(), confidence: 0.6, margin: 0.1, micros: 5 },
        drift: vec![("output.margin".into(), 0.1)],
        embedding: vec![1.0, 2.0],
        thumbnail: Some(vec![1; 10]),
        crop: None,
    }
}

#[async_trait]
impl Judge for Scripted {
    async fn judge(&self, _: Question) -> Result<Judged, NoAnswer> {
        self.asked.notify_one();
        if let Some(gate) = &self.gate {
            gate.acquire().await.expect("the gate is never closed").forget();
        }
        let next = self.script.lock().expect("no test panics in here").pop_front();
        next.unwrap_or(Ok("car")).map(judged)
    }
}

struct Bed {
    around: Surroundings,
    cuts: mpsc::Receiver<Cut>,
    judge: Arc<Scripted>,
    loaded: watch::Sender<Option<Arc<Loaded>>>,
    slot: Slot,
    _dir: Scratch,
    _held: mpsc::Receiver<wayside_common::sync::sender::Event>,
}

fn bed(script: &[Result<&'static str, NoAnswer>], gated: bool, window: Option<WindowInput>) -> Bed {
    let dir = Scratch::new();
    let clock = Clock::start();
    let (cuts, cuts_seen) = mpsc::channel(100);
    let (held, held_seen) = mpsc::channel(100);
    let state = Store::new(State::open(dir.path()).unwrap());
    let reporter = Reporter { epoch: Epoch { counter: 1, nonce: 1 }, clock, state, held, hello_due: Arc::new(Notify::new()) };
    let around =
        Surroundings { source: "cam0".parse().unwrap(), clock, cuts, reporter, drift_window: Duration::from_secs(60), limits: Limits::of };
    let judge = Arc::new(Scripted {
        script: std::sync::Mutex::new(script.iter().copied().collect()),
        gate: gated.then(|| tokio::sync::Semaphore::new(0)),
        asked: Notify::new(),
    });
    let edges = Edges::new(&(0..31).map(|i| f64::from(i) / 31.0).collect::<Vec<_>>()).unwrap();
    let model = ModelRef { name: "m".parse().unwrap(), version: 1, digest: digest() };
    let (loaded, loaded_seen) = watch::channel(Some(Arc::new(Loaded { model, window, features: vec![("output.margin".into(), edges)] })));
    let slot = Slot { name: "vehicles".parse().unwrap(), judge: Arc::clone(&judge) as Arc<dyn Judge>, loaded: loaded_seen };
    Bed { around, cuts: cuts_seen, judge, loaded, slot, _dir: dir, _held: held_seen }
}

fn sensed(position: u64, item: Result<Item, String>) -> Sensed {
    Sensed { position: Position(position), mono: Mono(position), wall: Wall(position as i64), item }
}

fn frame(position: u64) -> Sensed {
    sensed(position, Ok(Item::Frame { jpeg: vec![0; 50], roi: None, item: format!("{position}.jpg") }))
}

/// All records of one stream, in the order in which they were cut.
async fn bodies(mut cuts: mpsc::Receiver<Cut>, stream: &str) -> Vec<Body> {
    let (mut bodies, mut next) = (Vec::new(), 0);
    while let Some(cut) = cuts.recv().await {
        if cut.stream.to_string() == stream {
            assert_eq!(cut.first_seq, next, "{stream} is dense");
            next = cut.end_seq();
            bodies.push(cut.body);
        }
    }
    bodies
}

fn frames(bodies: Vec<Body>) -> Vec<Frame> {
    bodies.into_iter().flat_map(|body| if let Body::Frames(frames) = body { frames } else { panic!("{body:?}") }).collect()
}

#[tokio::test]
async fn every_frame_is_one_record_in_order_and_a_busy_slot_is_said_so() {
    let Bed { around, cuts, judge, slot, _dir, _held, loaded: _loaded, .. } = bed(&[Ok("car"), Err(NoAnswer::WorkerCrash)], true, None);
    let (frames_in, sensed_seen) = mpsc::channel(10);
    let (outbox, mut outgoing) = mpsc::channel(10);
    let camera = Camera::new(around, true, sensed_seen, Some(slot), sampling::Config::default(), outbox);
    let camera = tokio::spawn(camera.run());
    for position in 0..4 {
        frames_in.send(frame(position)).await.unwrap();
    }
    frames_in.send(sensed(4, Err("no picture".into()))).await.unwrap();
    drop(frames_in);
    judge.asked.notified().await;
    // One at work and one waiting; the others were busy by the time the gate opens, because the task took them all in.
    while !camera.is_finished() {
        judge.gate.as_ref().unwrap().add_permits(1);
        tokio::task::yield_now().await;
    }
    let records = frames(bodies(cuts, "cam0.frames").await);
    assert_eq!(records.iter().map(|frame| frame.position.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(records[0].answer.as_ref().map(|answer| answer.label.as_str()), Ok("car"));
    assert_eq!(records[4].answer, Err(NoAnswer::BadInput));
    assert!(records[1..4].iter().any(|frame| frame.answer == Err(NoAnswer::WorkerCrash)), "{records:?}");
    let thumbnail = outgoing.recv().await.map(|outgoing| outgoing.packet);
    assert!(matches!(thumbnail, Some(wayside_common::wire::FromDevice::Thumbnail(t)) if t.position == Position(0)));
}

#[tokio::test]
async fn a_source_without_timetable_waits_and_no_frame_is_busy() {
    let Bed { around, cuts, loaded, slot, _dir, _held, judge: _judge, .. } = bed(&[], false, None);
    let model = loaded.send_replace(None);
    let (frames_in, sensed_seen) = mpsc::channel(1);
    let (outbox, _outgoing) = mpsc::channel(10);
    let camera = tokio::spawn(Camera::new(around, false, sensed_seen, Some(slot), sampling::Config::default(), outbox).run());
    let source = tokio::spawn(async move {
        for position in 0..20 {
            frames_in.send(frame(position)).await.unwrap();
        }
    });
    tokio::task::yield_now().await;
    assert!(!source.is_finished(), "without a model nothing is taken");
    loaded.send_replace(model);
    source.await.unwrap();
    camera.await.unwrap();
    let records = frames(bodies(cuts, "cam0.frames").await);
    assert_eq!(records.len(), 20);
    assert!(records.iter().all(|frame| frame.answer.is_ok()));
}

#[tokio::test]
async fn a_picture_that_the_server_would_refuse_is_no_sample() {
    let Bed { around, cuts, slot, _dir, _held, loaded: _loaded, judge: _judge } = bed(&[], false, None);
    let (frames_in, sensed_seen) = mpsc::channel(1);
    let (outbox, _outgoing) = mpsc::channel(10);
    let camera = tokio::spawn(Camera::new(around, false, sensed_seen, Some(slot), sampling::Config::default(), outbox).run());
    for (position, length) in [MAX_SAMPLE_JPEG + 1, MAX_SAMPLE_JPEG].into_iter().enumerate() {
        let item = Item::Frame { jpeg: vec![0; length], roi: None, item: String::new() };
        frames_in.send(sensed(position as u64, Ok(item))).await.unwrap();
    }
    drop(frames_in);
    camera.await.unwrap();
    let samples = bodies(cuts, "cam0.samples").await;
    let [Body::Samples(samples)] = samples.as_slice() else { panic!("{samples:?}") };
    assert_eq!(samples.iter().map(|sample| sample.position.0).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn readings_are_kept_whole_and_windows_are_judged() {
    let window = WindowInput {
        rows: 4,
        step: 4,
        period: Duration::from_millis(10),
        columns: vec![WindowColumn { name: "b".into(), unit: "1".into() }],
        features: Vec::new(),
    };
    let Bed { mut around, mut cuts, slot, _dir, _held, loaded: _loaded, judge: _judge, .. } = bed(&[Ok("rest")], false, Some(window));
    around.source = "imu0".parse().unwrap();
    let column = |name: &str| Column { name: name.into(), unit: "1".into(), offset: 0.0, lsb: 1.0 };
    let (readings_in, sensed_seen) = mpsc::channel(20);
    let sensor = tokio::spawn(Sensor::new(around, vec![column("a"), column("b")], sensed_seen, vec![slot]).run());
    for position in 0..8 {
        let item = match position {
            6 => Err("no answer on the bus".into()),
            _ => Ok(Item::Reading(vec![Some(position as i32), Some(1)])),
        };
        readings_in.send(sensed(position, item)).await.unwrap();
    }
    drop(readings_in);
    sensor.await.unwrap();
    let (mut readings, mut predictions, mut sketched) = (Vec::new(), Vec::<Prediction>::new(), 0);
    while let Some(cut) = cuts.recv().await {
        match cut.body {
            Body::Readings(block) => readings.extend(block.unpack().unwrap()),
            Body::Predictions(more) => predictions.extend(more),
            Body::Sketches(sketches) => sketched += sketches.iter().flat_map(|sketch| &sketch.counts).sum::<u32>(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(readings.iter().map(|reading| reading.position.0).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    assert_eq!(readings[6].values, [None, None]);
    let mut found: Vec<_> = predictions.iter().map(|p| (p.from.0, p.to.0, p.answer.as_ref().map(|a| a.label.clone()))).collect();
    found.sort_by_key(|(from, ..)| *from);
    assert_eq!(found, [(0, 3, Ok("rest".into())), (4, 7, Err(&NoAnswer::BadInput))]);
    assert_eq!(sketched, 1);
}

//! A sensor's task: every position becomes a reading; windows of readings become predictions.
//!
//! Invariant: a reading has one value per column, missing ones included; a fault of the source is a reading without values.
//! Not here: features of a window (`models`, in the worker).

use std::time::Duration;

use tokio::{sync::mpsc, time::sleep_until};
use wayside_common::{
    block::{Block, MAX_READINGS},
    id::{Digest, StreamKind},
    reading::{Column, Reading},
    record::{Body, NoAnswer, Prediction, Sketch},
    schedule::Position,
    time::Mono,
};
use wayside_models::manifest::WindowInput;

use super::{
    Asking, Drifting, Faults, Stream, Surroundings,
    batcher::Entry,
    earliest, push_sketches,
    window::{Row, Window, Windows},
};
use crate::{
    judge::{Judged, Question, Slot},
    sensed::Sensed,
    source::Item,
};

pub struct Sensor {
    around: Surroundings,
    columns: Vec<Column>,
    sensed: mpsc::Receiver<Sensed>,
    slots: Vec<Judging>,
    readings: Stream<Reading>,
    predictions: Stream<Prediction>,
    sketches: Stream<Sketch>,
    faults: Faults,
}

/// One slot on this source.
struct Judging {
    slot: Slot,
    asking: Asking<Asked>,
    drifting: Drifting,
    cutting: Option<Cutting>,
}

/// How windows are cut for the slot's present model.
struct Cutting {
    model: Digest,
    input: WindowInput,
    /// The model's columns among the source's.
    places: Vec<usize>,
    windows: Windows,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    from: Position,
    to: Position,
    mono: Mono,
}

impl Sensor {
    pub fn new(around: Surroundings, columns: Vec<Column>, sensed: mpsc::Receiver<Sensed>, slots: Vec<Slot>) -> Self {
        let slots = slots
            .into_iter()
            .map(|slot| Judging {
                asking: Asking::new(slot.judge.clone()),
                drifting: Drifting::new(slot.name.clone(), around.drift_window, slot.loaded.clone()),
                cutting: None,
                slot,
            })
            .collect();
        let packed = columns.clone();
        let body = move |readings: Vec<Reading>| {
            debug_assert!(readings.len() <= MAX_READINGS);
            Body::Readings(Block::pack(&packed, &readings).expect("a batch is small and every reading has the source's width"))
        };
        Self {
            readings: around.stream(StreamKind::Readings, body),
            predictions: around.stream(StreamKind::Predictions, Body::Predictions),
            sketches: around.stream(StreamKind::Sketches, Body::Sketches),
            faults: Faults::default(),
            around,
            columns,
            sensed,
            slots,
        }
    }

    /// Ends when its source has ended and every window has its answer.
    pub async fn run(mut self) {
        let mut open = true;
        while open || self.slots.iter().any(|judging| !judging.asking.is_idle()) {
            let wake = self.deadline().unwrap_or(self.around.clock.mono() + Duration::from_secs(3_600));
            tokio::select! {
                biased;
                () = sleep_until(self.around.clock.instant(wake)) => self.poll().await,
                (slot, asked, answer) = answered(&mut self.slots) => self.predict(slot, asked, answer).await,
                sensed = self.sensed.recv(), if open => match sensed {
                    Some(sensed) => self.take(sensed).await,
                    None => open = false,
                },
            }
        }
        let (now, wall) = (self.around.clock.mono(), self.around.clock.wall());
        for judging in &mut self.slots {
            let rest = judging.drifting.flush(now);
            push_sketches(&mut self.sketches, now, wall, rest).await;
        }
        self.readings.flush().await;
        self.predictions.flush().await;
        self.sketches.flush().await;
    }

    fn deadline(&self) -> Option<Mono> {
        let drift = self.slots.iter().map(|judging| judging.drifting.deadline());
        let streams = [self.readings.batcher.deadline(), self.predictions.batcher.deadline(), self.sketches.batcher.deadline()];
        earliest(drift.chain(streams))
    }

    async fn poll(&mut self) {
        let (now, wall) = (self.around.clock.mono(), self.around.clock.wall());
        for judging in &mut self.slots {
            let over = judging.drifting.poll(now);
            push_sketches(&mut self.sketches, now, wall, over).await;
        }
        self.readings.poll(now).await;
        self.predictions.poll(now).await;
        self.sketches.poll(now).await;
    }

    async fn take(&mut self, sensed: Sensed) {
        let Sensed { position, mono, wall, item } = sensed;
        let (values, fault) = match item {
            Ok(Item::Reading(values)) if values.len() == self.columns.len() => (values, None),
            Ok(_) => (vec![None; self.columns.len()], Some("an item of another shape".to_owned())),
            Err(reason) => (vec![None; self.columns.len()], Some(reason)),
        };
        self.faults.seen(&self.around, fault.as_deref()).await;
        for at in 0..self.slots.len() {
            if let Some(window) = self.slots[at].window_with(&self.columns, position, &values) {
                self.ask(at, window, mono).await;
            }
        }
        let bytes = 8 + values.len() * 4;
        let record = Reading { position, mono, values };
        self.readings.push(self.around.clock.mono(), Entry { record, bytes, position: Some(position), wall }).await;
    }

    async fn ask(&mut self, at: usize, window: Window, mono: Mono) {
        let asked = Asked { from: window.from, to: window.to, mono };
        let refused = match window.rows {
            None => Some(NoAnswer::BadInput),
            Some(rows) => self.slots[at].asking.ask(asked, Question::Window { rows }).err().map(|_| NoAnswer::Busy),
        };
        if let Some(reason) = refused {
            self.predict(at, asked, Err(reason)).await;
        }
    }

    async fn predict(&mut self, at: usize, asked: Asked, answer: Result<Judged, NoAnswer>) {
        let now = self.around.clock.mono();
        let judging = &mut self.slots[at];
        if let Ok(judged) = &answer {
            let over = judging.drifting.count(now, judged);
            push_sketches(&mut self.sketches, now, self.around.clock.wall(), over).await;
        }
        let Asked { from, to, mono } = asked;
        let record = Prediction { slot: self.slots[at].slot.name.clone(), from, to, mono, answer: answer.map(|judged| judged.answer) };
        let wall = self.around.wall_of(mono);
        self.predictions.push(now, Entry { record, bytes: 130, position: None, wall }).await;
    }
}

impl Judging {
    /// Takes a reading in for the slot's present model; gives the window that it completes.
    fn window_with(&mut self, columns: &[Column], position: Position, values: &[Option<i32>]) -> Option<Window> {
        let present = self.slot.loaded.borrow().as_ref().map(|loaded| loaded.model.digest)?;
        if self.cutting.as_ref().is_none_or(|cutting| cutting.model != present) {
            let loaded = self.slot.loaded.borrow().clone()?;
            let input = loaded.window.clone()?;
            match &mut self.cutting {
                Some(cutting) if cutting.input == input => cutting.model = present,
                _ => self.cutting = cutting(columns, present, input),
            }
        }
        let cutting = self.cutting.as_mut()?;
        let row = cutting.places.iter().map(|&at| values[at].map(|raw| columns[at].value(raw))).collect();
        cutting.windows.push(Row { position, values: row })
    }
}

/// `None`: the source lacks a column of the model.
fn cutting(columns: &[Column], model: Digest, input: WindowInput) -> Option<Cutting> {
    let place = |wanted: &str| columns.iter().position(|column| column.name == wanted);
    let places = input.columns.iter().map(|column| place(&column.name)).collect::<Option<Vec<usize>>>()?;
    let windows = Windows::new(input.rows, input.step);
    Some(Cutting { model, input, places, windows })
}

/// The next answer of any slot.
async fn answered(slots: &mut [Judging]) -> (usize, Asked, Result<Judged, NoAnswer>) {
    let mut waits: Vec<_> = slots.iter_mut().map(|judging| Box::pin(judging.asking.answered())).collect();
    std::future::poll_fn(|context| {
        for (at, wait) in waits.iter_mut().enumerate() {
            if let std::task::Poll::Ready((asked, answer)) = wait.as_mut().poll(context) {
                return std::task::Poll::Ready((at, asked, answer));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

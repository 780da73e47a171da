//! A camera's task: every position becomes a frame record, with the model's answer or the reason for none.
//!
//! Invariant: a frame for which the slot has no time is recorded as busy; a source without timetable waits instead. Not here:
//! pictures (the worker decodes them), and which frames are worth a label (`sampling`).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use wayside_common::{
    id::StreamKind,
    record::{Body, Frame, MAX_EMBEDDING, MAX_ITEM, MAX_SAMPLE_JPEG, NoAnswer, Roi, Sample, Sketch},
    schedule::Position,
    time::{Mono, Wall},
    topic::Up,
    wire::{FromDevice, Thumbnail},
};

use super::{
    Asking, Drifting, Faults, Stream, Surroundings,
    batcher::Entry,
    earliest,
    order::{InOrder, Ticket},
    push_sketches,
};
use crate::{
    judge::{Judged, Loaded, Question, Slot},
    link::{Care, Outgoing},
    sampling::{self, Sampling},
    sensed::Sensed,
    source::Item,
};

/// Two thumbnails of a camera are at least this far apart.
const THUMBNAIL_EVERY: Duration = Duration::from_secs(2);
const THUMBNAIL_MAX: usize = 16 * 1024;

pub struct Camera {
    around: Surroundings,
    sensed: mpsc::Receiver<Sensed>,
    /// The source has a timetable, and is not made to wait.
    timed: bool,
    slot: Option<Judging>,
    order: InOrder<Waiting, Result<Judged, NoAnswer>>,
    frames: Stream<Frame>,
    samples: Stream<Sample>,
    sketches: Stream<Sketch>,
    sampling: Sampling,
    faults: Faults,
    outbox: mpsc::Sender<Outgoing>,
    thumbnail_after: Mono,
}

/// A camera's slot: one, because a frame record has one answer.
struct Judging {
    slot: Slot,
    asking: Asking<Ticket>,
    drifting: Drifting,
}

/// A frame whose answer is not there yet.
struct Waiting {
    position: Position,
    mono: Mono,
    wall: Wall,
    item: String,
    jpeg: Option<Arc<Vec<u8>>>,
}

impl Camera {
    pub fn new(
        around: Surroundings,
        timed: bool,
        sensed: mpsc::Receiver<Sensed>,
        slot: Option<Slot>,
        samples: sampling::Config,
        outbox: mpsc::Sender<Outgoing>,
    ) -> Self {
        let slot = slot.map(|slot| Judging {
            asking: Asking::new(Arc::clone(&slot.judge)),
            drifting: Drifting::new(slot.name.clone(), around.drift_window, slot.loaded.clone()),
            slot,
        });
        Self {
            frames: around.stream(StreamKind::Frames, Body::Frames),
            samples: around.stream(StreamKind::Samples, Body::Samples),
            sketches: around.stream(StreamKind::Sketches, Body::Sketches),
            sampling: Sampling::new(samples),
            faults: Faults::default(),
            order: InOrder::default(),
            thumbnail_after: Mono(0),
            around,
            sensed,
            timed,
            slot,
            outbox,
        }
    }

    /// Ends when its source has ended and every frame has left.
    pub async fn run(mut self) {
        let mut open = true;
        let mut model = self.slot.as_ref().map(|judging| judging.slot.loaded.clone());
        while open || !self.order.is_empty() {
            let room = self.timed || self.slot.as_ref().is_none_or(Judging::takes_frames);
            let now = self.around.clock.mono();
            let wake = self.deadline().unwrap_or(now + Duration::from_secs(3_600));
            tokio::select! {
                biased;
                () = sleep_until(self.around.clock.instant(wake)) => self.poll().await,
                (ticket, answer) = answered(&mut self.slot) => self.order.answer(ticket, answer),
                () = changed(&mut model), if !room => {}
                sensed = self.sensed.recv(), if open && room => match sensed {
                    Some(sensed) => self.take(sensed).await,
                    None => open = false,
                },
            }
            while let Some((frame, answer)) = self.order.pop() {
                self.record(frame, answer).await;
            }
        }
        let now = self.around.clock.mono();
        let wall = self.around.clock.wall();
        if let Some(judging) = &mut self.slot {
            let rest = judging.drifting.flush(now);
            push_sketches(&mut self.sketches, now, wall, rest).await;
        }
        self.frames.flush().await;
        self.samples.flush().await;
        self.sketches.flush().await;
    }

    fn deadline(&self) -> Option<Mono> {
        let drift = self.slot.as_ref().and_then(|judging| judging.drifting.deadline());
        earliest([self.frames.batcher.deadline(), self.samples.batcher.deadline(), self.sketches.batcher.deadline(), drift])
    }

    async fn poll(&mut self) {
        let now = self.around.clock.mono();
        let wall = self.around.clock.wall();
        if let Some(judging) = &mut self.slot {
            let over = judging.drifting.poll(now);
            push_sketches(&mut self.sketches, now, wall, over).await;
        }
        self.frames.poll(now).await;
        self.samples.poll(now).await;
        self.sketches.poll(now).await;
    }

    async fn take(&mut self, sensed: Sensed) {
        let Sensed { position, mono, wall, item } = sensed;
        let fault = item.as_ref().err().cloned();
        self.faults.seen(&self.around, fault.as_deref()).await;
        let waiting = |item, jpeg| Waiting { position, mono, wall, item, jpeg };
        match item {
            Ok(Item::Frame { jpeg, roi, item }) => {
                let jpeg = Arc::new(jpeg);
                let ticket = self.order.open(waiting(cut_text(item), Some(Arc::clone(&jpeg))));
                self.ask(ticket, jpeg, roi);
            }
            Ok(Item::Reading(_)) | Err(_) => {
                let ticket = self.order.open(waiting(String::new(), None));
                self.order.answer(ticket, Err(NoAnswer::BadInput));
            }
        }
    }

    fn ask(&mut self, ticket: Ticket, jpeg: Arc<Vec<u8>>, roi: Option<Roi>) {
        let thumbnail = self.around.clock.mono() >= self.thumbnail_after;
        let refused = match &mut self.slot {
            Some(judging) if judging.slot.loaded.borrow().is_some() => {
                judging.asking.ask(ticket, Question::Frame { jpeg, roi, thumbnail }).err().map(|_| NoAnswer::Busy)
            }
            _ => Some(NoAnswer::NoModel),
        };
        if let Some(reason) = refused {
            self.order.answer(ticket, Err(reason));
        }
    }

    async fn record(&mut self, frame: Waiting, answer: Result<Judged, NoAnswer>) {
        let now = self.around.clock.mono();
        if let Ok(judged) = &answer {
            self.learn(now, &frame, judged).await;
        }
        let bytes = 120 + frame.item.len();
        let (position, wall) = (frame.position, frame.wall);
        let record = Frame { position, mono: frame.mono, item: frame.item, answer: answer.map(|judged| judged.answer) };
        self.frames.push(now, Entry { record, bytes, position: Some(position), wall }).await;
    }

    /// What an answer is good for besides its record: drift counts, a picture for people, a sample to label.
    async fn learn(&mut self, now: Mono, frame: &Waiting, judged: &Judged) {
        let Some(judging) = &mut self.slot else { return };
        let over = judging.drifting.count(now, judged);
        push_sketches(&mut self.sketches, now, self.around.clock.wall(), over).await;
        let slot = judging.slot.name.clone();
        if let Some(jpeg) = judged.thumbnail.as_ref().filter(|jpeg| jpeg.len() <= THUMBNAIL_MAX) {
            self.thumbnail_after = now + THUMBNAIL_EVERY;
            let thumbnail = Thumbnail {
                slot: slot.clone(),
                position: frame.position,
                mono: frame.mono,
                label: Some(judged.answer.label.clone()),
                jpeg: jpeg.clone(),
            };
            // The next one replaces it, so a full outbox drops it.
            let _ = self.outbox.try_send(Outgoing { up: Up::Blob, packet: FromDevice::Thumbnail(thumbnail), care: Care::Lossy });
        }
        let Some(jpeg) = judged.crop.as_ref().or(frame.jpeg.as_deref()).filter(|jpeg| jpeg.len() <= MAX_SAMPLE_JPEG) else { return };
        if judged.embedding.len() > MAX_EMBEDDING {
            return;
        }
        let bytes = jpeg.len() + judged.embedding.len() * 4 + 200;
        if let Some(why) = self.sampling.choose(now, &judged.answer, bytes) {
            let record = Sample {
                position: frame.position,
                mono: frame.mono,
                slot,
                item: frame.item.clone(),
                answer: judged.answer.clone(),
                why,
                jpeg: jpeg.clone(),
                embedding: judged.embedding.clone(),
            };
            self.samples.push(now, Entry { record, bytes, position: None, wall: frame.wall }).await;
        }
    }
}

impl Judging {
    /// There is a model, and it has time.
    fn takes_frames(&self) -> bool {
        self.asking.has_room() && self.slot.loaded.borrow().is_some()
    }
}

/// Waits for another model to be loaded.
async fn changed(model: &mut Option<watch::Receiver<Option<Arc<Loaded>>>>) {
    let changed = match model {
        Some(model) => model.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}

async fn answered(slot: &mut Option<Judging>) -> (Ticket, Result<Judged, NoAnswer>) {
    match slot {
        Some(judging) => judging.asking.answered().await,
        None => std::future::pending().await,
    }
}

fn cut_text(mut text: String) -> String {
    let end = (0..=MAX_ITEM.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

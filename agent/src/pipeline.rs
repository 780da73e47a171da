//! From what was sensed to records: one task per source gives them their seq, asks the models, and cuts batches.
//!
//! Invariant: one position becomes exactly one record, with its answer or the reason for none, and records leave in the order
//! of their positions. Not here: storing (`keeper`), the models (`judge`).

pub mod batcher;
pub mod camera;
pub mod order;
pub mod sensor;
pub mod window;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use wayside_common::{
    id::{Class, SlotName, SourceName, StreamId, StreamKind},
    record::{Body, Fact, NoAnswer, Sketch},
    time::{Mono, Wall},
};

use crate::{
    clock::{Clock, wall_at},
    drift::{Counted, Counter},
    judge::{Judge, Judged, Loaded, Question},
    pipeline::batcher::{Batcher, Entry, Limits, Run},
    report::Reporter,
    spool::Cut,
};

/// What every source's task has.
#[derive(Clone)]
pub struct Surroundings {
    pub source: SourceName,
    pub clock: Clock,
    pub cuts: mpsc::Sender<Cut>,
    pub reporter: Reporter,
    /// Length of a drift window.
    pub drift_window: Duration,
    /// When a batch is full.
    pub limits: fn(Class) -> Limits,
}

impl Surroundings {
    fn stream<T>(&self, kind: StreamKind, body: impl Fn(Vec<T>) -> Body + Send + 'static) -> Stream<T> {
        let id = StreamId { source: self.source.clone(), kind };
        Stream { id, batcher: Batcher::new((self.limits)(kind.class())), body: Box::new(body), cuts: self.cuts.clone() }
    }

    fn wall_of(&self, mono: Mono) -> Wall {
        wall_at(&self.clock.stamp(), mono)
    }
}

/// One stream on its way to the store.
struct Stream<T> {
    id: StreamId,
    batcher: Batcher<T>,
    body: Box<dyn Fn(Vec<T>) -> Body + Send>,
    cuts: mpsc::Sender<Cut>,
}

impl<T> Stream<T> {
    async fn push(&mut self, now: Mono, entry: Entry<T>) {
        for run in self.batcher.push(now, entry) {
            self.send(run).await;
        }
    }

    async fn poll(&mut self, now: Mono) {
        if let Some(run) = self.batcher.poll(now) {
            self.send(run).await;
        }
    }

    async fn flush(&mut self) {
        if let Some(run) = self.batcher.flush() {
            self.send(run).await;
        }
    }

    /// Waits while the keeper is behind: sensing then reads late, and nothing is left out.
    async fn send(&mut self, run: Run<T>) {
        let Run { first_seq, records, positions, span } = run;
        let cut = Cut { stream: self.id.clone(), first_seq, body: (self.body)(records), positions, span };
        if self.cuts.send(cut).await.is_err() {
            tracing::error!(stream = %self.id, "the keeper has ended before its sources");
        }
    }
}

/// One slot's questions: one at work, one waiting, no more.
struct Asking<K> {
    judge: Arc<dyn Judge>,
    at_work: JoinSet<(K, Result<Judged, NoAnswer>)>,
    waiting: Option<(K, Question)>,
}

impl<K: Send + 'static> Asking<K> {
    fn new(judge: Arc<dyn Judge>) -> Self {
        Self { judge, at_work: JoinSet::new(), waiting: None }
    }

    fn has_room(&self) -> bool {
        self.waiting.is_none()
    }

    fn is_idle(&self) -> bool {
        self.at_work.is_empty() && self.waiting.is_none()
    }

    /// Asks, or gives the key back: the slot is busy.
    fn ask(&mut self, key: K, question: Question) -> Result<(), K> {
        if !self.has_room() {
            return Err(key);
        }
        self.waiting = Some((key, question));
        self.advance();
        Ok(())
    }

    fn advance(&mut self) {
        if self.at_work.is_empty()
            && let Some((key, question)) = self.waiting.take()
        {
            let judge = Arc::clone(&self.judge);
            self.at_work.spawn(async move { (key, judge.judge(question).await) });
        }
    }

    /// The next answer; never comes while nothing was asked. May be dropped and called again.
    async fn answered(&mut self) -> (K, Result<Judged, NoAnswer>) {
        match self.at_work.join_next().await {
            Some(Ok(answered)) => {
                self.advance();
                answered
            }
            Some(Err(failed)) => std::panic::resume_unwind(failed.into_panic()),
            None => std::future::pending().await,
        }
    }
}

/// The counts of one slot's present model.
struct Drifting {
    slot: SlotName,
    window: Duration,
    loaded: watch::Receiver<Option<Arc<Loaded>>>,
    counting: Option<(Arc<Loaded>, Counter)>,
}

impl Drifting {
    fn new(slot: SlotName, window: Duration, loaded: watch::Receiver<Option<Arc<Loaded>>>) -> Self {
        Self { slot, window, loaded, counting: None }
    }

    /// Counts what the worker said; gives the sketches that are complete.
    fn count(&mut self, now: Mono, judged: &Judged) -> Vec<Sketch> {
        let mut over = Vec::new();
        if self.counting.as_ref().is_none_or(|(loaded, _)| loaded.model.digest != judged.answer.model) {
            over = self.flush(now);
            let present = self.loaded.borrow().clone().filter(|loaded| loaded.model.digest == judged.answer.model);
            self.counting = present.map(|loaded| {
                let counter = Counter::new(self.window, loaded.features.clone());
                (loaded, counter)
            });
        }
        if let Some((loaded, counter)) = &mut self.counting {
            let counted = counter.count(now, judged.drift.iter().map(|(name, value)| (name.as_str(), *value)));
            over.extend(sketches(&self.slot, loaded, now, counted));
        }
        over
    }

    fn deadline(&self) -> Option<Mono> {
        self.counting.as_ref().and_then(|(_, counter)| counter.deadline())
    }

    fn poll(&mut self, now: Mono) -> Vec<Sketch> {
        match &mut self.counting {
            Some((loaded, counter)) => sketches(&self.slot, loaded, now, counter.poll(now)),
            None => Vec::new(),
        }
    }

    fn flush(&mut self, now: Mono) -> Vec<Sketch> {
        match &mut self.counting {
            Some((loaded, counter)) => sketches(&self.slot, loaded, now, counter.flush()),
            None => Vec::new(),
        }
    }
}

fn sketches(slot: &SlotName, loaded: &Loaded, now: Mono, counted: Vec<Counted>) -> Vec<Sketch> {
    counted
        .into_iter()
        .map(|Counted { feature, window, counts }| Sketch {
            slot: slot.clone(),
            model: loaded.model.digest,
            feature,
            window,
            mono: now,
            counts: counts.0.to_vec(),
        })
        .collect()
}

async fn push_sketches(stream: &mut Stream<Sketch>, now: Mono, wall: Wall, sketches: Vec<Sketch>) {
    for sketch in sketches {
        let bytes = 140 + sketch.feature.len();
        stream.push(now, Entry { record: sketch, bytes, position: None, wall }).await;
    }
}

/// Tells of a source's faults: once when they begin, not for each position.
#[derive(Default)]
struct Faults {
    faulty: bool,
}

impl Faults {
    async fn seen(&mut self, around: &Surroundings, fault: Option<&str>) {
        if let Some(reason) = fault
            && !self.faulty
        {
            let fact = Fact::SourceFault { source: around.source.clone(), reason: reason.chars().take(200).collect() };
            around.reporter.report(fact).await;
        }
        self.faulty = fault.is_some();
    }
}

fn earliest(deadlines: impl IntoIterator<Item = Option<Mono>>) -> Option<Mono> {
    deadlines.into_iter().flatten().min()
}

#[cfg(test)]
mod tests;

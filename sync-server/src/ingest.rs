//! Takes what devices publish: decode, check, commit in groups, answer.
//!
//! Invariant: an ack is made only from a committed receipt; nothing a device sends may panic, allocate without bound or change what
//! is stored already. Not here: MQTT (`broker`), SQL (`db`), what to answer about releases ([`ControlPlane`]).

pub mod check;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use wayside_common::{
    fleet::{Hello, SlotStatus, UpdateReport},
    id::{DeviceId, Digest},
    record::{Answer, Batch, Body, Fact, NoAnswer, Report},
    sync::{
        credit::Credit,
        receiver::{Ack, Verdict},
    },
    time::{ClockStamp, Mono, Wall},
    topic::{Down, Up},
    wire::{self, FromDevice, Thumbnail, ToDevice},
};

use crate::{
    broker::{Ingest, Reply, Taken},
    clock,
    db::{
        Db,
        telemetry::{Arrival, PictureReceipt, Receipt, Tally},
    },
    events::{Event, Events},
    pki::timestamp::Timestamp,
};

/// How many batches may wait for a commit; their devices wait with them.
const WAITING: usize = 256;
/// No transaction takes more batches.
const GROUP: usize = 64;

/// What decides about releases answers a device through this. Every method may be called again with what it heard before: a
/// device repeats itself until it is acked.
#[async_trait]
pub trait ControlPlane: Send + Sync {
    /// The device has said what it runs and which versions it trusts; answers what is newer for it.
    async fn hello(&self, device: &DeviceId, hello: &Hello) -> Vec<Reply>;
    /// The device lacks these chunks of a blob.
    async fn need(&self, device: &DeviceId, blob: Digest, chunks: Vec<Digest>) -> Vec<Reply>;
    /// The device asks for trust documents newer than these versions.
    async fn trust_request(&self, device: &DeviceId, root_version: u64, targets_version: u64) -> Vec<Reply>;
    /// How far an update is; called before the report is acked. An error: the report is not acked and comes again.
    async fn report(&self, device: &DeviceId, report: &UpdateReport) -> anyhow::Result<()>;
}

/// See the module.
pub struct Intake {
    db: Arc<dyn Db>,
    control: Arc<dyn ControlPlane>,
    events: Events,
    commits: mpsc::Sender<Waiting>,
    /// Devices that said hello since this server started; the others are asked to.
    greeted: Mutex<BTreeSet<DeviceId>>,
    /// Says what time it is; without it no device is told.
    timestamp: Option<Timestamp>,
}

/// A batch, and who waits for its receipt.
type Waiting = (Arrival, oneshot::Sender<Receipt>);

impl Intake {
    /// Starts the task that commits; it ends when the intake is dropped.
    pub fn start(db: Arc<dyn Db>, control: Arc<dyn ControlPlane>, events: Events) -> Self {
        let (commits, queue) = mpsc::channel(WAITING);
        tokio::spawn(commit_in_groups(db.clone(), queue));
        Self { db, control, events, commits, greeted: Mutex::default(), timestamp: None }
    }

    /// From now on devices that ask for the time are answered.
    pub fn vouching(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    async fn packet(&self, device: &DeviceId, packet: FromDevice) -> Taken {
        match packet {
            FromDevice::Batch { sent, batch } => self.batch(device, sent, batch).await,
            FromDevice::Hello(hello) => self.hello(device, &hello).await,
            FromDevice::Gone => {
                self.presence(device, false).await;
                Taken::Committed(Vec::new())
            }
            FromDevice::Slots(slots) => self.slots(device, &slots).await,
            FromDevice::Thumbnail(thumbnail) => self.thumbnail(device, &thumbnail).await,
            FromDevice::Need { blob, chunks } => Taken::Committed(self.control.need(device, blob, chunks).await),
            FromDevice::TimeRequest { nonce } => self.time(nonce),
            FromDevice::TrustRequest { root_version, targets_version } => {
                Taken::Committed(self.control.trust_request(device, root_version, targets_version).await)
            }
        }
    }

    async fn batch(&self, device: &DeviceId, sent: u64, batch: Batch) -> Taken {
        if let Err(reason) = check::batch(&batch) {
            return self.refuse(device, sent, &batch, reason);
        }
        let (answer, receipt) = oneshot::channel();
        let arrival = Arrival { device: device.clone(), batch: batch.clone(), received: clock::wall() };
        if self.commits.send((arrival, answer)).await.is_err() {
            return Taken::Unavailable("the committing task has ended".into());
        }
        match receipt.await {
            Ok(Receipt::Stored { ack, verdict, tally }) => {
                if let Err(e) = self.reports(device, &batch.body).await {
                    return Taken::Unavailable(format!("a report could not be applied: {e:#}"));
                }
                self.announce(device, &batch, verdict, tally);
                let ask = self.unknown(device).then_some(Reply { down: Down::Cmd, packet: ToDevice::SayHello });
                Taken::Committed([self.ack(sent, ack)].into_iter().chain(ask).collect())
            }
            // The row without this batch: the device sees what is committed, and sends the batch again in its own time.
            Ok(Receipt::Deferred { ack }) => Taken::Committed(vec![self.ack(sent, ack)]),
            Ok(Receipt::Refused(reason)) => self.refuse(device, sent, &batch, reason),
            Ok(Receipt::Failed(reason)) => Taken::Unavailable(reason),
            Err(_) => Taken::Unavailable("the commit failed".into()),
        }
    }

    /// A device sends a batch until it is answered; this one is answered by its name.
    fn refuse(&self, device: &DeviceId, sent: u64, batch: &Batch, reason: String) -> Taken {
        tracing::warn!(%device, stream = %batch.stream, first_seq = batch.first_seq, reason, "a batch is refused for good");
        let (epoch, stream, first_seq) = (batch.epoch, batch.stream.clone(), batch.first_seq);
        let packet = ToDevice::Refused { epoch, stream, first_seq, reason, credit: self.credit(sent) };
        Taken::Committed(vec![Reply { down: Down::Ack, packet }])
    }

    fn ack(&self, sent: u64, ack: Ack) -> Reply {
        Reply { down: Down::Ack, packet: ToDevice::Ack { ack, credit: self.credit(sent) } }
    }

    /// By how many batches wait for their commit: the one back-pressure of the intake.
    fn credit(&self, sent: u64) -> Credit {
        Credit::grant(sent, WAITING - self.commits.capacity(), WAITING)
    }

    /// What reports change beside their own rows. Done for those that came before as well: the server may have died in between.
    async fn reports(&self, device: &DeviceId, body: &Body) -> anyhow::Result<()> {
        let Body::Reports(reports) = body else { return Ok(()) };
        for Report { fact, .. } in reports {
            match fact {
                Fact::Update(update) => self.control.report(device, update).await?,
                Fact::StorageFault { store, reason } => {
                    tracing::error!(%device, store, reason, "a device reports a storage fault");
                    self.db.set_storage_fault(device).await?;
                    self.events.publish(Event::Alert { device: Some(device.clone()), text: format!("storage fault in {store}: {reason}") });
                }
                Fact::WorkerDied { slot, reason, .. } => tracing::warn!(%device, %slot, reason, "a worker died"),
                Fact::SourceFault { source, reason } => tracing::warn!(%device, %source, reason, "a source has a fault"),
                // What runs now comes with hello and `Slots`, which are never older than what they replace.
                Fact::Active { .. } | Fact::Started { .. } | Fact::Stopping => {}
            }
        }
        Ok(())
    }

    fn announce(&self, device: &DeviceId, batch: &Batch, verdict: Verdict, tally: Tally) {
        if tally.differing > 0 {
            let text = format!(
                "{} records of {} in epoch {} from seq {} came again with other content; the first ones stay",
                tally.differing, batch.stream, batch.epoch, batch.first_seq
            );
            tracing::error!(%device, "{text}");
            self.events.publish(Event::Alert { device: Some(device.clone()), text });
        }
        if verdict == Verdict::Overlap {
            tracing::warn!(%device, stream = %batch.stream, first_seq = batch.first_seq, "a batch overlaps with what is stored");
        }
        if tally.replaced > 0 {
            tracing::debug!(%device, stream = %batch.stream, first_seq = batch.first_seq, records = tally.replaced, "came in higher fidelity");
        }
        if tally.stored + tally.replaced > 0
            && let Some(event) = newest(device, batch)
        {
            self.events.publish(event);
        }
    }

    async fn hello(&self, device: &DeviceId, hello: &Hello) -> Taken {
        if let Err(reason) = check::hello(hello) {
            return Taken::Refused(reason);
        }
        let receipt = match self.db.hello(device, hello, clock::wall()).await {
            Ok(receipt) => receipt,
            Err(e) => return Taken::Unavailable(format!("{e:#}")),
        };
        self.greeted.lock().unwrap_or_else(PoisonError::into_inner).insert(device.clone());
        self.events.publish(Event::Device { device: device.clone(), online: true });
        self.events.publish(Event::Slots { device: device.clone() });
        if receipt.new_gaps > 0 {
            self.events.publish(Event::Gaps { device: device.clone(), new: receipt.new_gaps });
        }
        if let Some(alert) = receipt.alert {
            tracing::error!(%device, "{alert}");
            self.events.publish(Event::Alert { device: Some(device.clone()), text: alert });
        }
        let packet = ToDevice::HelloAck { ledger_version: receipt.ledger_version, credit: self.credit(hello.sent) };
        let mut replies = vec![Reply { down: Down::Ack, packet }];
        replies.extend(self.control.hello(device, hello).await);
        Taken::Committed(replies)
    }

    async fn slots(&self, device: &DeviceId, slots: &[SlotStatus]) -> Taken {
        if slots.len() > check::MAX_SLOTS {
            return Taken::Refused(format!("{} slots, and {} are allowed", slots.len(), check::MAX_SLOTS));
        }
        match self.db.set_slots(device, slots, clock::wall()).await {
            Ok(()) => {
                self.events.publish(Event::Slots { device: device.clone() });
                Taken::Committed(Vec::new())
            }
            Err(e) => Taken::Unavailable(format!("{e:#}")),
        }
    }

    async fn thumbnail(&self, device: &DeviceId, thumbnail: &Thumbnail) -> Taken {
        if let Err(reason) = check::thumbnail(thumbnail) {
            return Taken::Refused(reason);
        }
        match self.db.keep_thumbnail(device, thumbnail, clock::wall()).await {
            Ok(PictureReceipt::Kept) => {
                let (slot, label) = (thumbnail.slot.clone(), thumbnail.label.clone());
                self.events.publish(Event::Thumbnail { device: device.clone(), slot, label });
                Taken::Committed(Vec::new())
            }
            Ok(PictureReceipt::Late) => Taken::Committed(Vec::new()),
            Ok(PictureReceipt::NoSlot) => Taken::Refused(format!("a picture of slot {}, which the device did not name", thumbnail.slot)),
            Err(e) => Taken::Unavailable(format!("{e:#}")),
        }
    }

    async fn presence(&self, device: &DeviceId, online: bool) {
        match self.db.presence(device, online, clock::wall()).await {
            Ok(()) => self.events.publish(Event::Device { device: device.clone(), online }),
            Err(e) => tracing::error!(%device, online, "presence could not be stored: {e:#}"),
        }
    }

    /// The time of the answer, not of the question: what lay in a queue in between does not count.
    fn time(&self, nonce: u64) -> Taken {
        match &self.timestamp {
            Some(timestamp) => {
                let packet = ToDevice::Time(timestamp.answer(nonce, clock::wall()));
                Taken::Committed(vec![Reply { down: Down::Trust, packet }])
            }
            None => Taken::Refused("this server vouches for no time".into()),
        }
    }

    fn unknown(&self, device: &DeviceId) -> bool {
        !self.greeted.lock().unwrap_or_else(PoisonError::into_inner).contains(device)
    }
}

#[async_trait]
impl Ingest for Intake {
    async fn take(&self, device: &DeviceId, up: Up, bytes: &[u8]) -> Taken {
        let packet: FromDevice = match wire::decode(bytes) {
            Ok(packet) => packet,
            Err(e) => return Taken::Refused(e.to_string()),
        };
        if !check::topic(up, &packet) {
            return Taken::Refused(format!("not what belongs on the topic of {up:?}"));
        }
        self.packet(device, packet).await
    }

    async fn connected(&self, device: &DeviceId) {
        self.presence(device, true).await;
    }

    async fn disconnected(&self, device: &DeviceId) {
        self.presence(device, false).await;
    }
}

/// Everything that waits goes into one transaction: under load groups grow by themselves, alone a batch waits for nothing.
async fn commit_in_groups(db: Arc<dyn Db>, mut queue: mpsc::Receiver<Waiting>) {
    let mut group = Vec::new();
    while queue.recv_many(&mut group, GROUP).await > 0 {
        let (arrivals, answers): (Vec<_>, Vec<_>) = group.drain(..).unzip();
        match db.commit(arrivals).await {
            Ok(receipts) => {
                for (answer, receipt) in answers.into_iter().zip(receipts) {
                    // Who does not wait any more gets its ack when the batch comes again.
                    let _ = answer.send(receipt);
                }
            }
            Err(e) => {
                tracing::error!("a commit of {} batches failed: {e:#}", answers.len());
                for answer in answers {
                    let _ = answer.send(Receipt::Failed(format!("{e:#}")));
                }
            }
        }
    }
}

/// The device's wall time of a record, by the two clocks of its batch.
pub fn wall_of(clock: &ClockStamp, mono: Mono) -> Wall {
    let ahead_us = i128::from(mono.0) - i128::from(clock.mono.0);
    let wall = i128::from(clock.wall.0) + ahead_us.div_euclid(1000);
    Wall(i64::try_from(wall).unwrap_or(if wall < 0 { i64::MIN } else { i64::MAX }))
}

fn newest(device: &DeviceId, batch: &Batch) -> Option<Event> {
    let device = device.clone();
    let source = batch.stream.source.clone();
    let said = |answer: &Result<Answer, NoAnswer>| answer.as_ref().map_or((None, None), |a| (Some(a.label.clone()), Some(a.confidence)));
    Some(match &batch.body {
        Body::Frames(frames) => {
            let frame = frames.last()?;
            let (label, confidence) = said(&frame.answer);
            let wall_ms = wall_of(&batch.clock, frame.mono).0;
            Event::Frame { device, source, position: frame.position.0, wall_ms, label, confidence }
        }
        Body::Predictions(predictions) => {
            let prediction = predictions.last()?;
            let (label, confidence) = said(&prediction.answer);
            let wall_ms = wall_of(&batch.clock, prediction.mono).0;
            Event::Prediction { device, slot: prediction.slot.clone(), wall_ms, label, confidence }
        }
        Body::Readings(block) => Event::Readings { device, source, count: block.len() as u64 },
        Body::Sketches(_) => Event::Sketches { device },
        Body::Samples(samples) => Event::Samples { device, count: samples.len() as u64 },
        Body::Degraded(degraded) => Event::Readings { device, source, count: degraded.len() as u64 },
        Body::Reports(_) => return None,
    })
}

#[cfg(test)]
mod tests;

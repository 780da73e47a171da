//! The uplink: one task that feeds the sender's machine, performs its actions over the link, and hands on what comes down.
//!
//! Invariant: a batch is deleted only because the server's ack covered it; a connection begins with a hello, and nothing else
//! is sent before it. Not here: which batch goes next (`common::sync::sender`), the stores' SQL.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep_until,
};
use wayside_common::{
    fleet::{Hello, StreamHold},
    gap::Reason,
    id::{Class, DeviceClass, DeviceId, Epoch, FleetId},
    sync::sender::{Action, BatchKey, Event, Limits, Sender},
    time::{Mono, Wall},
    topic::{Topic, Up},
    wire::{self, FromDevice, ToDevice},
};

use crate::{
    clock::Clock,
    keeper::GivenUp,
    link::{Arrived, Care, Installed, Link, LinkEvent, Outgoing},
    spool::{Mark, Spool, Taken},
    state::State,
    store::Store,
};

pub const LIMITS: Limits = Limits { in_flight: 8, resend: Duration::from_secs(5), resend_max: Duration::from_secs(30) };

/// A connection on which nothing came back for so long, while something waits for its ack, is wedged.
const WEDGED: Duration = Duration::from_secs(20);
/// What the disk refused to delete is tried again.
const DELETE_AGAIN: Duration = Duration::from_secs(10);
/// A ledger that stays unacked is said again.
const HELLO_AGAIN: Duration = Duration::from_secs(10);

/// Who this device is, for as long as it runs.
#[derive(Clone, Debug)]
pub struct Identity {
    pub fleet: FleetId,
    pub device: DeviceId,
    pub class: DeviceClass,
    pub epoch: Epoch,
    pub started: Wall,
}

pub struct Uplink {
    pub identity: Identity,
    pub clock: Clock,
    pub link: Box<dyn Link>,
    pub sender: Sender,
    pub spool: Store<Spool>,
    pub state: Store<State>,
    /// What is durable now, or given up.
    pub held: mpsc::Receiver<Event>,
    pub outbox: mpsc::Receiver<Outgoing>,
    pub arrived: mpsc::Sender<Arrived>,
    /// To the keeper: what nobody can send any more.
    pub given_up: mpsc::Sender<GivenUp>,
    pub hello_due: Arc<Notify>,
    pub installed: watch::Receiver<Installed>,
    pub storage_fault: watch::Receiver<bool>,
    /// Set when everything is written: from then on the task ends as soon as everything is acked.
    pub stop: watch::Receiver<Option<Mono>>,
}

/// How the task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Batches that wait on disk for the next start.
    pub left: usize,
}

/// What the task remembers of the present connection.
struct Connection {
    up: bool,
    last_heard: Mono,
    /// Since when a batch waits for its ack without a pause.
    waits_since: Option<Mono>,
    /// The ledger that the last hello carried is not yet acked.
    ledger_said: Option<Mono>,
    /// What the last hello or slots told of the updater.
    said: Option<Installed>,
    /// Acked, and the disk refuses to delete them; not before this time again.
    undeleted: Option<(Mono, Vec<BatchKey>)>,
}

impl Connection {
    fn new(now: Mono) -> Self {
        Self { up: false, last_heard: now, waits_since: None, ledger_said: None, said: None, undeleted: None }
    }

    fn waits(&mut self, waits: bool, now: Mono) {
        self.waits_since = waits.then(|| self.waits_since.unwrap_or(now));
    }

    /// Silence counts from when there was something to answer: a link on which nobody spoke is idle, not wedged.
    fn wedged_at(&self) -> Option<Mono> {
        self.waits_since.map(|since| since.max(self.last_heard) + WEDGED)
    }
}

impl Uplink {
    pub async fn run(mut self) -> Drained {
        let mut connection = Connection::new(self.clock.mono());
        loop {
            self.perform(&mut connection).await;
            connection.waits(self.sender.waits_since().is_some(), self.clock.mono());
            if self.is_over(&connection) {
                break;
            }
            let wake = self.clock.instant(self.wake_at(&connection));
            // In this order, so that a broker that never stops talking holds up neither the end nor what is due.
            tokio::select! {
                biased;
                Ok(()) = self.stop.changed() => {}
                () = sleep_until(wake) => self.on_time(&mut connection).await,
                Some(event) = self.held.recv() => {
                    let now = self.clock.mono();
                    self.sender.handle(now, event);
                    while let Ok(event) = self.held.try_recv() {
                        self.sender.handle(now, event);
                    }
                }
                () = self.hello_due.notified() => self.say_hello(&mut connection).await,
                Ok(()) = self.installed.changed() => self.say_installed(&mut connection).await,
                Some(outgoing) = self.outbox.recv() => {
                    if connection.up {
                        self.link.publish(outgoing.up, wire::encode(&outgoing.packet), outgoing.care);
                    }
                }
                event = self.link.next() => self.on_link(event, &mut connection).await,
            }
        }
        self.link.publish(Up::State, wire::encode(&FromDevice::Gone), Care::Acked);
        self.link.close().await;
        Drained { left: self.sender.backlog() }
    }

    fn is_over(&self, connection: &Connection) -> bool {
        match *self.stop.borrow() {
            None => false,
            Some(deadline) => (self.sender.done() && connection.ledger_said.is_none()) || self.clock.mono() >= deadline,
        }
    }

    fn wake_at(&self, connection: &Connection) -> Mono {
        let idle = self.clock.mono() + Duration::from_secs(3_600);
        let again = connection.ledger_said.filter(|_| connection.up).map(|said| said + HELLO_AGAIN);
        let delete = connection.undeleted.as_ref().map(|(at, _)| *at);
        [self.sender.deadline(), connection.wedged_at(), again, delete, *self.stop.borrow()].into_iter().flatten().fold(idle, Mono::min)
    }

    async fn on_time(&mut self, connection: &mut Connection) {
        let now = self.clock.mono();
        if connection.up && connection.wedged_at().is_some_and(|at| now >= at) {
            tracing::warn!("the link is wedged; a new client is made");
            self.link.rebuild();
            self.lost(connection);
            return;
        }
        self.sender.handle(now, Event::Tick);
        if connection.ledger_said.is_some_and(|said| now >= said + HELLO_AGAIN) {
            self.say_hello(connection).await;
        }
    }

    async fn on_link(&mut self, event: LinkEvent, connection: &mut Connection) {
        match event {
            LinkEvent::Up => {
                tracing::info!(backlog = self.sender.backlog(), "connected");
                connection.up = true;
                connection.last_heard = self.clock.mono();
                self.say_hello(connection).await;
                self.sender.handle(self.clock.mono(), Event::Connected);
                self.hand_on(Arrived::Connected);
            }
            LinkEvent::Down(reason) => {
                if connection.up {
                    tracing::info!(%reason, "disconnected");
                }
                self.lost(connection);
            }
            LinkEvent::Received { topic, bytes } => {
                connection.last_heard = self.clock.mono();
                match wire::decode::<ToDevice>(&bytes) {
                    Ok(packet) => self.on_packet(topic, packet, connection).await,
                    Err(error) => tracing::warn!(%topic, %error, "a packet cannot be read"),
                }
            }
        }
    }

    fn lost(&mut self, connection: &mut Connection) {
        connection.up = false;
        connection.waits(false, self.clock.mono());
        self.sender.handle(self.clock.mono(), Event::Disconnected);
    }

    async fn on_packet(&mut self, topic: Topic, packet: ToDevice, connection: &mut Connection) {
        let everybody = matches!(topic, Topic::AllTrust(_) | Topic::AllBlob(..));
        match packet {
            ToDevice::Ack { ack, credit } if !everybody => {
                let now = self.clock.mono();
                self.sender.handle(now, Event::Credit(credit));
                self.sender.handle(now, Event::Ack(ack));
            }
            ToDevice::HelloAck { ledger_version, credit } if !everybody => {
                self.sender.handle(self.clock.mono(), Event::Credit(credit));
                self.ledger_acked(ledger_version, connection).await;
            }
            ToDevice::Refused { epoch, stream, first_seq, reason, credit } if !everybody => {
                self.sender.handle(self.clock.mono(), Event::Credit(credit));
                let key = BatchKey { class: stream.kind.class(), epoch, first_seq, stream };
                self.give_up(GivenUp { key, reason: Reason::Refused, why: reason });
            }
            ToDevice::SayHello => self.say_hello(connection).await,
            packet => self.hand_on(Arrived::Packet(packet)),
        }
    }

    async fn ledger_acked(&mut self, version: u64, connection: &mut Connection) {
        if let Err(error) = self.state.with(move |state| state.ledger_acked(version)).await {
            tracing::error!(%error, "the acked ledger cannot be deleted");
        }
        connection.ledger_said = None;
        let more = self.state.with(|state| state.ledger()).await;
        if more.is_ok_and(|ledger| !ledger.gaps.is_empty()) {
            self.say_hello(connection).await;
        }
    }

    /// To the keeper. If it is busy, the batch is sent again later, and the same comes of it.
    fn give_up(&self, given_up: GivenUp) {
        if self.given_up.try_send(given_up).is_err() {
            tracing::debug!("the keeper is busy; a batch is given up later");
        }
    }

    /// To the updater. It asks again for what does not come, so a full queue drops.
    fn hand_on(&self, arrived: Arrived) {
        if self.arrived.try_send(arrived).is_err() {
            tracing::debug!("the updater is busy; a packet for it is dropped");
        }
    }

    async fn perform(&mut self, connection: &mut Connection) {
        let now = self.clock.mono();
        let mut acked = match connection.undeleted.take_if(|(at, _)| *at <= now) {
            Some((_, keys)) => keys,
            None => Vec::new(),
        };
        while let Some(action) = self.sender.poll() {
            match action {
                Action::Send { key, sent } => self.send(key, sent).await,
                Action::Delete(key) => acked.push(key),
            }
        }
        if acked.is_empty() {
            return;
        }
        if let Some((at, mut keys)) = connection.undeleted.take() {
            // The disk has just refused others.
            keys.extend(acked);
            connection.undeleted = Some((at, keys));
            return;
        }
        let left = self.delete(acked).await;
        connection.undeleted = (!left.is_empty()).then(|| (self.clock.mono() + DELETE_AGAIN, left));
    }

    /// Gives back what the disk refuses to delete: it is tried again, and after a new start sent again and known.
    async fn delete(&mut self, keys: Vec<BatchKey>) -> Vec<BatchKey> {
        let (vital, rest): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.class == Class::Vital);
        let mut left = Vec::new();
        if !vital.is_empty() {
            let keys = vital.clone();
            if let Err(error) = self.state.with(move |state| state.delete_vital(&keys)).await {
                tracing::error!(%error, "acked reports cannot be deleted");
                left.extend(vital);
            }
        }
        if !rest.is_empty() {
            let keys = rest.clone();
            if let Err(error) = self.spool.with(move |spool| spool.delete(&keys)).await {
                tracing::error!(%error, "acked batches cannot be deleted");
                left.extend(rest);
            }
        }
        left
    }

    async fn send(&mut self, key: BatchKey, sent: u64) {
        let wanted = key.clone();
        let taken = match key.class {
            Class::Vital => self
                .state
                .with(move |state| state.vital(&wanted))
                .await
                .map(|blob| blob.map_or(Taken::Gone, Taken::Blob))
                .map_err(|error| error.to_string()),
            Class::Normal | Class::Bulk => self.spool.with(move |spool| spool.take(&wanted)).await.map_err(|error| error.to_string()),
        };
        match taken {
            Ok(Taken::Blob(blob)) => {
                // If there is no room the machine sends it again when it is late.
                if let Some(packet) = wire::batch_packet(sent, &blob) {
                    self.link.publish(Up::Batch, packet, Care::Acked);
                }
            }
            Ok(Taken::Gone) => self.sender.handle(self.clock.mono(), Event::GivenUp(key)),
            Ok(Taken::Damaged) => {
                self.give_up(GivenUp { key, reason: Reason::SpoolLost, why: "its bytes are not those that were written".into() })
            }
            Err(error) => tracing::error!(%error, stream = %key.stream, "a batch cannot be read"),
        }
    }

    /// The slots alone, or a hello where more has changed.
    async fn say_installed(&mut self, connection: &mut Connection) {
        let now = self.installed.borrow_and_update().clone();
        let said = connection.said.replace(now.clone());
        let other = |said: &Installed| Installed { slots: Vec::new(), ..said.clone() } != Installed { slots: Vec::new(), ..now.clone() };
        if said.as_ref().is_none_or(other) {
            self.say_hello(connection).await;
        } else if connection.up && said.as_ref() != Some(&now) {
            self.link.publish(Up::State, wire::encode(&FromDevice::Slots(now.slots)), Care::Acked);
        }
    }

    async fn say_hello(&mut self, connection: &mut Connection) {
        if !connection.up {
            return;
        }
        match self.hello().await {
            Ok(hello) => {
                connection.ledger_said = (!hello.ledger.is_empty()).then(|| self.clock.mono());
                connection.said = Some(self.installed.borrow().clone());
                self.link.publish(Up::State, wire::encode(&FromDevice::Hello(hello)), Care::Acked);
            }
            Err(error) => {
                tracing::error!(%error, "a hello cannot be made");
                // Whether there is a ledger is not known; it is looked for again after a while, not at once.
                connection.ledger_said = Some(self.clock.mono());
            }
        }
    }

    async fn hello(&mut self) -> anyhow::Result<Hello> {
        let (ledger, vital) = self.state.with(|state| state.ledger().and_then(|ledger| Ok((ledger, state.vital_holds()?)))).await?;
        let marks = self.spool.with(|spool| spool.marks()).await?;
        let installed = self.installed.borrow().clone();
        Ok(Hello {
            epoch: self.identity.epoch,
            clock: self.clock.stamp(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            class: self.identity.class.clone(),
            wire_version: wire::VERSION,
            slots: installed.slots,
            streams: holds(self.identity.epoch, marks, vital),
            sent: self.sender.sent(),
            ledger: ledger.gaps,
            ledger_version: ledger.version,
            ledger_base: ledger.base,
            generation: installed.generation,
            root_version: installed.root_version,
            targets_version: installed.targets_version,
            storage_fault: *self.storage_fault.borrow(),
            started: self.identity.started,
        })
    }
}

/// What the device holds of each stream, by what its stores say.
fn holds(present: Epoch, marks: Vec<Mark>, vital: Vec<StreamHold>) -> Vec<StreamHold> {
    let spooled = marks.into_iter().map(|mark| StreamHold {
        epoch: mark.epoch,
        stream: mark.stream,
        lowest_held: mark.lowest_held.unwrap_or(mark.next_seq),
        next: mark.next_seq,
        closed: false,
    });
    spooled.chain(vital).map(|hold| StreamHold { closed: hold.epoch != present, ..hold }).collect()
}

#[cfg(test)]
mod tests;

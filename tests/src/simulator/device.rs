//! A simulated device: the agent's own stores, epoch, pipeline, keeper and uplink on a disk in RAM and a link in RAM.
//!
//! Invariant: between two lives nothing survives but the disk (and the oracle's notes). Not here: the models and the updater, which
//! have no part in what is stored; when it dies (`mix`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use fastrand::Rng;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};
use wayside_agent::{
    clock::Clock,
    epoch::{self, Opened},
    keeper::Keeper,
    link::{Care, Installed, Link, LinkEvent, Outgoing},
    pipeline::{Surroundings, batcher::Limits, camera::Camera, sensor::Sensor},
    report::Reporter,
    sense::Timetable,
    sensed::Sensed,
    source::{Shape, Source},
    spool::{self, Spool},
    state::State,
    store::Store,
    uplink::{self, Drained, Identity, Uplink},
};
use wayside_common::{
    id::{Class, DeviceId, Epoch, SourceName},
    record::Fact,
    schedule::Position,
    sync::sender::{Event, Sender},
    time::Mono,
    topic::Up,
};

use super::{
    clock::SimClock,
    disk::{Disk, Image},
    source::{Handed, SimSource, sense},
};

/// What a device's link tells the world.
pub struct Said {
    pub device: usize,
    /// Which life said it; what the dead said is not heard.
    pub life: u32,
    pub what: What,
}

pub enum What {
    Publish {
        up: Up,
        bytes: Vec<u8>,
    },
    /// The agent throws its connection away.
    Rebuild,
    Close,
}

struct SimLink {
    device: usize,
    life: u32,
    said: mpsc::UnboundedSender<Said>,
    events: mpsc::UnboundedReceiver<LinkEvent>,
}

#[async_trait]
impl Link for SimLink {
    async fn next(&mut self) -> LinkEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
    fn publish(&mut self, up: Up, bytes: Vec<u8>, _: Care) -> bool {
        self.say(What::Publish { up, bytes })
    }
    fn rebuild(&mut self) {
        self.say(What::Rebuild);
    }
    async fn close(&mut self) {
        self.say(What::Close);
    }
}

impl SimLink {
    fn say(&self, what: What) -> bool {
        self.said.send(Said { device: self.device, life: self.life, what }).is_ok()
    }
}

/// A running agent.
pub struct Life {
    pub epoch: Epoch,
    pub state: Store<State>,
    pub spool: Store<Spool>,
    pub events: mpsc::UnboundedSender<LinkEvent>,
    clock: Clock,
    reporter: Reporter,
    sense: JoinHandle<()>,
    pipeline: JoinHandle<()>,
    keeper: JoinHandle<()>,
    uplink: JoinHandle<Drained>,
    forward: JoinHandle<()>,
    stop: watch::Sender<Option<Mono>>,
}

pub struct Device {
    pub index: usize,
    pub id: DeviceId,
    pub disk: Disk,
    pub wall: &'static SimClock,
    pub source: SimSource,
    pub handed: Handed,
    /// How many lives it had.
    pub lives: u32,
    pub life: Option<Life>,
    /// What lay on the disk a while ago.
    pub image: Option<Image>,
    spool: spool::Config,
    rng: Rng,
}

/// Cuts batches of up to fifteen readings, so that a run has many records and not as many transactions.
fn limits(class: Class) -> Limits {
    Limits { count: 15, bytes: 48 * 1024, age: Duration::from_secs(if class == Class::Bulk { 540 } else { 360 }) }
}

impl Device {
    pub fn new(index: usize, spool: spool::Config, mut rng: Rng) -> Self {
        let wall = SimClock::leak();
        let source = SimSource { seed: rng.u64(..), camera: index % 4 == 3, anchor: wall.truth().plus(Duration::from_secs(rng.u64(..36))) };
        Self {
            index,
            id: format!("device-{index}").parse().expect("a device's name"),
            disk: Disk::new(),
            wall,
            source,
            handed: Handed::default(),
            lives: 0,
            life: None,
            image: None,
            spool,
            rng,
        }
    }

    pub fn source_name(&self) -> SourceName {
        if self.source.camera { "cam0" } else { "imu0" }.parse().expect("a source's name")
    }

    /// Starts the agent. An error: the disk refuses; it is started again later, as by a service manager.
    pub async fn start(&mut self, said: mpsc::UnboundedSender<Said>) -> anyhow::Result<()> {
        let clock = Clock::with(self.wall);
        let at = clock.stamp();
        let dir = self.disk.root();
        let mut state = State::open_in(&*self.disk.folder(), &dir)?;
        let (mut spool, damage) = Spool::open_in(self.disk.folder(), &dir, &self.spool)?;
        if damage.is_some() {
            state.set_storage_fault()?;
        }
        epoch::recover(&mut state, &spool, at.wall)?;
        let opened = Opened { name: self.source_name(), source: Box::new(self.source.clone()) };
        let begun = epoch::begin(&mut state, &mut spool, &[opened], self.rng.u64(..), at, damage.as_ref())?;
        let first = *begun.first.get(&self.source_name()).context("the source has no first position")?;
        let timetable = Timetable::new(self.source.schedule(), first, &at);
        self.handed.lock().unwrap_or_else(PoisonError::into_inner).push((begun.epoch, Vec::new()));

        let mut sender = Sender::new(uplink::LIMITS, begun.epoch.nonce);
        for held in state.held()?.into_iter().chain(spool.held()?) {
            sender.handle(clock.mono(), Event::Held { key: held.key, end_seq: held.end_seq, bytes: held.bytes });
        }
        self.lives += 1;
        let stores = (Store::inline(state), Store::inline(spool));
        self.life = Some(self.live(begun.epoch, clock, stores, sender, (timetable, first), said).await);
        Ok(())
    }

    /// Joins the tasks as the agent does, without models.
    async fn live(
        &self,
        epoch: Epoch,
        clock: Clock,
        (state, spool): (Store<State>, Store<Spool>),
        sender: Sender,
        (timetable, first): (Timetable, Position),
        said: mpsc::UnboundedSender<Said>,
    ) -> Life {
        let fault = state.with(|state| state.storage_fault().unwrap_or(true)).await;
        let (storage_fault, storage_fault_seen) = watch::channel(fault);
        let (held, held_seen) = mpsc::channel(256);
        let (cuts, cuts_seen) = mpsc::channel(64);
        let (given_up, given_up_seen) = mpsc::channel(8);
        let (outbox, outbox_seen) = mpsc::channel(64);
        let (arrived, _) = mpsc::channel(64);
        let (_, installed) = watch::channel(Installed::default());
        let (stop, stop_seen) = watch::channel(None);
        let (_, facts) = mpsc::channel(16);
        let (sensed, sensed_seen) = mpsc::channel(256);
        let (events, events_seen) = mpsc::unbounded_channel();
        let hello_due = Arc::new(Notify::new());
        let reporter = Reporter { epoch, clock, state: state.clone(), held, hello_due: Arc::clone(&hello_due) };

        let link = Box::new(SimLink { device: self.index, life: self.lives, said, events: events_seen });
        let uplink = Uplink {
            identity: self.identity(epoch, clock),
            clock,
            link,
            sender,
            spool: spool.clone(),
            state: state.clone(),
            held: held_seen,
            outbox: outbox_seen,
            arrived,
            given_up,
            hello_due,
            installed,
            storage_fault: storage_fault_seen,
            stop: stop_seen,
        };
        let uplink = tokio::spawn(uplink.run());
        let keeper = Keeper { spool: spool.clone(), reporter: reporter.clone(), cuts: cuts_seen, given_up: given_up_seen, storage_fault };
        let keeper = tokio::spawn(keeper.run());
        let forward = tokio::spawn(reporter.clone().forward(facts));
        reporter.report(Fact::Started { agent_version: env!("CARGO_PKG_VERSION").into() }).await;
        let around = Surroundings {
            source: self.source_name(),
            clock,
            cuts,
            reporter: reporter.clone(),
            drift_window: Duration::from_secs(3_600),
            limits,
        };
        let pipeline = self.pipeline(around, sensed_seen, outbox);
        let sense = tokio::spawn(sense(self.source.clone(), timetable, first, clock, sensed, Arc::clone(&self.handed)));
        Life { epoch, state, spool, events, clock, reporter, sense, pipeline, keeper, uplink, forward, stop }
    }

    fn identity(&self, epoch: Epoch, clock: Clock) -> Identity {
        let (fleet, class) = ("sim".parse().expect("a fleet's name"), "sim".parse().expect("a class's name"));
        Identity { fleet, device: self.id.clone(), class, epoch, started: clock.wall() }
    }

    fn pipeline(&self, around: Surroundings, sensed: mpsc::Receiver<Sensed>, outbox: mpsc::Sender<Outgoing>) -> JoinHandle<()> {
        match self.source.shape() {
            Shape::Camera => tokio::spawn(Camera::new(around, true, sensed, None, Default::default(), outbox).run()),
            Shape::Columns(columns) => tokio::spawn(Sensor::new(around, columns, sensed, Vec::new()).run()),
        }
    }

    /// The process dies between two instructions.
    pub async fn kill(&mut self) {
        self.disk.kill();
        let Some(life) = self.life.take() else { return };
        for handle in [&life.sense, &life.pipeline, &life.keeper, &life.forward] {
            handle.abort();
        }
        life.uplink.abort();
        // A task that was stopped is gone when it is waited for; its connections to the stores with it.
        for handle in [life.sense, life.pipeline, life.keeper, life.forward] {
            gone(handle).await;
        }
        gone(life.uplink).await;
    }

    /// Nothing more is sensed; what was is written, and the uplink goes on.
    pub async fn end_sensing(&mut self) -> anyhow::Result<()> {
        let Some(life) = &mut self.life else { return Ok(()) };
        life.sense.abort();
        let _ = (&mut life.sense).await;
        (&mut life.pipeline).await.context("the pipeline failed")?;
        (&mut life.keeper).await.context("the keeper failed")
    }

    /// As the agent stops: everything is written, the epoch is closed, the uplink gets a little time.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(life) = self.life.take() else { return Ok(()) };
        life.reporter.report(Fact::Stopping).await;
        life.sense.abort();
        let _ = life.sense.await;
        life.pipeline.await.context("the pipeline failed")?;
        life.keeper.await.context("the keeper failed")?;
        let epoch = life.epoch;
        // A disk that refuses makes the end an unclean one.
        let _ = life.state.with(move |state| state.end_epoch(epoch)).await;
        life.stop.send_replace(Some(life.clock.mono() + Duration::from_secs(5)));
        life.uplink.await.context("the uplink failed")?;
        life.forward.abort();
        let _ = life.forward.await;
        Ok(())
    }
}

async fn gone<T>(handle: JoinHandle<T>) {
    if !handle.is_finished() {
        let _ = handle.await;
    }
}

/// Which position has a name; what was handed on under it.
pub fn position_of(handed: &Mutex<Vec<(Epoch, Vec<Position>)>>, epoch: &str, seq: u64) -> Option<Position> {
    let handed = handed.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, positions) = handed.iter().find(|(named, _)| named.to_string() == epoch)?;
    positions.get(usize::try_from(seq).ok()?).copied()
}

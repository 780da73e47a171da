//! The composition root: opens the stores, begins the epoch, makes every task and joins them by channels.
//!
//! Invariant: it only constructs and, at the end, waits; every decision lies in what it constructs. Imported by `main` alone.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use wayside_common::{
    fleet::{ModelRef, SlotStatus},
    id::{SlotName, SourceName},
    record::Fact,
    sync::sender::{Event, Sender},
    time::{Mono, Wall},
    trust::set::TrustedSet,
};
use wayside_models::package::Package;

use crate::{
    clock::{Clock, Timekeeper},
    config::{Config, SlotConfig},
    enroll::{identity::Identity as Enrolled, task::Renewal},
    epoch::{self, Begun, Opened},
    fit,
    judge::{Slot, Workshop},
    keeper::Keeper,
    link::{
        Arrived, Installed, Outgoing,
        mqtt::{Mqtt, address::BrokerUrl, secured::Secured},
    },
    pipeline::{Surroundings, batcher::Limits, camera::Camera, sensor::Sensor},
    report::Reporter,
    sense::{self, Sensing},
    source::{Pace, Shape},
    spool::{Cut, Spool},
    state::State,
    store::Store,
    supervisor::{self, Supervisor},
    updater::{
        event::{Memory, Now},
        machine::Machine,
        slots::Slots,
        task::{Place, Updater},
    },
    uplink::{self, Drained, Identity, Uplink},
};

/// How long the end may take, all in all.
const DRAIN: Duration = Duration::from_secs(5);
/// Sensed items that are not yet taken.
const SENSED: usize = 256;
const CUTS: usize = 64;
const HELD: usize = 256;
const OUTBOX: usize = 64;

/// A running agent.
pub struct Agent {
    clock: Clock,
    reporter: Reporter,
    sensing: Vec<Sensing>,
    pipelines: Vec<JoinHandle<()>>,
    keeper: JoinHandle<()>,
    uplink: JoinHandle<Drained>,
    updater: JoinHandle<()>,
    renewal: Option<JoinHandle<()>>,
    stop: watch::Sender<Option<Mono>>,
}

/// How the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Everything that was sensed is on disk.
    pub clean: bool,
    /// Batches that the server has not committed; they wait for the next start.
    pub left: usize,
}

/// The stores, and what the start found in them.
struct Opening {
    state: State,
    spool: Spool,
    sources: Vec<Opened>,
    begun: Begun,
    memory: Memory,
    /// Where each slot's model lies.
    present: Vec<(SlotConfig, PathBuf)>,
    slots: Slots,
}

impl Agent {
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_with(config, Clock::start()).await
    }

    /// With a clock that may show anything.
    pub async fn start_with(config: Config, clock: Clock) -> anyhow::Result<Self> {
        let (way, started) = (Way::find(&config)?, clock.wall());
        let Opening { state, spool, sources, begun, memory, present, slots } = open(&config, clock)?;
        let mut sender = Sender::new(uplink::LIMITS, begun.epoch.nonce);
        for held in state.held()?.into_iter().chain(spool.held()?) {
            sender.handle(clock.mono(), Event::Held { key: held.key, end_seq: held.end_seq, bytes: held.bytes });
        }
        let (storage_fault, storage_fault_seen) = watch::channel(state.storage_fault()?);
        let time = Timekeeper::new(clock, state.signed_time()?);
        let (arrived, arrived_seen) = arrivals(&state)?;
        let (state, spool) = (Store::new(state), Store::new(spool));
        let (held, held_seen) = mpsc::channel(HELD);
        let (cuts, cuts_seen) = mpsc::channel(CUTS);
        let (given_up, given_up_seen) = mpsc::channel(8);
        let (outbox, outbox_seen) = mpsc::channel(OUTBOX);
        let (installed, installed_seen) = watch::channel(installed(&memory));
        let (stop, stop_seen) = watch::channel(None);
        let (facts, facts_seen) = mpsc::channel(16);
        let hello_due = Arc::new(Notify::new());
        let reporter = Reporter { epoch: begun.epoch, clock, state: state.clone(), held, hello_due: Arc::clone(&hello_due) };
        tokio::spawn(reporter.clone().forward(facts_seen));

        let device = config.device.clone();
        let (secured, renewal) = way.secure(&config.data_dir, &time, &state);
        let link = Box::new(Mqtt::start(&way.broker, secured, &device.fleet, &device.id));
        let identity = Identity { fleet: device.fleet, device: device.id, class: device.class, epoch: begun.epoch, started };
        let uplink = Uplink {
            identity,
            clock,
            link,
            sender,
            spool: spool.clone(),
            state,
            held: held_seen,
            outbox: outbox_seen,
            arrived,
            given_up,
            hello_due,
            installed: installed_seen,
            storage_fault: storage_fault_seen,
            stop: stop_seen,
        };
        let uplink = tokio::spawn(uplink.run());
        let keeper = Keeper { spool, reporter: reporter.clone(), cuts: cuts_seen, given_up: given_up_seen, storage_fault };
        let keeper = tokio::spawn(keeper.run());
        reporter.report(Fact::Started { agent_version: env!("CARGO_PKG_VERSION").into() }).await;

        let models = Models { clock, time, memory, present: &present, sources: &sources, slots, reporter: reporter.clone() };
        let (judges, updater) = models.start(config.samples.margin_below, facts, arrived_seen, outbox.clone(), installed).await?;
        let start = Start { clock, config: &config, begun: &begun, reporter: reporter.clone(), cuts, outbox };
        let mut running = (Vec::new(), Vec::new());
        for opened in sources {
            let slots = slots_of(&opened.name, &config.slots, &judges);
            let (thread, pipeline) = start.source(opened, slots)?;
            running.0.push(thread);
            running.1.push(pipeline);
        }
        let (sensing, pipelines) = running;
        Ok(Self { clock, reporter, sensing, pipelines, keeper, uplink, updater, renewal, stop })
    }

    /// Stops sensing, writes everything, closes the epoch, and gives the uplink the rest of the time.
    pub async fn stop(self) -> Stopped {
        let deadline = self.clock.mono() + DRAIN;
        self.reporter.report(Fact::Stopping).await;
        drop(self.sensing);
        let written = async {
            for pipeline in self.pipelines {
                pipeline.await.context("a pipeline failed")?;
            }
            self.keeper.await.context("the keeper failed")
        };
        let clean = match timeout(DRAIN / 2, written).await {
            Ok(Ok(())) => {
                let epoch = self.reporter.epoch;
                self.reporter.state.with(move |state| state.end_epoch(epoch)).await.is_ok()
            }
            Ok(Err(error)) => {
                tracing::error!(error = format!("{error:#}"), "the end is not clean");
                false
            }
            Err(_) => {
                tracing::error!("a source or its pipeline does not end");
                false
            }
        };
        self.updater.abort();
        if let Some(renewal) = self.renewal {
            renewal.abort();
        }
        self.stop.send_replace(Some(deadline));
        let left = self.uplink.await.map_or(usize::MAX, |drained| drained.left);
        Stopped { clean, left }
    }
}

/// To the updater. A device that has forgotten what it obeyed obeys nothing until it is repaired: the updater loads the models and ends.
fn arrivals(state: &State) -> anyhow::Result<(mpsc::Sender<Arrived>, mpsc::Receiver<Arrived>)> {
    let (arrived, seen) = mpsc::channel(OUTBOX);
    Ok(if state.damage()?.is_some() { (arrived, mpsc::channel(1).1) } else { (arrived, seen) })
}

fn open(config: &Config, clock: Clock) -> anyhow::Result<Opening> {
    let at = clock.stamp();
    std::fs::create_dir_all(&config.data_dir).with_context(|| format!("{} cannot be made", config.data_dir.display()))?;
    let mut state = State::open(&config.data_dir)?;
    let (mut spool, damage) = Spool::open(&config.data_dir, &config.spool)?;
    if let Some(damage) = &damage {
        tracing::error!(reason = damage.reason, saved = damage.saved, lost = damage.lost, "the spool was damaged");
        state.set_storage_fault()?;
    }
    epoch::recover(&mut state, &spool, at.wall)?;
    let nonce = getrandom::u64().context("the system gives no random number")?;
    let sources = config.sources.iter().map(|source| epoch::open(&mut state, source, at.wall)).collect::<anyhow::Result<Vec<Opened>>>()?;
    let begun = epoch::begin(&mut state, &mut spool, &sources, nonce, at, damage.as_ref())?;

    let slots = Slots::open(&config.data_dir)?;
    let rows = state.slots()?;
    let mut present = Vec::new();
    let mut running: BTreeMap<SlotName, Option<ModelRef>> = BTreeMap::new();
    for slot in &config.slots {
        let row = rows.iter().find(|row| row.slot == slot.name);
        let chosen = row.and_then(|row| slots.find(&slot.name, row.active.digest));
        if row.is_some() && chosen.is_none() {
            tracing::error!(slot = %slot.name, "the active package is damaged; the one that the device ships with runs instead");
        }
        let (dir, model) = match chosen {
            Some(package) => (slots.dir(&slot.name, package.digest()), Some(package.model_ref())),
            None => {
                let shipped = Package::open(&slot.package)
                    .inspect_err(|error| tracing::error!(slot = %slot.name, %error, "the model that the device ships with cannot be read"));
                (slot.package.clone(), shipped.ok().map(|package| package.model_ref()))
            }
        };
        running.insert(slot.name.clone(), model);
        present.push((slot.clone(), dir));
    }
    let memory = Memory {
        fleet: config.device.fleet.clone(),
        device: config.device.id.clone(),
        trusted: trusted(&state, config)?,
        obeyed: state.generation()?,
        slots: running,
        update: state.update()?,
    };
    Ok(Opening { state, spool, sources, begun, memory, present, slots })
}

/// The root that was trusted last, or the one that came with the device; and the targets under it.
fn trusted(state: &State, config: &Config) -> anyhow::Result<TrustedSet> {
    let root = match state.trust("root")? {
        Some(root) => root,
        None => {
            let root = config.trust.root.clone().unwrap_or_else(|| Enrolled::root(&config.data_dir));
            let hint = || format!("{} cannot be read; a device that is enrolled has one", root.display());
            std::fs::read(&root).with_context(hint)?
        }
    };
    let mut trusted = TrustedSet::from_root(&root).context("the trusted root")?;
    if let Some(targets) = state.trust("targets")?
        && let Err(error) = trusted.update_targets(&targets)
    {
        tracing::warn!(%error, "the targets that were trusted do not fit the root; newer ones are asked for when needed");
    }
    Ok(trusted)
}

fn installed(memory: &Memory) -> Installed {
    Installed {
        slots: memory.slots.iter().map(|(slot, active)| SlotStatus { slot: slot.clone(), active: active.clone() }).collect(),
        generation: memory.obeyed,
        root_version: memory.trusted.root_version(),
        targets_version: memory.trusted.targets_version(),
    }
}

fn places(present: &[(SlotConfig, PathBuf)], judges: &[Slot], sources: &[Opened]) -> Vec<Place> {
    let mut places = Vec::new();
    for (slot, dir) in present {
        let (Some(judge), Some(source)) =
            (judges.iter().find(|judge| judge.name == slot.name), sources.iter().find(|source| source.name == slot.source))
        else {
            continue;
        };
        let shape = source.source.shape();
        places.push(Place { slot: judge.clone(), present: dir.clone(), fits: Arc::new(move |package| fit::check(&shape, package)) });
    }
    places
}

fn slots_of(source: &SourceName, configs: &[SlotConfig], judges: &[Slot]) -> Vec<Slot> {
    let here = configs.iter().filter(|slot| slot.source == *source);
    here.filter_map(|slot| judges.iter().find(|judge| judge.name == slot.name).cloned()).collect()
}

/// The way to the server: the broker, and with TLS who this device is.
struct Way {
    broker: BrokerUrl,
    identity: Option<Enrolled>,
}

impl Way {
    fn find(config: &Config) -> anyhow::Result<Self> {
        let enrolled = match Enrolled::load(&config.data_dir) {
            Ok(enrolled) => enrolled,
            Err(error) => {
                // Sensing goes on, and nothing is sent until a person has enrolled it again.
                tracing::error!(error = format!("{error:#}"), "this device has lost its identity");
                return Ok(Self { broker: config.link.broker.clone().unwrap_or_else(BrokerUrl::nowhere), identity: None });
            }
        };
        let told = || enrolled.as_ref().map(|identity| identity.broker.parse()).transpose().context("the broker that the server named");
        let broker: Option<BrokerUrl> = match &config.link.broker {
            Some(broker) => Some(broker.clone()),
            None => told()?,
        };
        let broker = broker.context("this device belongs to no server: wayside-agent enroll URL --token TOKEN")?;
        if !broker.secure {
            return Ok(Self { broker, identity: None });
        }
        let identity = enrolled.with_context(|| format!("{broker} needs a certificate: wayside-agent enroll URL --token TOKEN"))?;
        anyhow::ensure!(
            (&identity.device, &identity.fleet) == (&config.device.id, &config.device.fleet),
            "the certificate is for {} of {}, and the configuration says {} of {}",
            identity.device,
            identity.fleet,
            config.device.id,
            config.device.fleet
        );
        Ok(Self { broker, identity: Some(identity) })
    }

    /// Starts what keeps certificate and time, where there are any.
    fn secure(&self, data_dir: &Path, time: &Timekeeper, state: &Store<State>) -> (Option<Secured>, Option<JoinHandle<()>>) {
        let Some(identity) = &self.identity else { return (None, None) };
        if let Ok(validity) = identity.validity() {
            // The CA has signed that it is not earlier than this.
            time.signed(validity.from);
        }
        tokio::spawn(keep_time(time.answers(), state.clone()));
        let (identity, identity_seen) = watch::channel(Arc::new(identity.clone()));
        let refused = Arc::new(Notify::new());
        let renewal = Renewal { data_dir: data_dir.to_owned(), identity, time: time.clone(), refused: Arc::clone(&refused) };
        let secured = Secured { identity: identity_seen, time: time.clone(), refused };
        (Some(secured), Some(tokio::spawn(renewal.run())))
    }
}

/// What the server vouched for outlives a restart.
async fn keep_time(mut answers: watch::Receiver<Option<Wall>>, state: Store<State>) {
    while answers.changed().await.is_ok() {
        let Some(at) = *answers.borrow_and_update() else { continue };
        if let Err(error) = state.with(move |state| state.set_signed_time(at)).await {
            tracing::error!(%error, "the signed time cannot be kept");
        }
    }
}

/// What starting the workers and the updater takes.
struct Models<'a> {
    clock: Clock,
    time: Timekeeper,
    memory: Memory,
    present: &'a [(SlotConfig, PathBuf)],
    sources: &'a [Opened],
    slots: Slots,
    reporter: Reporter,
}

impl Models<'_> {
    /// Sensing does not wait until models are loaded, so every slot begins empty.
    async fn start(
        self,
        details_below: f32,
        facts: mpsc::Sender<Fact>,
        arrived: mpsc::Receiver<Arrived>,
        outbox: mpsc::Sender<Outgoing>,
        installed: watch::Sender<Installed>,
    ) -> anyhow::Result<(Vec<Slot>, JoinHandle<()>)> {
        let empty = self.present.iter().map(|(slot, _)| (slot.name.clone(), None)).collect::<Vec<_>>();
        let of_this_program = supervisor::Config::of_this_program(details_below)?;
        let (supervisor, judges) = Supervisor::start(of_this_program, empty, facts).await;
        let workshop: Arc<dyn Workshop> = Arc::new(supervisor);
        let now = Now { mono: self.clock.mono(), wall: self.time.now().at };
        let updater = Updater {
            clock: self.clock,
            time: self.time,
            machine: Machine::new(now, self.memory),
            reporter: self.reporter,
            slots: self.slots,
            places: places(self.present, &judges, self.sources),
            workshop: Arc::clone(&workshop),
            arrived,
            outbox,
            installed,
        };
        let first = self.present.iter().map(|(slot, dir)| (slot.name.clone(), dir.clone())).collect();
        let updater = tokio::spawn(async move {
            load(workshop, first).await;
            updater.run().await;
        });
        Ok((judges, updater))
    }
}

/// Brings the first model into each slot, one after the other, because loading needs memory.
async fn load(workshop: Arc<dyn Workshop>, models: Vec<(SlotName, PathBuf)>) {
    for (slot, dir) in models {
        if let Err(reason) = workshop.swap(&slot, &dir).await {
            tracing::error!(%slot, dir = %dir.display(), reason, "the slot has no model");
        }
    }
}

/// What starting a source takes.
struct Start<'a> {
    clock: Clock,
    config: &'a Config,
    begun: &'a Begun,
    reporter: Reporter,
    cuts: mpsc::Sender<Cut>,
    outbox: mpsc::Sender<Outgoing>,
}

impl Start<'_> {
    fn source(&self, opened: Opened, slots: Vec<Slot>) -> anyhow::Result<(Sensing, JoinHandle<()>)> {
        let Opened { name, source, .. } = opened;
        let around = Surroundings {
            source: name.clone(),
            clock: self.clock,
            cuts: self.cuts.clone(),
            reporter: self.reporter.clone(),
            drift_window: self.config.drift.window.0,
            limits: Limits::of,
        };
        let timed = matches!(source.pace(), Pace::Timed(_));
        let (sensed, sensed_seen) = mpsc::channel(if timed { SENSED } else { 1 });
        let pipeline = match source.shape() {
            Shape::Camera => {
                let (slot, samples) = (slots.into_iter().next(), self.config.samples.clone());
                tokio::spawn(Camera::new(around, timed, sensed_seen, slot, samples, self.outbox.clone()).run())
            }
            Shape::Columns(columns) => tokio::spawn(Sensor::new(around, columns, sensed_seen, slots).run()),
        };
        let first = self.begun.first[&name];
        let thread =
            sense::start(&name, source, first, self.begun.at, self.clock, sensed).context("a source's thread cannot be started")?;
        Ok((thread, pipeline))
    }
}

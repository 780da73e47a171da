//! One run of a simulated fleet: devices, a lossy network, a broker, servers and what goes wrong, on one virtual clock.
//!
//! Invariant: a run follows from (mix, seed) alone: one thread, a paused clock, one random number generator for each part. Not here: the
//! promises (`oracle`).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use anyhow::Context;
use fastrand::Rng;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use wayside_agent::{link::LinkEvent, spool};
use wayside_common::{
    sync::credit::Credit,
    topic::{Topic, Up},
    wire::{self, FromDevice, ToDevice},
};
use wayside_sync_server::{
    broker::{Reply, Taken},
    db::telemetry::Telemetry,
};

use super::{
    clock::START,
    cloud::Cloud,
    device::{Device, Said, What},
    disk::{
        Faults,
        model::{Plan, Unsynced},
    },
    mix::{CALM, DEVICES, Fault, Incident, Mix, TROUBLE},
    oracle::Oracle,
};

/// How often the promises are checked, and images taken.
const STEP: Duration = Duration::from_secs(600);

/// So many packets of a device wait for a server; a client has no more on its way.
const KEPT_FOR_SERVERS: usize = 8;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub faults: BTreeMap<Fault, u64>,
    pub records: u64,
    pub redelivered: u64,
    pub lives: u64,
    /// Positions that the servers' ledger names, by reason, and those that are stored in less than full fidelity.
    pub missing: BTreeMap<String, u64>,
}

/// Runs one seed. An error is a broken promise.
pub fn run(mix: Mix, seed: u64) -> anyhow::Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let mut world = World::new(mix, seed)?;
        world.run().await?;
        world.finish().await
    })
}

enum Event {
    Begin(Incident),
    End(Incident),
    Start { device: usize },
    Connect { device: usize, life: u32 },
    Up { device: usize, up: Up, bytes: Vec<u8> },
    Down { device: usize, topic: Topic, packet: ToDevice },
    ServerStart(usize),
    Step,
}

struct Due {
    at: Instant,
    /// Of two at the same time, the one that was planned first.
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A device's way to the broker.
#[derive(Default)]
struct Line {
    up: bool,
    /// How many things keep it from connecting.
    cut: u32,
    /// Nothing goes through the present connection.
    wedged: bool,
    /// What the broker keeps for it while it is away.
    session: Vec<(Topic, ToDevice)>,
}

struct World {
    rng: Rng,
    begun: Instant,
    due: BinaryHeap<Reverse<Due>>,
    planned: u64,
    devices: Vec<Device>,
    lines: Vec<Line>,
    cloud: Cloud,
    /// How many things make the weather worse.
    storms: u32,
    say: mpsc::UnboundedSender<Said>,
    said: mpsc::UnboundedReceiver<Said>,
    oracle: Oracle,
    tally: Tally,
}

impl World {
    fn new(mix: Mix, seed: u64) -> anyhow::Result<Self> {
        let mut rng = Rng::with_seed(seed ^ ((mix as u64) << 60));
        let (say, said) = mpsc::unbounded_channel();
        // Some spools are too small for a long time without a server.
        let config = |rng: &mut Rng| spool::Config { max_bytes: if rng.u8(..3) == 0 { 600 } else { 1 << 20 }, ..Default::default() };
        let devices = (0..DEVICES).map(|index| Device::new(index, config(&mut rng), rng.fork())).collect();
        let servers = mix.servers(&mut rng);
        let mut world = Self {
            begun: Instant::now(),
            due: BinaryHeap::new(),
            planned: 0,
            devices,
            lines: (0..DEVICES).map(|_| Line::default()).collect(),
            cloud: Cloud::open(servers)?,
            storms: 0,
            say,
            said,
            oracle: Oracle::default(),
            tally: Tally::default(),
            rng,
        };
        for device in 0..DEVICES {
            let soon = Duration::from_millis(world.rng.u64(..30_000));
            world.plan(soon, Event::Start { device });
        }
        for incident in mix.plan(&mut world.rng) {
            world.plan(incident.at, Event::Begin(incident));
        }
        world.plan(STEP, Event::Step);
        Ok(world)
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.planned += 1;
        self.due.push(Reverse(Due { at: Instant::now() + after, order: self.planned, event }));
    }

    fn count(&mut self, fault: Fault) {
        *self.tally.faults.entry(fault).or_default() += 1;
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        let end = self.begun + TROUBLE + CALM;
        loop {
            let next = self.due.peek().map_or(end, |due| due.0.at.min(end));
            tokio::select! {
                biased;
                Some(said) = self.said.recv() => self.on_said(said)?,
                () = sleep_until(next) => {
                    let Some(Reverse(due)) = self.due.pop().filter(|due| due.0.at <= end) else { return Ok(()) };
                    self.perform(due.event).await.with_context(|| format!("after {:?}", self.begun.elapsed()))?;
                }
            }
        }
    }

    /// All is calm: whatever was produced has to be somewhere.
    async fn finish(mut self) -> anyhow::Result<Tally> {
        for device in &self.devices {
            if let Some(life) = &device.life {
                self.oracle.check(device.index, life).await?;
            }
        }
        // No more is sensed, and what is there is sent.
        for device in &mut self.devices {
            device.end_sensing().await?;
        }
        let end = Instant::now() + Duration::from_secs(1_200);
        while Instant::now() < end {
            let next = self.due.peek().map_or(end, |due| due.0.at.min(end));
            tokio::select! {
                biased;
                Some(said) = self.said.recv() => self.on_said(said)?,
                () = sleep_until(next) => {
                    if let Some(Reverse(due)) = self.due.pop() {
                        self.perform(due.event).await?;
                    }
                }
            }
        }
        for device in &self.devices {
            self.oracle.judge(device, &self.cloud).await.with_context(|| device.id.to_string())?;
            self.tally.lives += u64::from(device.lives);
            for content in self.cloud.db.streams(&device.id).await? {
                self.tally.records += content.records;
                *self.tally.missing.entry("degraded".into()).or_default() +=
                    content.degraded.iter().map(|(from, to)| to - from + 1).sum::<u64>();
            }
            for gap in self.cloud.db.gaps(&device.id).await? {
                *self.tally.missing.entry(gap.reason).or_default() += gap.count.unwrap_or(1);
            }
        }
        self.tally.redelivered = self.oracle.redelivered;
        for device in &mut self.devices {
            device.kill().await;
        }
        Ok(self.tally)
    }

    fn on_said(&mut self, said: Said) -> anyhow::Result<()> {
        let Said { device, life, what } = said;
        if self.devices[device].lives != life || self.devices[device].life.is_none() {
            return Ok(());
        }
        match what {
            What::Publish { up, bytes } => {
                if !self.lines[device].up {
                    return Ok(());
                }
                let packet: FromDevice = wire::decode(&bytes).context("a device sends what nobody can read")?;
                self.oracle.said(device, &packet)?;
                for delay in self.fate(device) {
                    self.plan(delay, Event::Up { device, up, bytes: bytes.clone() });
                }
            }
            What::Rebuild => {
                self.lines[device].up = false;
                self.lines[device].wedged = false;
                self.connect_soon(device);
            }
            What::Close => self.lines[device].up = false,
        }
        Ok(())
    }

    /// When a packet arrives, each time that it does.
    fn fate(&mut self, device: usize) -> Vec<Duration> {
        let storm = if self.storms > 0 { 8 } else { 1 };
        if self.lines[device].wedged {
            return Vec::new();
        }
        if self.rng.u32(..200) < 2 * storm {
            self.count(Fault::Lost);
            return Vec::new();
        }
        let mut arrivals = vec![Duration::from_millis(self.rng.u64(5..100))];
        if self.rng.u32(..200) < 2 * storm {
            self.count(Fault::Doubled);
            arrivals.push(Duration::from_millis(self.rng.u64(5..20_000)));
        }
        if self.rng.u32(..200) < 4 * storm {
            self.count(Fault::Delayed);
            arrivals[0] = Duration::from_millis(self.rng.u64(100..40_000));
        }
        arrivals
    }

    async fn perform(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Begin(incident) => self.begin(incident).await?,
            Event::End(incident) => self.end(incident).await?,
            Event::Start { device } => self.start(device).await,
            Event::Connect { device, life } => self.connect(device, life),
            Event::Up { device, up, bytes } => self.arrive(device, up, bytes).await?,
            Event::Down { device, topic, packet } => self.deliver(device, topic, packet),
            Event::ServerStart(server) => self.cloud.start(server),
            Event::Step => {
                self.step().await?;
                self.plan(STEP, Event::Step);
            }
        }
        Ok(())
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        for device in &self.devices {
            if let Some(life) = &device.life {
                // A disk that refuses even to be read is asked again in the next step.
                self.oracle.check(device.index, life).await?;
            }
        }
        Ok(())
    }

    async fn start(&mut self, device: usize) {
        if self.devices[device].life.is_some() {
            return;
        }
        self.oracle.started(device);
        match self.devices[device].start(self.say.clone()).await {
            Ok(()) => self.connect_soon(device),
            // As a service manager does.
            Err(error) => {
                tracing::info!(device, error = format!("{error:#}"), "the agent does not start");
                self.plan(Duration::from_secs(30), Event::Start { device });
            }
        }
    }

    fn connect_soon(&mut self, device: usize) {
        let (life, wait) = (self.devices[device].lives, Duration::from_millis(self.rng.u64(100..20_000)));
        self.plan(wait, Event::Connect { device, life });
    }

    fn connect(&mut self, device: usize, life: u32) {
        let line = &mut self.lines[device];
        if line.up || self.devices[device].lives != life {
            return;
        }
        let Some(alive) = &self.devices[device].life else { return };
        if line.cut > 0 {
            return self.connect_soon(device);
        }
        line.up = true;
        self.oracle.connected(device);
        let _ = alive.events.send(LinkEvent::Up);
        for (topic, packet) in std::mem::take(&mut self.lines[device].session) {
            self.plan(Duration::from_millis(20), Event::Down { device, topic, packet });
        }
    }

    fn disconnect(&mut self, device: usize) {
        let line = &mut self.lines[device];
        line.wedged = false;
        if !std::mem::take(&mut line.up) {
            return;
        }
        if let Some(life) = &self.devices[device].life {
            let _ = life.events.send(LinkEvent::Down("the simulated network".into()));
        }
        self.connect_soon(device);
    }

    async fn arrive(&mut self, device: usize, up: Up, bytes: Vec<u8>) -> anyhow::Result<()> {
        let id = self.devices[device].id.clone();
        let Some(taken) = self.cloud.take(&mut self.rng, &id, up, &bytes).await else {
            // The broker keeps some for the servers' session.
            let kept = self.due.iter().filter(|due| matches!(&due.0.event, Event::Up { device: of, .. } if *of == device)).count();
            if kept < KEPT_FOR_SERVERS {
                self.plan(Duration::from_secs(20), Event::Up { device, up, bytes });
            }
            return Ok(());
        };
        let replies = match taken {
            Taken::Committed(replies) => replies,
            Taken::Refused(reason) => anyhow::bail!("a server refuses what {id} says: {reason}"),
            Taken::Unavailable(_) => return Ok(()),
        };
        for Reply { down, mut packet } in replies {
            if let ToDevice::Ack { ack, .. } = &packet {
                self.oracle.answered(device, ack);
            }
            self.be_stingy(&bytes, &mut packet);
            for delay in self.fate(device) {
                let topic = Topic::Down("sim".parse().context("a fleet's name")?, id.clone(), down);
                self.plan(delay, Event::Down { device, topic, packet: packet.clone() });
            }
        }
        Ok(())
    }

    /// In bad weather the servers are busy as well: they grant a batch or two.
    fn be_stingy(&mut self, bytes: &[u8], packet: &mut ToDevice) {
        let Ok(said) = wire::decode::<FromDevice>(bytes) else { return };
        let sent = match said {
            FromDevice::Batch { sent, .. } => sent,
            FromDevice::Hello(hello) => hello.sent,
            _ => return,
        };
        if self.storms > 0
            && let ToDevice::Ack { credit, .. } | ToDevice::HelloAck { credit, .. } | ToDevice::Refused { credit, .. } = packet
        {
            *credit = Credit { until: sent + self.rng.u64(..300), ..*credit };
        }
    }

    fn deliver(&mut self, device: usize, topic: Topic, packet: ToDevice) {
        let line = &mut self.lines[device];
        if line.wedged {
            return;
        }
        match &self.devices[device].life {
            Some(life) if line.up => {
                self.oracle.heard(device, &packet);
                let _ = life.events.send(LinkEvent::Received { topic, bytes: wire::encode(&packet) });
            }
            // The broker's queue is bounded.
            _ if line.session.len() < 100 => line.session.push((topic, packet)),
            _ => {}
        }
    }

    async fn begin(&mut self, incident: Incident) -> anyhow::Result<()> {
        let Incident { fault, device, lasts, .. } = incident;
        tracing::info!(?fault, device, ?lasts, at = ?self.begun.elapsed(), "an incident");
        match fault {
            Fault::Partition => {
                self.lines[device].cut += 1;
                self.disconnect(device);
            }
            Fault::BrokerRestart | Fault::BrokerForgets => {
                for device in 0..DEVICES {
                    self.disconnect(device);
                    if fault == Fault::BrokerForgets {
                        self.lines[device].session.clear();
                    }
                }
            }
            Fault::WedgedLink if !self.lines[device].up => return Ok(()),
            Fault::WedgedLink => self.lines[device].wedged = true,
            Fault::BadWeather => self.storms += 1,
            Fault::ServerCrash => return self.crash_a_server(),
            Fault::ServerDown => self.cloud.stop(0),
            Fault::CommitFails => self.cloud.refuse_commits(true),
            Fault::OldBackup => self.cloud.back_up(),
            Fault::ClockForward => self.devices[device].wall.jump(lasts.as_millis() as i64),
            Fault::ClockBack => self.devices[device].wall.jump(-(lasts.as_millis() as i64)),
            Fault::Clock1970 => self.devices[device].wall.set(wayside_common::time::Wall(0)),
            Fault::Clock2099 => self.devices[device].wall.set(wayside_common::time::Wall(4_080_000_000_000)),
            _ => return self.befall(incident).await,
        }
        self.count(fault);
        self.plan(lasts, Event::End(incident));
        Ok(())
    }

    /// What ends the agent's process, or happens to its disk.
    async fn befall(&mut self, incident: Incident) -> anyhow::Result<()> {
        let Incident { fault, device, lasts, .. } = incident;
        let back = lasts.min(Duration::from_secs(self.rng.u64(1..300)));
        let full = Faults { capacity: Some(self.devices[device].disk.allocated() + 8_192), ..Faults::default() };
        let (plan, at) = (
            Plan { unsynced: *self.rng.choice(&Unsynced::ALL).context("there are some")?, seed: self.rng.u64(..) },
            &mut self.devices[device],
        );
        match fault {
            Fault::Kill => at.kill().await,
            Fault::CleanRestart => at.stop().await?,
            Fault::PowerCut => {
                at.disk.cut_power(&plan);
                at.kill().await;
            }
            Fault::DiskFull => at.disk.set_faults(full),
            Fault::ReadOnly => at.disk.set_faults(Faults { read_only: true, ..Faults::default() }),
            Fault::SpoolTruncated => {
                at.kill().await;
                let Some(spool) = at.disk.read("spool.db") else { return Ok(()) };
                at.disk.truncate("spool.db", spool.len() as u64 / 2)?;
                at.disk.remove("spool.db-wal").ok();
            }
            // Taken now, put back later.
            Fault::ImageRestored => {
                at.image = Some(at.disk.snapshot());
                self.plan(lasts, Event::End(incident));
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.count(fault);
        if matches!(fault, Fault::DiskFull | Fault::ReadOnly) {
            self.plan(lasts, Event::End(incident));
        } else {
            self.lines[device].up = false;
            self.plan(back, Event::Start { device });
        }
        Ok(())
    }

    async fn end(&mut self, incident: Incident) -> anyhow::Result<()> {
        let device = incident.device;
        match incident.fault {
            Fault::Partition => self.lines[device].cut -= 1,
            Fault::BadWeather => self.storms -= 1,
            Fault::ServerDown => self.cloud.start(0),
            Fault::CommitFails => self.cloud.refuse_commits(false),
            Fault::OldBackup => drop(self.cloud.restore()?),
            Fault::ClockForward | Fault::ClockBack | Fault::Clock1970 | Fault::Clock2099 => self.devices[device].wall.mend(),
            Fault::DiskFull | Fault::ReadOnly => self.devices[device].disk.set_faults(Faults::default()),
            Fault::ImageRestored => {
                let at = &mut self.devices[device];
                let Some(image) = at.image.take() else { return Ok(()) };
                at.disk.restore(&image);
                at.kill().await;
                self.lines[device].up = false;
                self.count(Fault::ImageRestored);
                self.plan(Duration::from_secs(5), Event::Start { device });
            }
            _ => {}
        }
        Ok(())
    }

    /// Its next answer is lost with it, before or after its commit: what was on its way to it is sent again by the broker.
    fn crash_a_server(&mut self) -> anyhow::Result<()> {
        let server = self.rng.usize(..self.cloud.servers());
        self.cloud.stop(server);
        self.count(Fault::ServerCrash);
        let back = Duration::from_secs(self.rng.u64(1..60));
        // What was committed and whose answers had not left: they are lost.
        let kept: Vec<Reverse<Due>> = std::mem::take(&mut self.due).into_vec();
        for Reverse(due) in kept {
            let lost = matches!(due.event, Event::Down { .. }) && self.rng.bool();
            if !lost {
                self.due.push(Reverse(due));
            }
        }
        self.plan(back, Event::ServerStart(server));
        Ok(())
    }
}

/// For a report: when, in the device's own time, a run is.
pub fn began() -> String {
    START.to_rfc3339()
}

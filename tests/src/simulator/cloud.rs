//! The simulated servers: the real intake on the real store, on a disk in RAM, one or three of them on one store.
//!
//! Invariant: a server that crashes forgets all but the store. Not here: MQTT, rollouts.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use fastrand::Rng;
use wayside_common::{
    fleet::{Hello, UpdateReport},
    id::{DeviceId, Digest},
    topic::Up,
};
use wayside_sync_server::{
    broker::{Ingest, Reply, Taken},
    db::sqlite::Sqlite,
    events::Events,
    ingest::{ControlPlane, Intake},
};

use super::disk::{Disk, Faults, Image};

/// Nothing is released in a simulated fleet.
struct NoReleases;

#[async_trait]
impl ControlPlane for NoReleases {
    async fn hello(&self, _: &DeviceId, _: &Hello) -> Vec<Reply> {
        Vec::new()
    }
    async fn need(&self, _: &DeviceId, _: Digest, _: Vec<Digest>) -> Vec<Reply> {
        Vec::new()
    }
    async fn trust_request(&self, _: &DeviceId, _: u64, _: u64) -> Vec<Reply> {
        Vec::new()
    }
    async fn report(&self, _: &DeviceId, _: &UpdateReport) -> anyhow::Result<()> {
        Ok(())
    }
}

pub struct Cloud {
    pub disk: Disk,
    pub db: Arc<Sqlite>,
    servers: Vec<Option<Intake>>,
    backup: Option<Image>,
}

impl Cloud {
    pub fn open(servers: usize) -> anyhow::Result<Self> {
        let disk = Disk::new();
        let db = open(&disk)?;
        let mut cloud = Self { disk, db, servers: Vec::new(), backup: None };
        cloud.servers.resize_with(servers, || None);
        for server in 0..servers {
            cloud.start(server);
        }
        Ok(cloud)
    }

    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    pub fn start(&mut self, server: usize) {
        let intake = Intake::start(self.db.clone(), Arc::new(NoReleases), Events::default());
        self.servers[server] = Some(intake);
    }

    pub fn stop(&mut self, server: usize) {
        self.servers[server] = None;
    }

    /// One of the servers that run takes it; `None`: none does.
    pub async fn take(&self, rng: &mut Rng, device: &DeviceId, up: Up, bytes: &[u8]) -> Option<Taken> {
        let running: Vec<&Intake> = self.servers.iter().flatten().collect();
        let intake = rng.choice(running)?;
        Some(intake.take(device, up, bytes).await)
    }

    /// From now on, or no longer, the disk refuses what is written.
    pub fn refuse_commits(&self, refuse: bool) {
        self.disk.set_faults(Faults { capacity: refuse.then_some(0), ..Faults::default() });
    }

    pub fn back_up(&mut self) {
        self.backup = Some(self.disk.snapshot());
    }

    /// The store becomes what it was at the last backup. False: there is none.
    pub fn restore(&mut self) -> anyhow::Result<bool> {
        let Some(backup) = self.backup.clone() else { return Ok(false) };
        let running: Vec<bool> = self.servers.iter().map(Option::is_some).collect();
        self.servers.iter_mut().for_each(|server| *server = None);
        self.db.close();
        self.refuse_commits(false);
        self.disk.restore(&backup);
        self.db = open(&self.disk)?;
        (0..running.len()).filter(|server| running[*server]).for_each(|server| self.start(server));
        Ok(true)
    }
}

fn open(disk: &Disk) -> anyhow::Result<Arc<Sqlite>> {
    Ok(Arc::new(Sqlite::open_inline(&disk.root().join("wayside.db")).context("the servers' store")?))
}

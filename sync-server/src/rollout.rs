//! Brings released models to devices: plans per device, signs, sends, answers what devices ask for, notes what they report.
//!
//! Invariant: an assignment is in the database before it is sent, and what is sent is only ever a copy: a device that missed it gets it
//! again with its next hello. Not here: which model a device should run ([`plan`]), where bytes lie (`registry`), MQTT (`broker`).

pub mod plan;
pub mod status;
pub mod supply;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use anyhow::Context;
use async_trait::async_trait;
use tokio::sync::Mutex;
use wayside_common::{
    fleet::{Generation, Hello, Intent, Outcome, SlotStatus, UpdateReport},
    id::{DeviceId, Digest, SlotName},
    time::Wall,
    topic::Down,
    wire::{self, ToDevice},
};

use self::{
    plan::{DeviceView, Step, plan},
    supply::Supply,
};
use crate::{
    broker::{Downlink, Reply},
    clock,
    db::{
        Db,
        registry::{AssignedSlot, Assignment, AssignmentState, Release},
    },
    events::{Event, Events},
    ingest::ControlPlane,
    registry::signer::{LIFE, Signer},
};

pub struct Rollout {
    db: Arc<dyn Db>,
    supply: Supply,
    signer: Signer,
    events: Events,
    /// Set once, after the broker has started: the broker itself needs what this type answers.
    downlink: OnceLock<Arc<dyn Downlink>>,
    /// Held from reading a device's view to the commit of its assignment, so that two causes do not sign one generation twice.
    planning: Mutex<()>,
}

impl Rollout {
    pub fn new(db: Arc<dyn Db>, supply: Supply, signer: Signer, events: Events) -> Self {
        Self { db, supply, signer, events, downlink: OnceLock::new(), planning: Mutex::new(()) }
    }

    /// From now on releases are pushed, not only answered.
    pub fn attach(&self, downlink: Arc<dyn Downlink>) {
        if self.downlink.set(downlink).is_err() {
            tracing::error!("a second downlink was attached and is not used");
        }
    }

    /// Plans for every device that the server knows; called when something was released.
    pub async fn push_all(&self) {
        let devices = match self.db.devices().await {
            Ok(devices) => devices,
            Err(e) => return tracing::error!("the devices of a release could not be read: {e:#}"),
        };
        for device in devices {
            let generation = Generation(device.generation);
            match self.settle(&device.id, generation, &device.slots).await {
                Ok(Some(desired)) => self.push(&device.id, desired, device.root_version, device.targets_version).await,
                Ok(None) => {}
                Err(e) => tracing::error!(device = %device.id, "no assignment could be made: {e:#}"),
            }
        }
    }

    /// The device must have the trust documents before what they vouch for.
    async fn push(&self, device: &DeviceId, desired: Vec<u8>, root_version: u64, targets_version: u64) {
        let Some(downlink) = self.downlink.get() else { return };
        let mut packets = self.newer_trust(root_version, targets_version).await;
        packets.push(Reply { down: Down::Desired, packet: ToDevice::Desired(desired) });
        for Reply { down, packet } in packets {
            let hint = down == Down::Desired;
            if let Err(e) = downlink.send(device, down, wire::encode(&packet), hint).await {
                return tracing::debug!(%device, "not sent now, the next hello brings it: {e:#}");
            }
        }
    }

    /// The signed document that the device should obey and has not, if there is one.
    async fn settle(&self, device: &DeviceId, obeyed: Generation, slots: &[SlotStatus]) -> anyhow::Result<Option<Vec<u8>>> {
        let _planning = self.planning.lock().await;
        let view = self.db.rollout_view(device).await?;
        let now = clock::wall();
        match plan(&DeviceView { obeyed, slots }, &view, now) {
            Step::Nothing => Ok(None),
            Step::SendAgain => Ok(view.last.map(|last| last.desired)),
            Step::Assign { generation, intent, slots } => self.assign(device, generation, intent, slots, now).await.map(Some),
        }
    }

    async fn assign(
        &self,
        device: &DeviceId,
        generation: Generation,
        intent: Intent,
        wished: BTreeMap<SlotName, Release>,
        now: Wall,
    ) -> anyhow::Result<Vec<u8>> {
        let targets = wished.iter().map(|(slot, release)| (slot.clone(), release.target.clone()));
        let desired = self.signer.desired(device, generation, intent, targets, now)?;
        let slots = wished
            .iter()
            .map(|(slot, release)| {
                let state = AssignmentState::Assigned;
                (slot.clone(), AssignedSlot { release: release.id, state, stage: None, reason: None, updated: now })
            })
            .collect();
        let assignment = Assignment { device: device.clone(), generation, expires: now.plus(LIFE), desired: desired.clone(), slots };
        self.db.assign(assignment).await.context("the assignment could not be stored")?;
        for release in wished.values() {
            tracing::info!(%device, generation = generation.0, model = %release.model, "assigned");
            self.announce(release.id.0, device, AssignmentState::Assigned);
        }
        Ok(desired)
    }

    async fn newer_trust(&self, root_version: u64, targets_version: u64) -> Vec<Reply> {
        let mut documents = Vec::new();
        match (self.db.trust_after("root", root_version).await, self.db.newest_trust("targets").await) {
            (Ok(roots), Ok(targets)) => {
                documents.extend(roots);
                documents.extend(targets.filter(|targets| targets.version > targets_version));
            }
            (Err(e), _) | (_, Err(e)) => tracing::error!("trust documents could not be read: {e:#}"),
        }
        // One document per packet: each fits, however many there are.
        documents.into_iter().map(|d| Reply { down: Down::Trust, packet: ToDevice::Trust(vec![(d.role, d.bytes)]) }).collect()
    }

    fn announce(&self, release: i64, device: &DeviceId, state: AssignmentState) {
        self.events.publish(Event::Release { id: release.to_string(), device: Some(device.clone()), state: state.as_str().into() });
    }
}

#[async_trait]
impl ControlPlane for Rollout {
    async fn hello(&self, device: &DeviceId, hello: &Hello) -> Vec<Reply> {
        let mut replies = self.newer_trust(hello.root_version, hello.targets_version).await;
        match self.settle(device, hello.generation, &hello.slots).await {
            Ok(Some(desired)) => replies.push(Reply { down: Down::Desired, packet: ToDevice::Desired(desired) }),
            Ok(None) => {}
            Err(e) => tracing::error!(%device, "no assignment could be made: {e:#}"),
        }
        replies
    }

    async fn need(&self, device: &DeviceId, blob: Digest, chunks: Vec<Digest>) -> Vec<Reply> {
        let packets = self.supply.chunks(&*self.db, blob, chunks).await;
        let missing = packets.iter().filter(|packet| matches!(packet, ToDevice::NoChunk { .. })).count();
        if missing > 0 {
            tracing::warn!(%device, %blob, missing, "a device asks for what the registry does not have");
        }
        packets.into_iter().map(|packet| Reply { down: Down::Blob, packet }).collect()
    }

    async fn trust_request(&self, _device: &DeviceId, root_version: u64, targets_version: u64) -> Vec<Reply> {
        self.newer_trust(root_version, targets_version).await
    }

    async fn report(&self, device: &DeviceId, report: &UpdateReport) -> anyhow::Result<()> {
        if !self.db.note_report(device, report, clock::wall()).await? {
            return Ok(());
        }
        let state = match &report.outcome {
            Outcome::Progress(_) => AssignmentState::InProgress,
            Outcome::Active => AssignmentState::Active,
            Outcome::Refused { stage, reason } => {
                tracing::warn!(%device, generation = report.generation.0, stage = stage.as_str(), reason, "a device refused a release");
                AssignmentState::Refused
            }
        };
        let view = self.db.rollout_view(device).await?;
        let slots = view.last.filter(|last| last.generation == report.generation).map(|last| last.slots).unwrap_or_default();
        for (name, slot) in slots {
            if report.slot.as_ref().is_none_or(|reported| *reported == name) {
                self.announce(slot.release.0, device, state);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

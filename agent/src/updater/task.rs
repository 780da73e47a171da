//! The updater's task: feeds the machine and performs its actions, one after the other.
//!
//! Invariant: an action starts after the one before it is done; a `Persist` that fails drops what follows it. Not here: any
//! decision (`machine`).

use std::sync::Arc;

use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use wayside_common::{
    blob::ChunkIndex,
    fleet::ModelRef,
    id::{Digest, SlotName},
    topic::Up,
    wire::{FromDevice, ToDevice},
};
use wayside_models::package::{Package, boundaries};

use super::{
    event::{Action, Event, Now},
    fetch::Partial,
    machine::Machine,
    slots::Slots,
};
use crate::{
    clock::{Clock, Timekeeper},
    judge::{Slot, Workshop},
    link::{Arrived, Care, Installed, Outgoing},
    report::Reporter,
};

/// Why a package cannot run on a slot's source; `Ok` where it can.
pub type Fits = Arc<dyn Fn(&Package) -> Result<(), String> + Send + Sync>;

/// A slot of this device.
#[derive(Clone)]
pub struct Place {
    pub slot: Slot,
    /// Where its model lies now.
    pub present: std::path::PathBuf,
    /// Whether a package could run on the slot's source.
    pub fits: Fits,
}

pub struct Updater {
    pub clock: Clock,
    pub time: Timekeeper,
    pub machine: Machine,
    pub reporter: Reporter,
    pub slots: Slots,
    pub places: Vec<Place>,
    pub workshop: Arc<dyn Workshop>,
    pub arrived: mpsc::Receiver<Arrived>,
    pub outbox: mpsc::Sender<Outgoing>,
    pub installed: watch::Sender<Installed>,
}

impl Updater {
    /// Ends with the uplink.
    pub async fn run(mut self) {
        let mut partial = None;
        self.tell_installed();
        loop {
            while let Some(action) = self.machine.poll() {
                if let Some(event) = self.perform(action, &mut partial).await {
                    self.machine.handle(self.now(), event);
                }
            }
            let wake = self.machine.deadline().map(|at| self.clock.instant(at));
            let event = tokio::select! {
                arrived = self.arrived.recv() => match arrived {
                    Some(arrived) => event_of(arrived),
                    None => return,
                },
                () = sleep_until(wake.unwrap_or_else(tokio::time::Instant::now)), if wake.is_some() => Some(Event::Tick),
            };
            if let Some(event) = event {
                self.machine.handle(self.now(), event);
            }
        }
    }

    fn now(&self) -> Now {
        Now { mono: self.clock.mono(), wall: self.time.now().at }
    }

    async fn perform(&mut self, action: Action, partial: &mut Option<Partial>) -> Option<Event> {
        match action {
            Action::Persist(change) => match self.reporter.transition(change).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::error!(%error, "a step of the update cannot be written");
                    Some(Event::PersistFailed)
                }
            },
            Action::RequestTrust { root_version, targets_version } => {
                self.send(Up::Trust, FromDevice::TrustRequest { root_version, targets_version }).await
            }
            Action::Request { blob, chunks } => self.send(Up::Blob, FromDevice::Need { blob, chunks }).await,
            Action::Look { slot, package } => {
                let slots = self.slots.clone();
                let found = blocking(move || slots.find(&slot, package).map(|found| found.model_ref())).await;
                Some(Event::Looked(found))
            }
            Action::Prepare { slot, package, index } => Some(Event::Prepared(self.prepare(&slot, package, index, partial).await)),
            Action::Write { chunk, bytes } => {
                let written = partial.as_ref().map(|partial| partial.write(chunk, &bytes));
                written.and_then(Result::err).map(|error| Event::WriteFailed(format!("the chunk cannot be written: {error}")))
            }
            Action::Stage { slot, package } => Some(Event::Staged(self.stage(slot, package, partial.take()).await)),
            Action::SelfTest { slot, package } => Some(Event::SelfTested(self.self_test(&slot, package).await)),
            Action::Swap { slot, package } => Some(Event::Swapped(self.swap(&slot, package).await)),
            Action::Tidy { slot, keep } => {
                let slots = self.slots.clone();
                if let Err(error) = blocking(move || slots.keep_only(&slot, &keep)).await {
                    tracing::warn!(%error, "old packages cannot be deleted");
                }
                None
            }
            Action::Discard { slot, package } => {
                let slots = self.slots.clone();
                if let Err(error) = blocking(move || slots.discard(&slot, package)).await {
                    tracing::warn!(%error, "a refused package cannot be deleted");
                }
                None
            }
            Action::Installed => {
                self.tell_installed();
                None
            }
            Action::Warn(text) => {
                tracing::warn!("{text}");
                None
            }
        }
    }

    async fn send(&self, up: Up, packet: FromDevice) -> Option<Event> {
        // Without a connection it is lost, and asked for again when there is one.
        let _ = self.outbox.send(Outgoing { up, packet, care: Care::Acked }).await;
        None
    }

    fn tell_installed(&self) {
        let trusted = self.machine.trusted();
        self.installed.send_replace(Installed {
            slots: self.machine.slots(),
            generation: self.machine.obeyed(),
            root_version: trusted.root_version(),
            targets_version: trusted.targets_version(),
        });
    }

    fn place(&self, slot: &SlotName) -> Result<&Place, String> {
        self.places.iter().find(|place| place.slot.name == *slot).ok_or_else(|| format!("there is no slot {slot}"))
    }

    async fn prepare(
        &self,
        slot: &SlotName,
        package: Digest,
        index: ChunkIndex,
        partial: &mut Option<Partial>,
    ) -> Result<Vec<Digest>, String> {
        let (root, present) = (self.slots.root().to_owned(), self.place(slot)?.present.clone());
        let total = index.chunks.len();
        let opened = blocking(move || {
            // What the running package already has need not come again.
            let have = Package::open(&present).map(|package| package.pack()).unwrap_or_default();
            Partial::open(&root, package, &index, &have, &boundaries(&have))
        });
        let (opened, missing) = opened.await.map_err(|error| format!("the partial file: {error}"))?;
        *partial = Some(opened);
        tracing::info!(%slot, total, missing = missing.len(), "chunks of the new package");
        Ok(missing)
    }

    async fn stage(&self, slot: SlotName, package: Digest, partial: Option<Partial>) -> Result<ModelRef, String> {
        let partial = partial.ok_or("the partial file is gone")?;
        let slots = self.slots.clone();
        blocking(move || {
            let packed = partial.read().map_err(|error| format!("the partial file: {error}"))?;
            let installed = slots.install(&slot, package, &packed);
            // Complete or useless: either way it is not needed again.
            partial.discard().map_err(|error| format!("the partial file: {error}"))?;
            installed
        })
        .await
    }

    async fn self_test(&self, slot: &SlotName, package: Digest) -> Result<(), String> {
        let place = self.place(slot)?;
        let (slots, name, fits) = (self.slots.clone(), slot.clone(), Arc::clone(&place.fits));
        let suits = blocking(move || match slots.find(&name, package) {
            Some(found) => fits(&found),
            None => Err("the staged package is damaged".into()),
        });
        suits.await?;
        self.workshop.self_test(&self.slots.dir(slot, package)).await
    }

    async fn swap(&mut self, slot: &SlotName, package: Digest) -> Result<(), String> {
        let dir = self.slots.dir(slot, package);
        self.workshop.swap(slot, &dir).await?;
        if let Some(place) = self.places.iter_mut().find(|place| place.slot.name == *slot) {
            place.present = dir;
        }
        Ok(())
    }
}

fn event_of(arrived: Arrived) -> Option<Event> {
    match arrived {
        Arrived::Connected => Some(Event::Connected),
        Arrived::Packet(ToDevice::Desired(document)) => Some(Event::Desired(document)),
        Arrived::Packet(ToDevice::Trust(documents)) => Some(Event::Trust(documents)),
        Arrived::Packet(ToDevice::Chunk { blob, chunk, bytes }) => Some(Event::Chunk { blob, chunk, bytes }),
        Arrived::Packet(ToDevice::NoChunk { blob, chunk }) => Some(Event::NoChunk { blob, chunk }),
        // The uplink's own.
        Arrived::Packet(
            ToDevice::Ack { .. } | ToDevice::HelloAck { .. } | ToDevice::Refused { .. } | ToDevice::SayHello | ToDevice::Time(_),
        ) => None,
    }
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

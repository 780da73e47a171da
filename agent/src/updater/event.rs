//! What the updater's machine hears, and what it asks for.
//!
//! Invariant: these are values; performing an action is the task's business, deciding on one the machine's. Not here: either.

use std::collections::BTreeMap;

use wayside_common::{
    blob::ChunkIndex,
    fleet::{Generation, ModelRef},
    id::{DeviceId, Digest, FleetId, SlotName},
    time::{Mono, Wall},
    trust::set::TrustedSet,
};

use crate::state::Transition;

/// Both clocks, as arguments.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub mono: Mono,
    /// For expiry.
    pub wall: Wall,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A wish, not yet verified.
    Desired(Vec<u8>),
    /// Trust documents by role.
    Trust(Vec<(String, Vec<u8>)>),
    /// What was asked for on an earlier connection may be lost.
    Connected,
    Chunk {
        blob: Digest,
        chunk: Digest,
        bytes: Vec<u8>,
    },
    NoChunk {
        blob: Digest,
        chunk: Digest,
    },
    /// Answer to `Look`.
    Looked(Option<ModelRef>),
    /// Answer to `Prepare`: the chunks that are neither in the partial file nor in the running package.
    Prepared(Result<Vec<Digest>, String>),
    /// A `Write` failed.
    WriteFailed(String),
    /// Answer to `Stage`.
    Staged(Result<ModelRef, String>),
    /// Answer to `SelfTest`.
    SelfTested(Result<(), String>),
    /// Answer to `Swap`.
    Swapped(Result<(), String>),
    /// A `Persist` failed; the actions after it were dropped.
    PersistFailed,
    Tick,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Persist(Transition),
    RequestTrust {
        root_version: u64,
        targets_version: u64,
    },
    Request {
        blob: Digest,
        chunks: Vec<Digest>,
    },
    /// Is the package in the slot's folder already?
    Look {
        slot: SlotName,
        package: Digest,
    },
    Prepare {
        slot: SlotName,
        package: Digest,
        index: ChunkIndex,
    },
    Write {
        chunk: Digest,
        bytes: Vec<u8>,
    },
    /// Verify the whole, and make it a folder of the slot.
    Stage {
        slot: SlotName,
        package: Digest,
    },
    SelfTest {
        slot: SlotName,
        package: Digest,
    },
    Swap {
        slot: SlotName,
        package: Digest,
    },
    /// Delete the slot's other folders.
    Tidy {
        slot: SlotName,
        keep: Vec<Digest>,
    },
    /// Delete a package that was refused.
    Discard {
        slot: SlotName,
        package: Digest,
    },
    /// What a hello tells has changed.
    Installed,
    Warn(String),
}

/// What the machine starts from.
#[derive(Debug)]
pub struct Memory {
    pub fleet: FleetId,
    pub device: DeviceId,
    pub trusted: TrustedSet,
    pub obeyed: Generation,
    /// What runs in each slot.
    pub slots: BTreeMap<SlotName, Option<ModelRef>>,
    /// As [`Transition::update`] last wrote it.
    pub update: Option<Vec<u8>>,
}

//! What a device sees of its stores when it starts: everything that their methods tell.
//!
//! Invariant: two views are equal only if no method could tell the stores apart. Not here: judging a view.

use std::sync::atomic::{AtomicU64, Ordering};

use wayside_agent::{
    epoch,
    spool::{self, HeldBatch, Mark, Memory, Spool, Taken},
    state::{Ledger, PastEpoch, SlotRow, State},
};
use wayside_common::{
    fleet::{Generation, StreamHold},
    gap::Gap,
    id::{Digest, Epoch},
    time::Wall,
};
use wayside_tests::simulator::disk::Disk;

#[derive(Debug, PartialEq)]
pub struct StateView {
    epochs: Vec<PastEpoch>,
    ledger: Ledger,
    vital: Vec<(HeldBatch, Digest)>,
    holds: Vec<StreamHold>,
    trust: Option<Vec<u8>>,
    generation: Generation,
    update: Option<Vec<u8>>,
    slots: Vec<SlotRow>,
    fault: bool,
    damage: Option<String>,
}

#[derive(Debug, PartialEq)]
pub struct SpoolView {
    pub batches: Vec<(HeldBatch, Digest)>,
    given_up: Vec<Gap>,
    marks: Vec<Mark>,
    memory: Memory,
    bytes: u64,
}

pub struct View {
    pub state: StateView,
    pub spool: SpoolView,
    /// The epoch that a start makes now.
    pub begun: Epoch,
}

/// Starts on a disk as an agent would; an error: it could not, or found damage.
pub fn look(disk: &Disk) -> Result<View, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut state = State::open_in(&*disk.folder(), &disk.root()).map_err(|error| text(&error))?;
    let (mut spool, damage) = Spool::open_in(disk.folder(), &disk.root(), &spool::Config::default()).map_err(|error| text(&error))?;
    if let Some(damage) = damage {
        return Err(format!("a power cut alone has damaged the spool: {damage:?}"));
    }
    let (state_view, spool_view) = (state_view(&state).map_err(|error| text(&error))?, spool_view(&mut spool)?);
    static NONCE: AtomicU64 = AtomicU64::new(1_000);
    let nonce = NONCE.fetch_add(1, Ordering::Relaxed);
    let now = Wall(9_000_000);
    epoch::recover(&mut state, &spool, now).map_err(|error| format!("{error:#}"))?;
    let begun = epoch::begin(&mut state, &mut spool, &[], nonce, crate::full::at(now), None).map_err(|error| format!("{error:#}"))?.epoch;
    Ok(View { state: state_view, spool: spool_view, begun })
}

fn state_view(state: &State) -> Result<StateView, wayside_agent::state::StateError> {
    let blob = |held: HeldBatch| state.vital(&held.key).map(|blob| (held, Digest::of(&blob.unwrap_or_default())));
    Ok(StateView {
        epochs: state.past_epochs()?,
        ledger: state.ledger()?,
        vital: state.held()?.into_iter().map(blob).collect::<Result<_, _>>()?,
        holds: state.vital_holds()?,
        trust: state.trust("targets")?,
        generation: state.generation()?,
        update: state.update()?,
        slots: state.slots()?,
        fault: state.storage_fault()?,
        damage: state.damage()?,
    })
}

pub fn spool_view(spool: &mut Spool) -> Result<SpoolView, String> {
    let text = |error: spool::SpoolError| error.to_string();
    let (held, given_up) = (spool.held().map_err(text)?, spool.given_up().map_err(text)?);
    let (marks, memory, bytes) = (spool.marks().map_err(text)?, spool.memory().map_err(text)?, spool.bytes());
    let mut batches = Vec::new();
    for held in held {
        match spool.take(&held.key).map_err(text)? {
            Taken::Blob(blob) if blob.len() as u64 == held.bytes => batches.push((held, Digest::of(&blob))),
            other => return Err(format!("{held:?} is {other:?}")),
        }
    }
    Ok(SpoolView { batches, given_up, marks, memory, bytes })
}

//! The updater's machine: what to do next with a signed wish, a chunk, a self test's result. Pure.
//!
//! Invariant: a package is fetched, tested and run only while [`TrustedSet`] verified both the wish and the target; a generation is
//! durable before anything is done for it; every refusal names its stage and reason, and the old model goes on. `Persist` must be
//! durable before the next action starts. Not here: files, sockets, processes (`task`). Shadow and probation are not yet stages.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use wayside_common::{
    blob::ChunkIndex,
    fleet::{Desired, Generation, ModelRef, Outcome, SlotStatus, Stage, UpdateReport, target_path},
    id::{DeviceId, Digest, FleetId, SlotName},
    record::{Fact, MAX_NUMBER},
    time::{Mono, Wall},
    trust::{
        set::{TrustError, TrustedSet, VerifiedTarget},
        signed::unverified,
    },
    wire::{self, MAX_PACKET},
};

use super::event::{Action, Event, Memory, Now};
use crate::state::{SlotRow, Transition};

/// How long newer trust documents may take to come.
const TRUST_WITHIN: Duration = Duration::from_secs(10);
/// A chunk that does not come is asked for again.
const CHUNK_WITHIN: Duration = Duration::from_secs(5);
const CHUNKS_IN_FLIGHT: usize = 8;
/// A chunk that is not what it should be is asked for so often in all.
const CHUNK_TRIES: u32 = 3;
/// An update that the agent did not survive so often is given up.
const ATTEMPTS: u32 = 3;
/// An index comes as one packet.
const MAX_INDEX: u64 = MAX_PACKET as u64 - 1_024;

/// The update as it is kept over a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    document: Vec<u8>,
    /// Starts of the agent in the middle of it.
    attempts: u32,
}

#[derive(Debug)]
pub struct Machine {
    fleet: FleetId,
    device: DeviceId,
    trusted: TrustedSet,
    obeyed: Generation,
    /// The highest generation that is durable, and the one that is being written.
    durable: Generation,
    writing: Option<Generation>,
    slots: BTreeMap<SlotName, Option<ModelRef>>,
    /// The document that was refused last: it is not refused twice.
    refused: Option<Digest>,
    /// Came while another was at work.
    next: Option<Vec<u8>>,
    state: State,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
enum State {
    Idle,
    /// Newer trust documents may cure what is wrong.
    Verifying {
        document: Vec<u8>,
        error: String,
        until: Mono,
    },
    Working {
        job: Box<Job>,
        step: Step,
    },
}

/// One generation at work.
#[derive(Debug)]
struct Job {
    document: Vec<u8>,
    generation: Generation,
    slot: SlotName,
    target: VerifiedTarget,
    todo: VecDeque<(SlotName, VerifiedTarget)>,
}

#[derive(Debug)]
enum Step {
    Looking,
    Index { tries: u32, asked: Mono },
    Preparing,
    Chunks { missing: VecDeque<Digest>, in_flight: BTreeMap<Digest, Mono>, tries: BTreeMap<Digest, u32> },
    Staging,
    Testing { model: ModelRef },
    Swapping { model: ModelRef },
}

impl Machine {
    /// Takes up an update that the last run of the agent did not finish.
    pub fn new(now: Now, memory: Memory) -> Self {
        let Memory { fleet, device, trusted, obeyed, slots, update } = memory;
        let mut machine = Self {
            fleet,
            device,
            trusted,
            obeyed,
            durable: obeyed,
            writing: None,
            slots,
            refused: None,
            next: None,
            state: State::Idle,
            actions: VecDeque::new(),
        };
        let kept = update.filter(|bytes| !bytes.is_empty()).and_then(|bytes| wire::decode::<Kept>(&bytes).ok());
        if let Some(kept) = kept {
            machine.resume(now, kept);
        }
        machine
    }

    pub fn handle(&mut self, now: Now, event: Event) {
        match event {
            Event::Desired(document) => self.desired(now, document),
            Event::Trust(documents) => self.trust(now, documents),
            Event::Connected => self.ask_again(now.mono, Duration::ZERO),
            Event::Chunk { blob, chunk, bytes } => self.chunk(now, blob, chunk, bytes),
            Event::NoChunk { blob, chunk } => self.no_chunk(now, blob, chunk),
            Event::Tick => self.tick(now),
            Event::PersistFailed => {
                self.actions.clear();
                self.state = State::Idle;
                // The same document may come again, and is then obeyed or refused as if for the first time.
                (self.obeyed, self.writing, self.refused) = (self.durable, None, None);
                self.actions.push_back(Action::Warn("the update cannot be written down, so it is not performed".into()));
            }
            Event::Looked(found) => self.looked(now, found),
            Event::Prepared(missing) => self.prepared(now, missing),
            Event::WriteFailed(reason) => self.refuse(now, Stage::Fetching, reason),
            Event::Staged(staged) => self.staged(now, staged),
            Event::SelfTested(result) => self.self_tested(now, result),
            Event::Swapped(result) => self.swapped(now, result),
        }
    }

    pub fn poll(&mut self) -> Option<Action> {
        // Who asks for the next action has performed the one before.
        self.durable = self.writing.take().unwrap_or(self.durable);
        let action = self.actions.pop_front();
        if let Some(Action::Persist(Transition { generation: Some(generation), .. })) = &action {
            self.writing = Some(*generation);
        }
        action
    }

    pub fn deadline(&self) -> Option<Mono> {
        match &self.state {
            State::Verifying { until, .. } => Some(*until),
            State::Working { step: Step::Index { asked, .. }, .. } => Some(*asked + CHUNK_WITHIN),
            State::Working { step: Step::Chunks { in_flight, .. }, .. } => in_flight.values().min().map(|asked| *asked + CHUNK_WITHIN),
            State::Idle | State::Working { .. } => None,
        }
    }

    pub fn done(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    pub fn slots(&self) -> Vec<SlotStatus> {
        self.slots.iter().map(|(slot, active)| SlotStatus { slot: slot.clone(), active: active.clone() }).collect()
    }

    pub fn obeyed(&self) -> Generation {
        self.obeyed
    }

    pub fn trusted(&self) -> &TrustedSet {
        &self.trusted
    }

    // Verifying.

    fn desired(&mut self, now: Now, document: Vec<u8>) {
        if self.refused == Some(Digest::of(&document)) {
            return;
        }
        match &self.state {
            State::Working { job, .. } if job.document == document => {}
            State::Working { .. } => self.next = Some(document),
            State::Verifying { document: present, .. } if *present == document => {}
            State::Idle | State::Verifying { .. } => self.consider(now, document, true),
        }
    }

    /// Verifies a wish with what is trusted now; `may_wait`: newer trust documents were not asked for yet.
    fn consider(&mut self, now: Now, document: Vec<u8>, may_wait: bool) {
        let above = self.obeyed;
        match self.verified(&document, above, now.wall) {
            Ok(job) => {
                self.obeyed = job.generation;
                let update = kept(&document, 0);
                let facts = vec![progress(&job, Stage::Verifying)];
                let generation = Some(job.generation);
                self.actions.push_back(Action::Persist(Transition { generation, update: Some(update), facts, ..Transition::default() }));
                self.actions.push_back(Action::Installed);
                self.begin_slot(now, job);
            }
            Err(Refusal::Obeyed) => self.state = State::Idle,
            Err(Refusal::Final(reason)) => self.refuse_document(&document, reason),
            Err(Refusal::Curable(error)) if may_wait => {
                self.request_trust();
                self.state = State::Verifying { document, error, until: now.mono + TRUST_WITHIN };
            }
            Err(Refusal::Curable(reason)) => self.refuse_document(&document, reason),
        }
    }

    /// The first slot's job of a wish that is signed, for this device, in time, newer than `above`, and names trusted targets.
    fn verified(&self, document: &[u8], above: Generation, now: Wall) -> Result<Box<Job>, Refusal> {
        let verified = self.trusted.desired(document, &self.fleet, &self.device, above, now).map_err(|error| match error {
            TrustError::OldGeneration { got, obeyed } if got == obeyed => Refusal::Obeyed,
            TrustError::OldGeneration { .. } | TrustError::NotForUs(_) => Refusal::Final(error.to_string()),
            _ => Refusal::Curable(error.to_string()),
        })?;
        let desired = verified.desired();
        if desired.generation.0 > MAX_NUMBER {
            return Err(Refusal::Final(format!("generation {} is out of bounds", desired.generation.0)));
        }
        let mut todo = VecDeque::new();
        for (slot, wanted) in &desired.slots {
            if !self.slots.contains_key(slot) {
                return Err(Refusal::Final(format!("this device has no slot {slot}")));
            }
            let target = self.trusted.target(wanted).map_err(|error| Refusal::Curable(error.to_string()))?;
            match target.index() {
                Some(index) if index.length <= MAX_INDEX => {}
                _ => return Err(Refusal::Final(format!("the trusted targets name no usable chunk index for {:?}", wanted.path))),
            }
            todo.push_back((slot.clone(), target));
        }
        let (slot, target) = todo.pop_front().ok_or_else(|| Refusal::Final("it names no model slot".into()))?;
        Ok(Box::new(Job { document: document.to_vec(), generation: desired.generation, slot, target, todo }))
    }

    fn refuse_document(&mut self, document: &[u8], reason: String) {
        self.refused = Some(Digest::of(document));
        // What it claims is only shown: nothing follows from it.
        let claimed: Option<Desired> = unverified(document).ok();
        let first = claimed.as_ref().and_then(|desired| desired.slots.iter().next());
        let report = UpdateReport {
            generation: claimed.as_ref().map_or(Generation(0), |desired| desired.generation),
            slot: first.map(|(slot, _)| slot.clone()),
            target: first.map(|(_, target)| target.path.clone()),
            outcome: Outcome::Refused { stage: Stage::Verifying, reason },
        };
        self.actions.push_back(Action::Persist(Transition { facts: vec![Fact::Update(report)], ..Transition::default() }));
        self.state = State::Idle;
    }

    fn trust(&mut self, now: Now, documents: Vec<(String, Vec<u8>)>) {
        let mut changed = Vec::new();
        for (role, bytes) in documents {
            let known = match role.as_str() {
                "root" => Some(self.trusted.root_bytes()),
                "targets" => self.trusted.targets_bytes(),
                // `assign` is delegated inside targets.
                _ => continue,
            };
            if known == Some(bytes.as_slice()) {
                continue;
            }
            let updated = if role == "root" { self.trusted.update_root(&bytes) } else { self.trusted.update_targets(&bytes) };
            match updated {
                Ok(()) => changed.push((role, bytes)),
                Err(error) => self.actions.push_back(Action::Warn(format!("a {role} document is refused: {error}"))),
            }
        }
        if !changed.is_empty() {
            self.refused = None;
            self.actions.push_back(Action::Persist(Transition { trust: changed, ..Transition::default() }));
            self.actions.push_back(Action::Installed);
        }
        if let State::Verifying { document, until, .. } = &self.state {
            let (document, until) = (document.clone(), *until);
            match self.verified(&document, self.obeyed, now.wall) {
                // More may come until then.
                Err(Refusal::Curable(error)) => self.state = State::Verifying { document, error, until },
                _ => self.consider(now, document, false),
            }
        }
    }

    fn request_trust(&mut self) {
        let (root_version, targets_version) = (self.trusted.root_version(), self.trusted.targets_version());
        self.actions.push_back(Action::RequestTrust { root_version, targets_version });
    }

    fn resume(&mut self, now: Now, kept_update: Kept) {
        let Kept { document, attempts } = kept_update;
        // It was obeyed before the agent died, so it is verified against the generation before it.
        let before = Generation(self.obeyed.0.saturating_sub(1));
        match self.verified(&document, before, now.wall) {
            Ok(job) if attempts < ATTEMPTS => {
                let update = Some(kept(&document, attempts + 1));
                self.actions.push_back(Action::Persist(Transition { update, ..Transition::default() }));
                self.begin_slot(now, job);
            }
            Ok(job) => {
                self.state = State::Working { job, step: Step::Looking };
                self.refuse(now, Stage::Reverting, format!("given up after the agent ended {ATTEMPTS} times in the middle of it"));
            }
            Err(_) => {
                let report = UpdateReport {
                    generation: self.obeyed,
                    slot: None,
                    target: None,
                    outcome: Outcome::Refused { stage: Stage::Verifying, reason: "it does not hold any more after a restart".into() },
                };
                let (update, facts) = (Some(Vec::new()), vec![Fact::Update(report)]);
                self.actions.push_back(Action::Persist(Transition { update, facts, ..Transition::default() }));
            }
        }
    }

    // One slot.

    fn begin_slot(&mut self, now: Now, job: Box<Job>) {
        let active = self.slots.get(&job.slot).cloned().flatten();
        let wanted = job.target.target().sha256;
        match active {
            Some(active) if active.digest == wanted => {
                let fact = report(&job, Outcome::Active);
                self.finish_slot(now, job, Transition { facts: vec![fact], ..Transition::default() });
            }
            _ => {
                self.actions.push_back(Action::Look { slot: job.slot.clone(), package: wanted });
                self.state = State::Working { job, step: Step::Looking };
            }
        }
    }

    fn looked(&mut self, now: Now, found: Option<ModelRef>) {
        let State::Working { job, step: Step::Looking } = std::mem::replace(&mut self.state, State::Idle) else { return };
        if let Some(model) = found {
            self.test(now, job, model);
            return;
        }
        self.enter(&job, Stage::Fetching);
        self.request_index(&job);
        self.state = State::Working { job, step: Step::Index { tries: 1, asked: now.mono } };
    }

    fn request_index(&mut self, job: &Job) {
        let index = job.target.index().expect("a job's target has an index").sha256;
        self.actions.push_back(Action::Request { blob: job.target.target().sha256, chunks: vec![index] });
    }

    fn chunk(&mut self, now: Now, blob: Digest, chunk: Digest, bytes: Vec<u8>) {
        let State::Working { job, step } = &mut self.state else { return };
        if blob != job.target.target().sha256 {
            return;
        }
        let genuine = Digest::of(&bytes) == chunk;
        match step {
            Step::Index { tries, asked } if job.target.index().is_some_and(|index| index.sha256 == chunk) => {
                if genuine {
                    self.index(now, bytes);
                } else if *tries < CHUNK_TRIES {
                    (*tries, *asked) = (*tries + 1, now.mono);
                    self.actions.push_back(Action::Request { blob, chunks: vec![chunk] });
                } else {
                    self.refuse(now, Stage::Fetching, format!("the chunk index does not have its digest, {chunk}"));
                }
            }
            Step::Chunks { missing, in_flight, tries } => {
                if in_flight.remove(&chunk).is_none() {
                    return;
                }
                if genuine {
                    self.actions.push_back(Action::Write { chunk, bytes });
                } else {
                    let tried = tries.entry(chunk).or_insert(0);
                    *tried += 1;
                    if *tried >= CHUNK_TRIES {
                        let reason = format!("a chunk came {CHUNK_TRIES} times with other bytes than its digest says, {chunk}");
                        return self.refuse(now, Stage::Fetching, reason);
                    }
                    missing.push_front(chunk);
                }
                self.pump(now.mono);
            }
            _ => {}
        }
    }

    fn index(&mut self, now: Now, bytes: Vec<u8>) {
        let State::Working { job, step } = &mut self.state else { return };
        let (slot, package) = (job.slot.clone(), job.target.target().sha256);
        match ChunkIndex::decode(&bytes, job.target.target().length) {
            Ok(index) => {
                *step = Step::Preparing;
                self.actions.push_back(Action::Prepare { slot, package, index });
            }
            Err(error) => self.refuse(now, Stage::Fetching, error.to_string()),
        }
    }

    fn prepared(&mut self, now: Now, missing: Result<Vec<Digest>, String>) {
        match (missing, &mut self.state) {
            (Ok(missing), State::Working { step: step @ Step::Preparing, .. }) => {
                *step = Step::Chunks { missing: missing.into(), in_flight: BTreeMap::new(), tries: BTreeMap::new() };
                self.pump(now.mono);
            }
            (Err(reason), State::Working { step: Step::Preparing, .. }) => self.refuse(now, Stage::Fetching, reason),
            _ => {}
        }
    }

    /// Keeps the window of requests full; when nothing is missing any more, the whole is staged.
    fn pump(&mut self, now: Mono) {
        let State::Working { job, step } = &mut self.state else { return };
        let Step::Chunks { missing, in_flight, .. } = step else { return };
        let room = CHUNKS_IN_FLIGHT.saturating_sub(in_flight.len()).min(missing.len());
        let chunks: Vec<Digest> = missing.drain(..room).collect();
        in_flight.extend(chunks.iter().map(|chunk| (*chunk, now)));
        let package = job.target.target().sha256;
        if !chunks.is_empty() {
            self.actions.push_back(Action::Request { blob: package, chunks });
        } else if in_flight.is_empty() {
            self.actions.push_back(Action::Stage { slot: job.slot.clone(), package });
            *step = Step::Staging;
        }
    }

    fn no_chunk(&mut self, now: Now, blob: Digest, chunk: Digest) {
        let State::Working { job, step } = &self.state else { return };
        let wanted = match step {
            Step::Index { .. } => job.target.index().is_some_and(|index| index.sha256 == chunk),
            Step::Chunks { in_flight, .. } => in_flight.contains_key(&chunk),
            _ => false,
        };
        if wanted && blob == job.target.target().sha256 {
            self.refuse(now, Stage::Fetching, format!("the server does not have {chunk} of it"));
        }
    }

    /// Asks again for what has been out for longer than `patience`.
    fn ask_again(&mut self, now: Mono, patience: Duration) {
        match &mut self.state {
            State::Verifying { .. } => self.request_trust(),
            State::Working { job, step: Step::Index { asked, .. } } if *asked + patience <= now => {
                *asked = now;
                let index = job.target.index().expect("a job's target has an index").sha256;
                self.actions.push_back(Action::Request { blob: job.target.target().sha256, chunks: vec![index] });
            }
            State::Working { job, step: Step::Chunks { in_flight, .. } } => {
                let late: Vec<Digest> = in_flight.iter().filter(|(_, asked)| **asked + patience <= now).map(|(chunk, _)| *chunk).collect();
                in_flight.extend(late.iter().map(|chunk| (*chunk, now)));
                if !late.is_empty() {
                    self.actions.push_back(Action::Request { blob: job.target.target().sha256, chunks: late });
                }
            }
            State::Idle | State::Working { .. } => {}
        }
    }

    fn tick(&mut self, now: Now) {
        match &self.state {
            State::Verifying { document, error, until } if *until <= now.mono => {
                let (document, error) = (document.clone(), error.clone());
                self.refuse_document(&document, error);
            }
            State::Verifying { .. } => {}
            State::Idle | State::Working { .. } => self.ask_again(now.mono, CHUNK_WITHIN),
        }
    }

    fn staged(&mut self, now: Now, staged: Result<ModelRef, String>) {
        let State::Working { job, step: Step::Staging } = std::mem::replace(&mut self.state, State::Idle) else { return };
        match staged {
            Ok(model) => self.test(now, job, model),
            Err(reason) => {
                self.state = State::Working { job, step: Step::Staging };
                self.refuse(now, Stage::Fetching, reason);
            }
        }
    }

    fn test(&mut self, now: Now, job: Box<Job>, model: ModelRef) {
        self.enter(&job, Stage::Staged);
        let called = target_path(&model.name, model.version);
        if called != job.target.target().path {
            let reason = format!("the package is {called}, not {}", job.target.target().path);
            self.state = State::Working { job, step: Step::Staging };
            return self.refuse(now, Stage::Staged, reason);
        }
        self.enter(&job, Stage::SelfTest);
        self.actions.push_back(Action::SelfTest { slot: job.slot.clone(), package: model.digest });
        self.state = State::Working { job, step: Step::Testing { model } };
    }

    fn self_tested(&mut self, now: Now, result: Result<(), String>) {
        let State::Working { job, step: Step::Testing { model } } = std::mem::replace(&mut self.state, State::Idle) else { return };
        match result {
            Ok(()) => {
                self.enter(&job, Stage::Swap);
                self.actions.push_back(Action::Swap { slot: job.slot.clone(), package: model.digest });
                self.state = State::Working { job, step: Step::Swapping { model } };
            }
            Err(reason) => {
                self.state = State::Working { job, step: Step::Testing { model } };
                self.refuse(now, Stage::SelfTest, reason);
            }
        }
    }

    fn swapped(&mut self, now: Now, result: Result<(), String>) {
        let State::Working { job, step: Step::Swapping { model } } = std::mem::replace(&mut self.state, State::Idle) else { return };
        if let Err(reason) = result {
            self.state = State::Working { job, step: Step::Swapping { model } };
            return self.refuse(now, Stage::Swap, reason);
        }
        let slot = job.slot.clone();
        let previous = self.slots.insert(slot.clone(), Some(model.clone())).flatten().map(|old| old.digest);
        let facts = vec![report(&job, Outcome::Active), Fact::Active { slot: slot.clone(), model: model.clone() }];
        let keep = [Some(model.digest), previous].into_iter().flatten().collect();
        let row = SlotRow { slot: slot.clone(), active: model, previous };
        self.finish_slot(now, job, Transition { slot: Some(row), facts, ..Transition::default() });
        self.actions.push_back(Action::Tidy { slot, keep });
    }

    // Ends.

    fn refuse(&mut self, now: Now, stage: Stage, reason: String) {
        let State::Working { job, .. } = std::mem::replace(&mut self.state, State::Idle) else { return };
        let fact = report(&job, Outcome::Refused { stage, reason });
        self.actions.push_back(Action::Discard { slot: job.slot.clone(), package: job.target.target().sha256 });
        self.finish_slot(now, job, Transition { facts: vec![fact], ..Transition::default() });
    }

    /// Writes the slot's end; goes on with the next slot, or with the next wish.
    fn finish_slot(&mut self, now: Now, mut job: Box<Job>, mut end: Transition) {
        let following = job.todo.pop_front();
        if following.is_none() {
            end.update = Some(Vec::new());
        }
        self.actions.push_back(Action::Persist(end));
        self.actions.push_back(Action::Installed);
        match following {
            Some((slot, target)) => {
                (job.slot, job.target) = (slot, target);
                self.begin_slot(now, job);
            }
            None => {
                self.state = State::Idle;
                if let Some(document) = self.next.take() {
                    self.consider(now, document, true);
                }
            }
        }
    }

    fn enter(&mut self, job: &Job, stage: Stage) {
        self.actions.push_back(Action::Persist(Transition { facts: vec![progress(job, stage)], ..Transition::default() }));
    }
}

/// Why a wish is not obeyed now.
enum Refusal {
    /// It was obeyed already: nothing to say.
    Obeyed,
    /// Newer trust documents may change it.
    Curable(String),
    Final(String),
}

fn kept(document: &[u8], attempts: u32) -> Vec<u8> {
    wire::encode(&Kept { document: document.to_vec(), attempts })
}

fn report(job: &Job, outcome: Outcome) -> Fact {
    let (slot, target) = (Some(job.slot.clone()), Some(job.target.target().path.clone()));
    Fact::Update(UpdateReport { generation: job.generation, slot, target, outcome })
}

fn progress(job: &Job, stage: Stage) -> Fact {
    report(job, Outcome::Progress(stage))
}

#[cfg(test)]
mod tests;

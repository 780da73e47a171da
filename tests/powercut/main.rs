//! Power cuts, full disks and damage under the agent's real stores, on a disk in RAM.
//!
//! Invariant: every number that is printed was counted in this run, and a fault that never fired is an error. Not here: the fleet, whose
//! devices meet the same faults while they run (`simulator`).

mod damage;
mod full;
mod life;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use life::Life;
use view::View;
use wayside_tests::simulator::disk::{
    Disk, Faults, Image,
    model::{Cut, Plan, Unsynced},
};

/// What a survey has looked at.
#[derive(Debug, Default)]
struct Survey {
    boundaries: u64,
    images: u64,
    /// Of these, how many differed from all before.
    opened: u64,
    views: usize,
    cut: Cut,
}

/// Each content of a disk is opened once; its view has a number.
#[derive(Default)]
struct Opened {
    /// The images live as long as their fingerprints are compared.
    known: BTreeMap<u64, (Image, usize, usize, u32)>,
    states: Vec<view::StateView>,
    spools: Vec<view::SpoolView>,
}

fn number<T: PartialEq>(all: &mut Vec<T>, one: T) -> usize {
    all.iter().position(|known| *known == one).unwrap_or_else(|| {
        all.push(one);
        all.len() - 1
    })
}

impl Opened {
    /// The numbers of the two stores' views; an error: they do not open, or their next epoch is not a new one.
    fn open(&mut self, image: Image, used: &BTreeSet<u32>, survey: &mut Survey) -> Result<(usize, usize), String> {
        survey.images += 1;
        let fingerprint = image.fingerprint();
        if !self.known.contains_key(&fingerprint) {
            survey.opened += 1;
            let View { state, spool, begun } = view::look(&Disk::with(image.clone()))?;
            let (state, spool) = (number(&mut self.states, state), number(&mut self.spools, spool));
            self.known.insert(fingerprint, (image, state, spool, begun.counter));
        }
        let (_, state, spool, counter) = &self.known[&fingerprint];
        match used.iter().find(|used| *used >= counter) {
            Some(used) => Err(format!("the epoch after the cut has counter {counter}, and {used} was used")),
            None => Ok((*state, *spool)),
        }
    }
}

/// Cuts the power at every boundary of a life, in every way, and opens what is left with the real code.
fn survey(life: &Life) -> Result<Survey, String> {
    let (mut survey, mut opened) = (Survey::default(), Opened::default());
    // What a mere death of the process leaves at each boundary: everything committed until then.
    let mut committed: Vec<(usize, usize)> = Vec::new();
    for (at, image) in life.recording.boundaries().enumerate() {
        survey.boundaries += 1;
        let returned = life.returned.iter().take_while(|returned| returned.at <= at).last();
        let used = returned.map(|returned| returned.counters.clone()).unwrap_or_default();
        let since = returned.map_or(0, |returned| returned.at);
        committed.push(opened.open(image.after_cut(&Plan { unsynced: Unsynced::Kept, seed: 0 }).0, &used, &mut survey)?);
        for (unsynced, seed) in plans(at) {
            let (left, cut) = image.after_cut(&Plan { unsynced, seed });
            survey.cut.add(cut);
            let what = || format!("boundary {at}, {unsynced:?}, seed {seed}");
            let (state, spool) = opened.open(left, &used, &mut survey).map_err(|error| format!("{}: {error}", what()))?;
            if !committed[since..].iter().any(|(known, _)| *known == state) {
                return Err(format!("{}: state.db does not hold what a method had returned: {:?}", what(), opened.states[state]));
            }
            let newest = committed.iter().rposition(|(_, known)| *known == spool);
            let Some(newest) = newest else {
                return Err(format!("{}: spool.db holds what it never held: {:?}", what(), opened.spools[spool]));
            };
            if newest < life.synced_before(at) {
                return Err(format!("{}: spool.db lost more than the newest seconds", what()));
            }
        }
    }
    survey.views = opened.states.len() + opened.spools.len();
    Ok(survey)
}

fn plans(at: usize) -> Vec<(Unsynced, u64)> {
    let seed = at as u64;
    vec![(Unsynced::Lost, seed), (Unsynced::Torn, seed), (Unsynced::Reordered, seed), (Unsynced::Garbled, seed)]
}

#[test]
fn at_every_boundary_the_stores_open_and_hold_what_they_promised() {
    let life = Life::lived(Faults::default());
    let survey = survey(&life).unwrap_or_else(|error| panic!("{error}"));
    println!("{survey:?}, {} calls had returned", life.returned.len());
    let Cut { kept, lost, torn, reordered, garbled, names_lost } = survey.cut;
    for (what, fired) in
        [("kept", kept), ("lost", lost), ("torn", torn), ("reordered", reordered), ("garbled", garbled), ("a name lost", names_lost)]
    {
        assert!(fired > 0, "{what} never fired");
    }
    assert!(life.did.iter().all(|(_, count)| *count > 0), "{:?}", life.did);
    assert!(survey.views > 100, "{} views of {} boundaries", survey.views, survey.boundaries);
}

#[test]
fn the_survey_is_red_when_a_sync_lies() {
    let life = Life::lived(Faults { lying_syncs: true, ..Faults::default() });
    let error = survey(&life).expect_err("a disk that lies loses what was promised");
    println!("{error:.200}");
}

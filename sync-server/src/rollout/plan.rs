//! Which model one device should run, from what is released and what the device did: a function of its arguments.
//!
//! Invariant: generations only rise; a release that a device refused is not assigned to it again; an assignment names every slot
//! that is wished for, so that obeying the highest generation alone is enough. Not here: signing, sending, waves of devices.

use std::{collections::BTreeMap, time::Duration};

use wayside_common::{
    fleet::{Generation, Intent, SlotStatus},
    id::SlotName,
    time::Wall,
};

use crate::db::registry::{Release, RolloutView};

/// An assignment that ends sooner is signed anew.
const RENEW_BEFORE: Duration = Duration::from_secs(24 * 3600);

/// What the device says of itself.
#[derive(Clone, Debug)]
pub struct DeviceView<'a> {
    pub obeyed: Generation,
    pub slots: &'a [SlotStatus],
}

/// What is to be done for the device now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// The last assignment is right and the device has not taken it yet.
    SendAgain,
    /// Sign and send this; the intent is the newest release's.
    Assign {
        generation: Generation,
        intent: Intent,
        slots: BTreeMap<SlotName, Release>,
    },
}

pub fn plan(device: &DeviceView, view: &RolloutView, now: Wall) -> Step {
    let wished: BTreeMap<&SlotName, &Release> = view
        .newest
        .iter()
        .filter(|release| device.slots.iter().any(|slot| slot.slot == release.slot))
        .filter(|release| !view.refused.contains(&release.id))
        .map(|release| (&release.slot, release))
        .collect();
    if let Some(last) = &view.last {
        let covered = wished.iter().all(|(name, release)| last.slots.get(name).is_some_and(|slot| slot.release == release.id));
        let ended = last.slots.values().all(|slot| slot.state.ended());
        let lasts = now.plus(RENEW_BEFORE) < last.expires;
        let taken = device.obeyed >= last.generation;
        let reached = wished_reached(device, &wished);
        match (covered, taken) {
            (true, true) if ended || reached || lasts => return Step::Nothing,
            (true, false) if ended && reached => return Step::Nothing,
            // Not taken yet, or taken by a device that has lost its memory since.
            (true, false) if lasts => return Step::SendAgain,
            _ => {}
        }
    } else if wished_reached(device, &wished) {
        return Step::Nothing;
    }
    let Some(intent) = wished.values().max_by_key(|release| release.id).map(|release| release.intent) else { return Step::Nothing };
    let highest = view.last.as_ref().map_or(device.obeyed, |last| last.generation.max(device.obeyed));
    let slots = wished.into_iter().map(|(name, release)| (name.clone(), release.clone())).collect();
    Step::Assign { generation: Generation(highest.0.saturating_add(1)), intent, slots }
}

/// Nothing is wished for, or the device runs it already.
fn wished_reached(device: &DeviceView, wished: &BTreeMap<&SlotName, &Release>) -> bool {
    wished.iter().all(|(name, release)| {
        let active = device.slots.iter().find(|slot| slot.slot == **name).and_then(|slot| slot.active.as_ref());
        active.is_some_and(|model| model.digest == release.model.digest)
    })
}

#[cfg(test)]
mod tests {
    use wayside_common::{
        fleet::{ModelRef, TargetRef},
        id::Digest,
    };

    use super::*;
    use crate::db::registry::{AssignedSlot, Assignment, AssignmentState, ReleaseId};

    const NOW: Wall = Wall(1_000_000_000);
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

    fn model(version: u32) -> ModelRef {
        ModelRef { name: "vehicles".parse().unwrap(), version, digest: Digest::of(&[version as u8]) }
    }

    fn slots(active: u32) -> Vec<SlotStatus> {
        vec![SlotStatus { slot: "vehicles".parse().unwrap(), active: Some(model(active)) }]
    }

    fn release(id: i64, slot: &str, version: u32) -> Release {
        let model = model(version);
        Release {
            id: ReleaseId(id),
            slot: slot.parse().unwrap(),
            target: TargetRef { path: format!("vehicles/{version}"), length: 1, sha256: model.digest },
            model,
            intent: Intent::Improve,
            created: NOW,
        }
    }

    fn last(generation: u64, release: i64, state: AssignmentState, expires: Wall) -> Option<Assignment> {
        let slot = AssignedSlot { release: ReleaseId(release), state, stage: None, reason: None, updated: NOW };
        Some(Assignment {
            device: "cam-1".parse().unwrap(),
            generation: Generation(generation),
            expires,
            desired: vec![],
            slots: BTreeMap::from([("vehicles".parse().unwrap(), slot)]),
        })
    }

    fn assign(generation: u64, release: Release) -> Step {
        Step::Assign {
            generation: Generation(generation),
            intent: release.intent,
            slots: BTreeMap::from([(release.slot.clone(), release)]),
        }
    }

    #[test]
    fn a_device_gets_the_newest_release_it_has_not_refused_once() {
        use AssignmentState::{Active, Assigned, InProgress, Refused, Superseded};
        struct Case {
            what: &'static str,
            obeyed: u64,
            active: u32,
            newest: Vec<Release>,
            last: Option<Assignment>,
            refused: Vec<i64>,
            step: Step,
        }
        let later = NOW.plus(WEEK);
        let v2 = || release(5, "vehicles", 2);
        let case = |what, obeyed, active, last, step| Case { what, obeyed, active, newest: vec![v2()], last, refused: vec![], step };
        let cases = [
            Case { newest: vec![], ..case("nothing is released", 0, 1, None, Step::Nothing) },
            Case { newest: vec![release(5, "room", 2)], ..case("the slot is another one", 0, 1, None, Step::Nothing) },
            case("a new release", 0, 1, None, assign(1, v2())),
            case("a device that obeyed another server", 9, 1, None, assign(10, v2())),
            case("it shipped with the model", 0, 2, None, Step::Nothing),
            case("sent, not taken", 0, 1, last(1, 5, Assigned, later), Step::SendAgain),
            case("taken, not ended", 1, 1, last(1, 5, InProgress, later), Step::Nothing),
            case("active", 1, 2, last(1, 5, Active, later), Step::Nothing),
            case("active, and long ago", 1, 2, last(1, 5, Active, NOW), Step::Nothing),
            case("active, then the device lost its memory", 0, 1, last(1, 5, Active, later), Step::SendAgain),
            Case { refused: vec![5], ..case("refused", 1, 1, last(1, 5, Refused, later), Step::Nothing) },
            case("an older release was refused", 1, 1, last(1, 4, Refused, later), assign(2, v2())),
            case("a newer release than the open one", 0, 1, last(1, 4, Assigned, later), assign(2, v2())),
            case("the open one is about to expire", 0, 1, last(1, 5, Assigned, NOW), assign(2, v2())),
            case("expired, but the device has it", 1, 2, last(1, 5, InProgress, NOW), Step::Nothing),
            case("superseded by nobody", 3, 1, last(3, 4, Superseded, later), assign(4, v2())),
        ];
        for case in cases {
            let slots = slots(case.active);
            let device = DeviceView { obeyed: Generation(case.obeyed), slots: &slots };
            let view = RolloutView { newest: case.newest, last: case.last, refused: case.refused.into_iter().map(ReleaseId).collect() };
            assert_eq!(plan(&device, &view, NOW), case.step, "{}", case.what);
        }
    }

    #[test]
    fn an_assignment_names_every_slot_that_is_wished_for() {
        let mut slots = slots(1);
        slots.push(SlotStatus { slot: "room".parse().unwrap(), active: None });
        let device = DeviceView { obeyed: Generation(1), slots: &slots };
        let newest = vec![release(6, "room", 3), release(5, "vehicles", 2)];
        let view = RolloutView { newest, last: last(1, 5, AssignmentState::Active, NOW.plus(WEEK)), refused: vec![] };
        let Step::Assign { generation, slots, .. } = plan(&device, &view, NOW) else { panic!("a release is new") };
        assert_eq!(generation, Generation(2));
        assert_eq!(slots.len(), 2);
    }
}

//! What became of a release, from the rows of its devices: functions of their arguments.
//!
//! Invariant: a device counts once per release, with the last generation that was signed for it. Not here: the rows (`db`), how they look (`api`).

use serde::Serialize;
use wayside_common::{fleet::Generation, id::DeviceId};

use crate::db::{
    registry::{AssignedSlot, AssignmentState, DeviceOutcome, Release},
    telemetry::Device,
};

/// A release over all its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseState {
    /// No device has the slot, as far as the server knows.
    Waiting,
    InProgress,
    /// Every device runs it.
    Active,
    /// All devices have ended, and at least one refused.
    Refused,
    /// A later release took its place, and no device runs it any more.
    Superseded,
}

/// One device of a release; without a slot it ran the model before it was released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    pub device: DeviceId,
    pub generation: Option<Generation>,
    pub slot: Option<AssignedSlot>,
}

/// Sorted by device.
pub fn devices_of(release: &Release, newest: bool, outcomes: &[DeviceOutcome], devices: &[Device]) -> Vec<DeviceRow> {
    let mut rows: Vec<DeviceRow> = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.release == release.id) {
        let row = DeviceRow { device: outcome.device.clone(), generation: Some(outcome.generation), slot: Some(outcome.slot.clone()) };
        match rows.iter_mut().find(|row| row.device == outcome.device) {
            Some(before) if before.generation < row.generation => *before = row,
            Some(_) => {}
            None => rows.push(row),
        }
    }
    if newest {
        for device in devices.iter().filter(|device| runs(device, release)) {
            if !rows.iter().any(|row| row.device == device.id) {
                rows.push(DeviceRow { device: device.id.clone(), generation: None, slot: None });
            }
        }
    }
    rows.sort_by(|a, b| a.device.cmp(&b.device));
    rows
}

fn runs(device: &Device, release: &Release) -> bool {
    device.slots.iter().any(|s| s.slot == release.slot && s.active.as_ref().is_some_and(|a| a.digest == release.model.digest))
}

/// Whether the release is what its slot should run, or what a device runs still because it refused a later one.
pub fn is_current(release: &Release, newest: bool, devices: &[Device]) -> bool {
    newest || devices.iter().any(|device| runs(device, release))
}

/// `current` as of [`is_current`].
pub fn state_of(current: bool, rows: &[DeviceRow]) -> ReleaseState {
    let states = || rows.iter().map(|row| row.slot.as_ref().map_or(AssignmentState::Active, |slot| slot.state));
    if states().any(|state| !state.ended()) {
        ReleaseState::InProgress
    } else if states().any(|state| state == AssignmentState::Refused) {
        ReleaseState::Refused
    } else if !current {
        ReleaseState::Superseded
    } else if rows.is_empty() {
        ReleaseState::Waiting
    } else {
        ReleaseState::Active
    }
}

#[cfg(test)]
mod tests {
    use wayside_common::time::Wall;

    use super::*;
    use crate::db::registry::ReleaseId;

    fn row(state: AssignmentState) -> DeviceRow {
        let slot = AssignedSlot { release: ReleaseId(1), state, stage: None, reason: None, updated: Wall(0) };
        DeviceRow { device: "cam-1".parse().unwrap(), generation: Some(Generation(1)), slot: Some(slot) }
    }

    #[test]
    fn a_release_is_as_far_as_its_slowest_device() {
        use AssignmentState::{Active, Assigned, InProgress, Refused, Superseded};
        struct Case(bool, &'static [AssignmentState], ReleaseState);
        let cases = [
            Case(true, &[], ReleaseState::Waiting),
            Case(true, &[Assigned], ReleaseState::InProgress),
            Case(true, &[Active, InProgress], ReleaseState::InProgress),
            Case(true, &[Active, Active], ReleaseState::Active),
            Case(true, &[Active, Superseded], ReleaseState::Active),
            Case(true, &[Active, Refused], ReleaseState::Refused),
            Case(true, &[Refused, Assigned], ReleaseState::InProgress),
            Case(false, &[Superseded], ReleaseState::Superseded),
            Case(false, &[Active], ReleaseState::Superseded),
            Case(false, &[Refused], ReleaseState::Refused),
        ];
        for Case(current, states, expected) in cases {
            let rows: Vec<_> = states.iter().map(|state| row(*state)).collect();
            assert_eq!(state_of(current, &rows), expected, "{current} {states:?}");
        }
    }
}

//! Signs what a device is wished to run, with the `assign` key.
//!
//! Invariant: what leaves here holds for seven days and names one device; a device that trusts the operator's targets accepts it from no other
//! key. Not here: what is wished (`rollout::plan`); the root and targets keys, which the server never has.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use wayside_common::{
    fleet::{Desired, DesiredKind, Generation, Intent, TargetRef},
    id::{DeviceId, FleetId, SlotName},
    time::Wall,
    trust::signed::{SignedError, sign},
};

/// How long an assignment may be started and holds.
pub const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

pub struct Signer {
    fleet: FleetId,
    key: SigningKey,
}

impl Signer {
    pub fn new(fleet: FleetId, key: SigningKey) -> Self {
        Self { fleet, key }
    }

    pub fn desired(
        &self,
        device: &DeviceId,
        generation: Generation,
        intent: Intent,
        slots: impl IntoIterator<Item = (SlotName, TargetRef)>,
        now: Wall,
    ) -> Result<Vec<u8>, SignedError> {
        let until = now.plus(LIFE).to_rfc3339();
        let desired = Desired {
            kind: DesiredKind::Desired,
            fleet: self.fleet.clone(),
            device: device.clone(),
            generation,
            start_before: until.clone(),
            expires: until,
            intent,
            slots: slots.into_iter().collect(),
            configuration: None,
            agent: None,
        };
        sign(&desired, &[&self.key])
    }
}

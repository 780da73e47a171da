//! From which package a retraining starts, and which version its candidate gets.
//!
//! Invariant: a release that a device refused is no champion while another is running somewhere. Not here: the gate against the champion.

use anyhow::Context;
use wayside_common::id::ModelName;
use wayside_models::package::Package;

use crate::{
    config::Job,
    db::{
        Db,
        registry::{AssignmentState, DeviceOutcome, ModelState, ModelVersion, Release},
    },
    registry::packages::Packages,
};

/// The newest version that was released and runs on a device; else the job's `base`; else the newest that came with devices or was released.
pub async fn find(db: &dyn Db, packages: &Packages, job: &Job) -> anyhow::Result<Package> {
    let (versions, releases, outcomes) = (db.models().await?, db.releases().await?, db.outcomes().await?);
    let proven = choose(&job.model, &versions, &releases, &outcomes);
    let from_file = match (&proven, &job.base) {
        (Some(Choice { proven: true, .. }), _) | (_, None) => None,
        (_, Some(base)) => Some(base.clone()),
    };
    if let Some(folder) = from_file {
        let opened =
            tokio::task::spawn_blocking(move || Package::open(&folder).with_context(|| format!("the job's base {}", folder.display())));
        return opened.await?;
    }
    let version = proven.with_context(|| format!("no version of {} is registered, and the job has no `base`", job.model))?.version;
    packages.package(version.model.digest).await?.with_context(|| format!("the package of {} is gone", version.model))
}

struct Choice<'a> {
    version: &'a ModelVersion,
    /// A device runs it.
    proven: bool,
}

fn choose<'a>(name: &ModelName, versions: &'a [ModelVersion], releases: &[Release], outcomes: &[DeviceOutcome]) -> Option<Choice<'a>> {
    let on_devices = |version: &ModelVersion, state: AssignmentState| {
        releases
            .iter()
            .filter(|release| release.model.digest == version.model.digest)
            .any(|release| outcomes.iter().any(|outcome| outcome.release == release.id && outcome.slot.state == state))
    };
    let newest = |wanted: &dyn Fn(&ModelVersion) -> bool| {
        versions.iter().filter(|v| v.model.name == *name && v.state != ModelState::Candidate && wanted(v)).max_by_key(|v| v.model.version)
    };
    if let Some(version) = newest(&|v| on_devices(v, AssignmentState::Active)) {
        return Some(Choice { version, proven: true });
    }
    let version = newest(&|v| !on_devices(v, AssignmentState::Refused)).or_else(|| newest(&|_| true))?;
    Some(Choice { version, proven: false })
}

/// One above every version that the registry knows, and above the base.
pub fn next_version(versions: &[ModelVersion], name: &ModelName, base: u32) -> u32 {
    let known = versions.iter().filter(|v| v.model.name == *name).map(|v| v.model.version).max().unwrap_or(0);
    known.max(base).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use wayside_common::{
        fleet::{Generation, Intent, ModelRef, TargetRef},
        id::Digest,
        time::Wall,
        trust::role::IndexRef,
    };

    use super::*;
    use crate::db::registry::{AssignedSlot, ReleaseId};

    fn version(number: u32, state: ModelState) -> ModelVersion {
        let digest = Digest::of(&[number as u8]);
        ModelVersion {
            model: ModelRef { name: "vehicles".parse().unwrap(), version: number, digest },
            length: 1,
            index: IndexRef { length: 1, sha256: digest },
            state,
            lineage: Value::Null,
            created: Wall(0),
        }
    }

    fn release(id: i64, version: &ModelVersion) -> Release {
        Release {
            id: ReleaseId(id),
            model: version.model.clone(),
            slot: "vehicles".parse().unwrap(),
            target: TargetRef { path: String::new(), length: 1, sha256: version.model.digest },
            intent: Intent::Improve,
            created: Wall(0),
        }
    }

    fn outcome(id: i64, state: AssignmentState) -> DeviceOutcome {
        let slot = AssignedSlot { release: ReleaseId(id), state, stage: None, reason: None, updated: Wall(0) };
        DeviceOutcome { release: ReleaseId(id), device: "cam-1".parse().unwrap(), generation: Generation(1), slot }
    }

    #[test]
    fn the_champion_is_the_newest_version_that_proved_itself() {
        use AssignmentState::{Active, Refused};
        struct Case(&'static [(u32, ModelState)], &'static [(u32, AssignmentState)], Option<(u32, bool)>);
        use ModelState::{Candidate, Released, Shipped};
        let cases = [
            Case(&[], &[], None),
            Case(&[(1, Candidate)], &[], None),
            Case(&[(1, Shipped)], &[], Some((1, false))),
            Case(&[(1, Shipped), (2, Released)], &[(2, Active)], Some((2, true))),
            Case(&[(1, Shipped), (2, Released), (3, Released)], &[(2, Active), (3, Refused)], Some((2, true))),
            Case(&[(1, Shipped), (3, Released)], &[(3, Refused)], Some((1, false))),
            Case(&[(3, Released), (4, Candidate)], &[(3, Refused)], Some((3, false))),
        ];
        let name: ModelName = "vehicles".parse().unwrap();
        for (i, Case(versions, states, expected)) in cases.into_iter().enumerate() {
            let versions: Vec<_> = versions.iter().map(|(number, state)| version(*number, *state)).collect();
            let releases: Vec<_> = versions.iter().map(|v| release(i64::from(v.model.version), v)).collect();
            let outcomes: Vec<_> = states.iter().map(|(number, state)| outcome(i64::from(*number), *state)).collect();
            let found = choose(&name, &versions, &releases, &outcomes).map(|c| (c.version.model.version, c.proven));
            assert_eq!(found, expected, "case {i}");
        }
    }

    #[test]
    fn a_candidate_is_numbered_above_everything_known() {
        let name: ModelName = "vehicles".parse().unwrap();
        assert_eq!(next_version(&[], &name, 1), 2);
        assert_eq!(next_version(&[version(7, ModelState::Candidate)], &name, 1), 8);
        assert_eq!(next_version(&[version(7, ModelState::Released)], &"room".parse().unwrap(), 3), 4);
    }
}

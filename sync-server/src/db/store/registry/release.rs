//! Releases and what devices did with them.
//!
//! Invariant: an assignment's generation is higher than every earlier one of its device; a state that ended stays, except that a device
//! may take back an active model (it reverted). Not here: who gets which release.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use wayside_common::{
    fleet::{Generation, Intent, ModelRef, Outcome, Stage, TargetRef, UpdateReport, target_path},
    id::{DeviceId, Digest, SlotName},
    time::Wall,
};

use crate::db::{
    registry::{AssignedSlot, Assignment, AssignmentState, DeviceOutcome, ModelState, NewRelease, Release, ReleaseId, RolloutView},
    sql::{Row, Tx, params},
};

const RELEASE: &str = "SELECT r.id, r.name, r.version, r.slot, r.intent, r.created, m.digest, m.length
    FROM release r JOIN model_version m ON m.name = r.name AND m.version = r.version";

/// No device reports a longer reason; what is longer is cut.
const REASON_MAX: usize = 1000;

pub fn add(tx: &Tx, release: &NewRelease) -> anyhow::Result<Release> {
    let marked = tx.execute(
        "UPDATE model_version SET state = $1 WHERE name = $2 AND version = $3 AND digest = $4",
        params![ModelState::Released.as_str(), release.model.name.as_str(), release.model.version, release.model.digest.0],
    )?;
    ensure!(marked == 1, "{} is not registered with this digest", release.model);
    let id: i64 = tx.one(
        "INSERT INTO release (name, version, slot, intent, created) VALUES ($1, $2, $3, $4, $5) RETURNING id",
        params![release.model.name.as_str(), release.model.version, release.slot.as_str(), intent_text(release.intent), release.created.0],
        |row| row.get(0),
    )?;
    tx.one(&format!("{RELEASE} WHERE r.id = $1"), params![id], from_row)
}

pub fn all(tx: &Tx) -> anyhow::Result<Vec<Release>> {
    collect(tx, &format!("{RELEASE} ORDER BY r.id DESC"))
}

pub fn outcomes(tx: &Tx) -> anyhow::Result<Vec<DeviceOutcome>> {
    let sql = "SELECT release, device, generation, state, stage, reason, updated FROM assignment_slot ORDER BY release, device, generation";
    tx.rows(sql, params![], |row| {
        Ok(DeviceOutcome {
            release: ReleaseId(row.get("release")?),
            device: row.get::<_, String>("device")?.parse().context("a stored device id")?,
            generation: Generation(row.get::<_, i64>("generation")?.unsigned_abs()),
            slot: slot(row)?,
        })
    })
}

pub fn view(tx: &Tx, device: &DeviceId) -> anyhow::Result<RolloutView> {
    let newest = collect(tx, &format!("{RELEASE} WHERE r.id IN (SELECT MAX(id) FROM release GROUP BY slot) ORDER BY r.slot"))?;
    let sql = "SELECT DISTINCT release FROM assignment_slot WHERE device = $1 AND state = $2 ORDER BY release";
    let refused = tx.rows(sql, params![device.as_str(), AssignmentState::Refused.as_str()], |row| row.get(0).map(ReleaseId))?;
    Ok(RolloutView { newest, last: last(tx, device)?, refused })
}

pub fn assign(tx: &Tx, assignment: &Assignment) -> anyhow::Result<()> {
    let (device, generation) = (assignment.device.as_str(), i64::try_from(assignment.generation.0)?);
    let sql = "SELECT MAX(generation) FROM assignment WHERE device = $1";
    let highest: Option<i64> = tx.one(sql, params![device], |row| row.get(0))?;
    ensure!(highest.is_none_or(|highest| generation > highest), "generation {generation} of {device} was signed before");
    tx.execute(
        "UPDATE assignment_slot SET state = $1 WHERE device = $2 AND state IN ($3, $4)",
        params![AssignmentState::Superseded.as_str(), device, AssignmentState::Assigned.as_str(), AssignmentState::InProgress.as_str()],
    )?;
    tx.execute(
        "INSERT INTO assignment (device, generation, expires, desired) VALUES ($1, $2, $3, $4)",
        params![device, generation, assignment.expires.0, assignment.desired],
    )?;
    for (name, slot) in &assignment.slots {
        tx.execute(
            "INSERT INTO assignment_slot (device, generation, slot, release, state, stage, reason, updated)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            params![
                device,
                generation,
                name.as_str(),
                slot.release.0,
                slot.state.as_str(),
                slot.stage.map(Stage::as_str),
                slot.reason,
                slot.updated.0
            ],
        )?;
    }
    Ok(())
}

pub fn note_report(tx: &Tx, device: &DeviceId, report: &UpdateReport, at: Wall) -> anyhow::Result<bool> {
    let (state, stage, reason) = match &report.outcome {
        Outcome::Progress(stage) => (AssignmentState::InProgress, Some(*stage), None),
        Outcome::Active => (AssignmentState::Active, None, None),
        Outcome::Refused { stage, reason } => {
            (AssignmentState::Refused, Some(*stage), Some(reason.chars().take(REASON_MAX).collect::<String>()))
        }
    };
    let generation = i64::try_from(report.generation.0).unwrap_or(i64::MAX);
    let sql = "SELECT slot, state FROM assignment_slot WHERE device = $1 AND generation = $2 AND (CAST($3 AS TEXT) IS NULL OR slot = $3)";
    let named = report.slot.as_ref().map(SlotName::as_str);
    let slots: Vec<(String, String)> = tx.rows(sql, params![device.as_str(), generation, named], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut changed = false;
    for (slot, from) in slots.iter().filter(|(_, from)| may_follow(from, state)) {
        tracing::debug!(%device, slot, from, to = state.as_str(), "an assignment moves on");
        tx.execute(
            "UPDATE assignment_slot SET state = $1, stage = $2, reason = $3, updated = $4 WHERE device = $5 AND generation = $6 AND slot = $7",
            params![state.as_str(), stage.map(Stage::as_str), reason, at.0, device.as_str(), generation, slot],
        )?;
        changed = true;
    }
    Ok(changed)
}

/// A report that comes a second time must not undo an end; only a refusal may follow an active model.
fn may_follow(from: &str, to: AssignmentState) -> bool {
    use AssignmentState::{Active, Assigned, InProgress, Refused, Superseded};
    match AssignmentState::ALL.into_iter().find(|s| s.as_str() == from) {
        Some(Assigned | InProgress) => true,
        Some(Superseded) => matches!(to, Active | Refused),
        Some(Active) => to == Refused,
        Some(Refused) | None => false,
    }
}

fn last(tx: &Tx, device: &DeviceId) -> anyhow::Result<Option<Assignment>> {
    let sql = "SELECT generation, expires, desired FROM assignment WHERE device = $1 ORDER BY generation DESC LIMIT 1";
    let found = tx.first(sql, params![device.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?)))?;
    let Some((generation, expires, desired)) = found else { return Ok(None) };
    let sql = "SELECT slot, release, state, stage, reason, updated FROM assignment_slot WHERE device = $1 AND generation = $2";
    let slots: BTreeMap<SlotName, AssignedSlot> = tx
        .rows(sql, params![device.as_str(), generation], |row| {
            Ok((row.get::<_, String>("slot")?.parse().context("a stored slot name")?, slot(row)?))
        })?
        .into_iter()
        .collect();
    let generation = Generation(generation.unsigned_abs());
    Ok(Some(Assignment { device: device.clone(), generation, expires: Wall(expires), desired, slots }))
}

fn slot(row: &Row) -> anyhow::Result<AssignedSlot> {
    let state: String = row.get("state")?;
    let stage: Option<String> = row.get("stage")?;
    Ok(AssignedSlot {
        release: ReleaseId(row.get("release")?),
        state: AssignmentState::ALL.into_iter().find(|s| s.as_str() == state).context("a stored assignment state")?,
        stage: stage.and_then(|text| STAGES.into_iter().find(|stage| stage.as_str() == text)),
        reason: row.get("reason")?,
        updated: Wall(row.get("updated")?),
    })
}

const STAGES: [Stage; 9] = [
    Stage::Idle,
    Stage::Verifying,
    Stage::Fetching,
    Stage::Staged,
    Stage::SelfTest,
    Stage::Shadow,
    Stage::Swap,
    Stage::Probation,
    Stage::Reverting,
];

fn collect(tx: &Tx, sql: &str) -> anyhow::Result<Vec<Release>> {
    tx.rows(sql, params![], from_row)
}

fn from_row(row: &Row) -> anyhow::Result<Release> {
    let model = ModelRef {
        name: row.get::<_, String>("name")?.parse().context("a stored model name")?,
        version: row.get("version")?,
        digest: Digest(row.get("digest")?),
    };
    let target = TargetRef {
        path: target_path(&model.name, model.version),
        length: row.get::<_, i64>("length")?.unsigned_abs(),
        sha256: model.digest,
    };
    Ok(Release {
        id: ReleaseId(row.get("id")?),
        slot: row.get::<_, String>("slot")?.parse().context("a stored slot name")?,
        target,
        model,
        intent: if row.get::<_, String>("intent")? == intent_text(Intent::Equivalent) { Intent::Equivalent } else { Intent::Improve },
        created: Wall(row.get("created")?),
    })
}

fn intent_text(intent: Intent) -> &'static str {
    match intent {
        Intent::Equivalent => "equivalent",
        Intent::Improve => "improve",
    }
}

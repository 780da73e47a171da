//! `GET` and `POST /v1/releases`: what was released, and what each device did with it.
//!
//! Invariant: a release is accepted only with targets that the operator signed and that name these very bytes. Not here: who gets it
//! (`rollout`), what makes targets valid (`registry::trust`).

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use wayside_common::{
    fleet::{Intent, TargetRef, target_path},
    id::{DeviceId, Digest, ModelName, SlotName},
};

use super::{control::Control, problem::Problem};
use crate::{
    clock,
    db::registry::{AssignmentState, NewRelease, Release},
    events::Event,
    registry::trust::TargetsError,
    rollout::status::{DeviceRow, ReleaseState, devices_of, is_current, state_of},
};

#[derive(Debug, Serialize)]
pub struct ReleaseRow {
    id: String,
    model: ModelName,
    version: u32,
    digest: Digest,
    slot: SlotName,
    intent: Intent,
    state: ReleaseState,
    /// Unix milliseconds.
    created: i64,
    devices: Vec<DeviceOutcomeRow>,
}

#[derive(Debug, Serialize)]
struct DeviceOutcomeRow {
    device: DeviceId,
    /// Absent where the device ran the model before it was released.
    generation: Option<u64>,
    state: AssignmentState,
    stage: Option<&'static str>,
    reason: Option<String>,
    /// Unix milliseconds.
    updated: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    slot: SlotName,
    model: ModelName,
    version: u32,
    digest: Digest,
    intent: Intent,
    /// The signed document's text.
    targets: String,
}

pub async fn list(State(control): State<Control>) -> Result<Json<Vec<ReleaseRow>>, Problem> {
    Ok(Json(rows(&control).await?))
}

pub async fn one(State(control): State<Control>, Path(id): Path<String>) -> Result<Json<ReleaseRow>, Problem> {
    let found = rows(&control).await?.into_iter().find(|row| row.id == id);
    found.map(Json).ok_or_else(|| Problem::not_found(format!("there is no release {id}")))
}

/// Every release, newest first.
pub async fn rows(control: &Control) -> Result<Vec<ReleaseRow>, Problem> {
    let (releases, outcomes, devices) = (control.db.releases().await?, control.db.outcomes().await?, control.db.devices().await?);
    let newest_of = |release: &Release| releases.iter().find(|other| other.slot == release.slot).is_some_and(|n| n.id == release.id);
    let row = |release: &Release| {
        let on_devices = devices_of(release, newest_of(release), &outcomes, &devices);
        let state = state_of(is_current(release, newest_of(release), &devices), &on_devices);
        let devices = on_devices.into_iter().map(DeviceOutcomeRow::from).collect();
        let Release { id, model, slot, intent, created, .. } = release.clone();
        let (id, created) = (id.0.to_string(), created.0);
        ReleaseRow { id, model: model.name, version: model.version, digest: model.digest, slot, intent, state, created, devices }
    };
    Ok(releases.iter().map(row).collect())
}

impl From<DeviceRow> for DeviceOutcomeRow {
    fn from(row: DeviceRow) -> Self {
        let DeviceRow { device, generation, slot } = row;
        let generation = generation.map(|generation| generation.0);
        let Some(slot) = slot else {
            return Self { device, generation, state: AssignmentState::Active, stage: None, reason: None, updated: None };
        };
        let stage = slot.stage.map(wayside_common::fleet::Stage::as_str);
        Self { device, generation, state: slot.state, stage, reason: slot.reason, updated: Some(slot.updated.0) }
    }
}

pub async fn create(State(control): State<Control>, Json(asked): Json<Asked>) -> Result<(StatusCode, Json<ReleaseRow>), Problem> {
    let Asked { slot, model, version, digest, intent, targets } = asked;
    let known = control.db.model(&model, version).await?.filter(|known| known.model.digest == digest);
    let known = known.ok_or_else(|| {
        Problem::new(
            StatusCode::CONFLICT,
            format!("{model} v{version} with digest {digest} is not in the registry: upload the package first"),
        )
    })?;
    let target = TargetRef { path: target_path(&model, version), length: known.length, sha256: digest };
    let release = NewRelease { model: known.model, slot, target, intent, created: clock::wall() };
    let release = control.trust.release(targets.as_bytes(), release, &known.index).await??;
    tracing::info!(release = release.id.0, model = %release.model, slot = %release.slot, "released");
    control.events.publish(Event::Release { id: release.id.0.to_string(), device: None, state: "created".into() });
    // The answer does not wait for the fleet.
    let rollout = control.rollout.clone();
    tokio::spawn(async move { rollout.push_all().await });
    let id = release.id.0.to_string();
    let row = rows(&control).await?.into_iter().find(|row| row.id == id);
    Ok((StatusCode::CREATED, Json(row.ok_or_else(|| Problem::not_found("the release is gone"))?)))
}

impl From<TargetsError> for Problem {
    fn from(e: TargetsError) -> Self {
        let status = match e {
            TargetsError::Stale(_) => StatusCode::CONFLICT,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, format!("the targets document is refused: {e}"))
    }
}

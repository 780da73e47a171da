//! `GET /v1/devices/{id}/drift`: the verdict on each feature of the models that run now.
//!
//! Invariant: only counts of the active model are judged, against that model's own reference. Not here: the judgement (`drift`).

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::Deserialize;
use wayside_common::{id::DeviceId, time::Wall};

use super::{Shared, devices::known, problem::Problem};
use crate::drift::{self, Finding};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Unix milliseconds by the device's clock; absent: everything that is stored.
    since: Option<i64>,
}

pub async fn list(
    State(shared): State<Shared>,
    Path(id): Path<DeviceId>,
    Query(asked): Query<Asked>,
) -> Result<Json<Vec<Finding>>, Problem> {
    let device = known(&shared, &id).await?;
    let sums = shared.db.sketches(&id, Wall(asked.since.unwrap_or(i64::MIN))).await?;
    Ok(Json(drift::findings(&device.slots, sums, shared.references.as_ref()).await?))
}

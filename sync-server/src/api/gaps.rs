//! `GET /v1/devices/{id}/gaps`: the ledger, and what the server found missing itself.
//!
//! Invariant: `count` is exact or null. Not here: stored positions.

use axum::{
    Json,
    extract::{Path, State},
};
use wayside_common::id::DeviceId;

use super::{Shared, devices::known, problem::Problem};
use crate::db::telemetry::GapEntry;

pub async fn list(State(shared): State<Shared>, Path(id): Path<DeviceId>) -> Result<Json<Vec<GapEntry>>, Problem> {
    known(&shared, &id).await?;
    Ok(Json(shared.db.gaps(&id).await?))
}

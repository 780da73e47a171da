//! `GET /v1/devices/{id}/streams`: what is stored, by content.
//!
//! Invariant: read from the records at each request. Not here: gaps.

use axum::{
    Json,
    extract::{Path, State},
};
use wayside_common::id::DeviceId;

use super::{Shared, devices::known, problem::Problem};
use crate::db::telemetry::StreamContent;

pub async fn list(State(shared): State<Shared>, Path(id): Path<DeviceId>) -> Result<Json<Vec<StreamContent>>, Problem> {
    known(&shared, &id).await?;
    Ok(Json(shared.db.streams(&id).await?))
}

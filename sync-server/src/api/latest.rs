//! `GET /v1/devices/{id}/latest` and the newest picture of a slot.
//!
//! Invariant: the newest that is stored, whenever it was. Not here: history.

use axum::{
    Json,
    extract::{Path, State},
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::IntoResponse,
};
use wayside_common::id::{DeviceId, SlotName};

use super::{Shared, devices::known, problem::Problem};
use crate::db::telemetry::Latest;

pub async fn all(State(shared): State<Shared>, Path(id): Path<DeviceId>) -> Result<Json<Latest>, Problem> {
    known(&shared, &id).await?;
    Ok(Json(shared.db.latest(&id).await?))
}

pub async fn thumbnail(
    State(shared): State<Shared>,
    Path((id, slot)): Path<(DeviceId, SlotName)>,
) -> Result<impl IntoResponse + use<>, Problem> {
    let found = shared.db.thumbnail(&id, &slot).await?;
    let jpeg = found.ok_or_else(|| Problem::not_found(format!("{id} has sent no picture of {slot}")))?;
    Ok(([(CONTENT_TYPE, "image/jpeg"), (CACHE_CONTROL, "no-store")], jpeg))
}

//! `GET /v1/devices`, `GET /v1/devices/{id}`, `GET /v1/devices/{id}/reports`.
//!
//! Invariant: a device that never said anything is not found, here and below it. Not here: what a device sent.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::Deserialize;
use wayside_common::id::DeviceId;

use super::{Shared, problem::Problem};
use crate::db::telemetry::{Device, ReportRow};

pub async fn list(State(shared): State<Shared>) -> Result<Json<Vec<Device>>, Problem> {
    Ok(Json(shared.db.devices().await?))
}

pub async fn one(State(shared): State<Shared>, Path(id): Path<DeviceId>) -> Result<Json<Device>, Problem> {
    known(&shared, &id).await.map(Json)
}

/// The device, or the problem that there is none.
pub async fn known(shared: &Shared, id: &DeviceId) -> Result<Device, Problem> {
    shared.db.device(id).await?.ok_or_else(|| Problem::not_found(format!("there is no device {id}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    limit: Option<u32>,
}

pub async fn reports(
    State(shared): State<Shared>,
    Path(id): Path<DeviceId>,
    Query(query): Query<Limit>,
) -> Result<Json<Vec<ReportRow>>, Problem> {
    known(&shared, &id).await?;
    Ok(Json(shared.db.reports(&id, query.limit.unwrap_or(100).min(1000)).await?))
}

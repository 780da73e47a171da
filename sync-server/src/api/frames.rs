//! `GET /v1/devices/{id}/frames` and `…/predictions`, page by page in the order of positions.
//!
//! Invariant: `next` is where the following page begins; null at the end. Not here: pictures.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::{Deserialize, Serialize};
use wayside_common::id::{DeviceId, SourceName};

use super::{Shared, devices::known, problem::Problem};
use crate::db::telemetry::{After, FrameRow, PredictionRow};

const LIMIT: u32 = 1000;
const MAX_LIMIT: u32 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paging {
    after_position: Option<u64>,
    limit: Option<u32>,
    source: Option<SourceName>,
}

impl Paging {
    fn after(self) -> After {
        After { source: self.source, position: self.after_position, limit: self.limit.unwrap_or(LIMIT).clamp(1, MAX_LIMIT) }
    }
}

#[derive(Serialize)]
pub struct Frames {
    frames: Vec<FrameRow>,
    next: Option<u64>,
}

#[derive(Serialize)]
pub struct Predictions {
    predictions: Vec<PredictionRow>,
    next: Option<u64>,
}

pub async fn frames(State(shared): State<Shared>, Path(id): Path<DeviceId>, Query(paging): Query<Paging>) -> Result<Json<Frames>, Problem> {
    known(&shared, &id).await?;
    let page = shared.db.frames(&id, paging.after()).await?;
    Ok(Json(Frames { frames: page.rows, next: page.next }))
}

pub async fn predictions(
    State(shared): State<Shared>,
    Path(id): Path<DeviceId>,
    Query(paging): Query<Paging>,
) -> Result<Json<Predictions>, Problem> {
    known(&shared, &id).await?;
    let page = shared.db.predictions(&id, paging.after()).await?;
    Ok(Json(Predictions { predictions: page.rows, next: page.next }))
}

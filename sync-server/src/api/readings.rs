//! `GET /v1/devices/{id}/readings`: raw readings of one source in a range of time.
//!
//! Invariant: values are the source's integers; `columns` says what they mean. Not here: averages.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::Deserialize;
use wayside_common::id::{DeviceId, SourceName};

use super::{Shared, devices::known, problem::Problem};
use crate::db::telemetry::{Range, Readings};

const LIMIT: u32 = 1000;
const MAX_LIMIT: u32 = 50_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    source: SourceName,
    /// Unix milliseconds, inclusive; absent is without bound.
    from: Option<i64>,
    to: Option<i64>,
    limit: Option<u32>,
}

pub async fn range(State(shared): State<Shared>, Path(id): Path<DeviceId>, Query(asked): Query<Asked>) -> Result<Json<Readings>, Problem> {
    known(&shared, &id).await?;
    let (from, to) = (asked.from.unwrap_or(i64::MIN), asked.to.unwrap_or(i64::MAX));
    if from > to {
        return Err(Problem::bad_request("`from` is after `to`"));
    }
    let range = Range { source: asked.source, from, to, limit: asked.limit.unwrap_or(LIMIT).clamp(1, MAX_LIMIT) };
    Ok(Json(shared.db.readings(&id, range).await?))
}

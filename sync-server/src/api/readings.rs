//! `GET /v1/devices/{id}/readings`: readings of one source in a range of time, one by one or in so many buckets.
//!
//! Invariant: rows hold the source's integers, `columns` says what they mean; buckets hold values in the column's unit. Not here: how
//! they are found (`db`).

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::{Deserialize, Serialize};
use wayside_common::id::{DeviceId, SourceName};

use super::{Shared, devices::known, problem::Problem};
use crate::db::telemetry::{Range, Readings, Series};

const LIMIT: u32 = 1000;
const MAX_LIMIT: u32 = 50_000;
const MAX_BUCKETS: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    source: SourceName,
    /// Unix milliseconds, inclusive; absent is without bound.
    from: Option<i64>,
    to: Option<i64>,
    limit: Option<u32>,
    buckets: Option<u32>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub enum Answer {
    Rows(Readings),
    Buckets(Series),
}

pub async fn range(State(shared): State<Shared>, Path(id): Path<DeviceId>, Query(asked): Query<Asked>) -> Result<Json<Answer>, Problem> {
    known(&shared, &id).await?;
    let (from, to) = (asked.from.unwrap_or(i64::MIN), asked.to.unwrap_or(i64::MAX));
    if from > to {
        return Err(Problem::bad_request("`from` is after `to`"));
    }
    let range = |limit| Range { source: asked.source, from, to, limit };
    Ok(Json(match (asked.buckets, asked.limit) {
        (Some(_), Some(_)) => return Err(Problem::bad_request("`limit` is for rows, and `buckets` asks for none")),
        (Some(buckets), None) => Answer::Buckets(shared.db.series(&id, range(buckets.clamp(1, MAX_BUCKETS))).await?),
        (None, limit) => Answer::Rows(shared.db.readings(&id, range(limit.unwrap_or(LIMIT).clamp(1, MAX_LIMIT))).await?),
    }))
}

//! `GET /v1/samples`, their pictures, and `PUT /v1/samples/{id}/label`.
//!
//! Invariant: labelling again replaces the label; the sample itself never changes. Not here: datasets.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use serde::Deserialize;
use wayside_common::{id::SlotName, record::MAX_LABEL};

use super::{Shared, problem::Problem};
use crate::{
    clock,
    db::telemetry::{SampleFilter, SampleRow},
};

const LIMIT: u32 = 200;
const MAX_LIMIT: u32 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    labelled: Option<bool>,
    slot: Option<SlotName>,
    limit: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    label: String,
    /// Who says so; absent: whoever has the token.
    by: Option<String>,
}

pub async fn list(State(shared): State<Shared>, Query(asked): Query<Asked>) -> Result<Json<Vec<SampleRow>>, Problem> {
    let limit = asked.limit.unwrap_or(LIMIT).clamp(1, MAX_LIMIT);
    Ok(Json(shared.db.samples(SampleFilter { labelled: asked.labelled, slot: asked.slot, limit }).await?))
}

pub async fn image(State(shared): State<Shared>, Path(id): Path<String>) -> Result<impl IntoResponse + use<>, Problem> {
    let content = shared.db.sample_content(&id).await?.ok_or_else(|| Problem::not_found("there is no such sample"))?;
    Ok(([(CONTENT_TYPE, "image/jpeg")], content.jpeg))
}

pub async fn label(State(shared): State<Shared>, Path(id): Path<String>, Json(label): Json<Label>) -> Result<StatusCode, Problem> {
    let by = label.by.as_deref().unwrap_or("operator");
    for text in [label.label.as_str(), by] {
        if text.is_empty() || text.len() > MAX_LABEL || text.chars().any(char::is_control) {
            return Err(Problem::bad_request(format!("a label, and who gave it, has 1 to {MAX_LABEL} bytes and no control characters")));
        }
    }
    match shared.db.label_sample(&id, &label.label, by, clock::wall()).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("there is no such sample")),
    }
}

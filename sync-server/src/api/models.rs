//! `GET /v1/models`: every version of every model that the registry knows.
//!
//! Invariant: what is shown of a version never changes, except its state. Not here: where it runs (`devices`).

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::Value;
use wayside_common::id::{Digest, ModelName};

use super::{control::Control, problem::Problem};
use crate::db::registry::{ModelState, ModelVersion};

#[derive(Serialize)]
pub struct ModelRow {
    name: ModelName,
    version: u32,
    digest: Digest,
    length: u64,
    state: ModelState,
    lineage: Value,
    /// Unix milliseconds.
    created: i64,
}

impl From<ModelVersion> for ModelRow {
    fn from(version: ModelVersion) -> Self {
        let ModelVersion { model, length, state, lineage, created, .. } = version;
        Self { name: model.name, version: model.version, digest: model.digest, length, state, lineage, created: created.0 }
    }
}

pub async fn list(State(control): State<Control>) -> Result<Json<Vec<ModelRow>>, Problem> {
    Ok(Json(control.db.models().await?.into_iter().map(ModelRow::from).collect()))
}

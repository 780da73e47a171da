//! `POST /v1/blobs` takes a package in, `GET /v1/blobs/{digest}` gives one out.
//!
//! Invariant: what is given out was checked against its digest after it was read. Not here: chunks for devices (`rollout::supply`).

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{
        StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::IntoResponse,
};
use serde::Serialize;
use serde_json::json;
use wayside_common::{
    id::{Digest, ModelName},
    trust::role::IndexRef,
};

use super::{control::Control, problem::Problem};
use crate::{clock, db::registry::ModelState, registry::packages::AdmitError};

#[derive(Serialize)]
pub struct Uploaded {
    digest: Digest,
    length: u64,
    index: IndexRef,
    name: ModelName,
    version: u32,
}

pub async fn upload(State(control): State<Control>, body: Bytes) -> Result<(StatusCode, Json<Uploaded>), Problem> {
    let lineage = json!({ "source": "upload" });
    let version = control.packages.admit(body.into(), ModelState::Candidate, lineage, clock::wall()).await?;
    let uploaded = Uploaded {
        digest: version.model.digest,
        length: version.length,
        index: version.index,
        name: version.model.name,
        version: version.model.version,
    };
    Ok((StatusCode::CREATED, Json(uploaded)))
}

pub async fn one(State(control): State<Control>, Path(digest): Path<Digest>) -> Result<impl IntoResponse + use<>, Problem> {
    let bytes = control.packages.packed(digest).await?.ok_or_else(|| Problem::not_found(format!("there is no blob {digest}")))?;
    let headers = [(CONTENT_TYPE, "application/octet-stream"), (CACHE_CONTROL, "private, immutable, max-age=31536000")];
    Ok((headers, bytes))
}

impl From<AdmitError> for Problem {
    fn from(e: AdmitError) -> Self {
        match e {
            AdmitError::Unreadable(_) | AdmitError::TooManyChunks => Self::new(StatusCode::UNPROCESSABLE_ENTITY, e.to_string()),
            AdmitError::Conflict { .. } => Self::new(StatusCode::CONFLICT, e.to_string()),
            AdmitError::Failed(e) => e.into(),
        }
    }
}

//! The control plane's routes: models, blobs, trust documents, releases, retraining.
//!
//! Invariant: a request names a job or a digest, never a command or a path. Not here: the token and the shape of errors (`api`).

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};

use super::{blobs, models, releases, retrain, trust};
use crate::{
    db::Db,
    events::Events,
    pipeline::Pipeline,
    registry::{packages::Packages, trust::Trust},
    rollout::Rollout,
};

/// Of a package that is uploaded; it is held in memory while it is checked.
const MAX_UPLOAD: usize = 128 * 1024 * 1024;
/// A release carries signed targets.
const MAX_RELEASE: usize = 512 * 1024;

/// What the routes of the control plane need.
#[derive(Clone)]
pub struct Control {
    pub db: Arc<dyn Db>,
    pub packages: Arc<Packages>,
    pub trust: Arc<Trust>,
    pub rollout: Arc<Rollout>,
    pub pipeline: Arc<Pipeline>,
    pub events: Events,
}

pub fn router(control: Control) -> Router {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/blobs", post(blobs::upload).layer(DefaultBodyLimit::max(MAX_UPLOAD)))
        .route("/v1/blobs/{digest}", get(blobs::one))
        .route("/v1/trust/{role}", get(trust::newest))
        .route("/v1/releases", get(releases::list).post(releases::create).layer(DefaultBodyLimit::max(MAX_RELEASE)))
        .route("/v1/releases/{id}", get(releases::one))
        .route("/v1/retrain", get(retrain::list).post(retrain::trigger))
        .route("/v1/retrain/{id}", get(retrain::one))
        .route("/v1/retrain/{id}/log", get(retrain::log))
        .with_state(control)
}

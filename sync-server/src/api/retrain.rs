//! `GET` and `POST /v1/retrain`, and the logs of runs.
//!
//! Invariant: a request names a job of the configuration and nothing else. Not here: running it (`pipeline`).

use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use wayside_common::fleet::ModelRef;

use super::{control::Control, problem::Problem};
use crate::{
    db::registry::{RetrainRun, RunId, RunState},
    pipeline::TriggerError,
};

#[derive(Serialize)]
pub struct RunRow {
    id: String,
    job: String,
    state: RunState,
    exit_status: Option<i32>,
    reason: Option<String>,
    samples: u64,
    /// The end of it; all of it is under `/log`.
    log: Option<String>,
    /// Unix milliseconds.
    started: i64,
    ended: Option<i64>,
    candidate: Option<ModelRef>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    job: String,
}

#[derive(Serialize)]
pub struct Started {
    id: String,
}

pub async fn list(State(control): State<Control>) -> Result<Json<Vec<RunRow>>, Problem> {
    Ok(Json(control.db.runs().await?.into_iter().map(|run| row(&control, run)).collect()))
}

pub async fn one(State(control): State<Control>, Path(id): Path<i64>) -> Result<Json<RunRow>, Problem> {
    let found = control.db.runs().await?.into_iter().find(|run| run.id == RunId(id));
    found.map(|run| Json(row(&control, run))).ok_or_else(|| Problem::not_found(format!("there is no run {id}")))
}

pub async fn log(State(control): State<Control>, Path(id): Path<i64>) -> Result<impl IntoResponse + use<>, Problem> {
    let log = control.pipeline.log(RunId(id)).ok_or_else(|| Problem::not_found(format!("run {id} has no log")))?;
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], log))
}

pub async fn trigger(State(control): State<Control>, Json(asked): Json<Asked>) -> Result<(StatusCode, Json<Started>), Problem> {
    let id = control.pipeline.trigger(&asked.job).await?.0.to_string();
    Ok((StatusCode::ACCEPTED, Json(Started { id })))
}

fn row(control: &Control, run: RetrainRun) -> RunRow {
    let log = control.pipeline.log_tail(run.id);
    let RetrainRun { id, job, state, exit_status, reason, samples, started, ended, candidate } = run;
    let (id, started, ended) = (id.0.to_string(), started.0, ended.map(|ended| ended.0));
    RunRow { id, job, state, exit_status, reason, samples, log, started, ended, candidate }
}

impl From<TriggerError> for Problem {
    fn from(e: TriggerError) -> Self {
        match e {
            TriggerError::NoSuchJob { .. } => Self::not_found(e.to_string()),
            TriggerError::Busy(_) => Self::new(StatusCode::CONFLICT, e.to_string()),
            TriggerError::Failed(e) => e.into(),
        }
    }
}

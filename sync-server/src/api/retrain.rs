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
    /// Unix milliseconds.
    started: i64,
    ended: Option<i64>,
    candidate: Option<ModelRef>,
}

#[derive(Serialize)]
pub struct OneRun {
    #[serde(flatten)]
    run: RunRow,
    /// The end of it; all of it is under `/log`.
    log: Option<String>,
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
    Ok(Json(control.db.runs().await?.into_iter().map(RunRow::from).collect()))
}

pub async fn one(State(control): State<Control>, Path(id): Path<i64>) -> Result<Json<OneRun>, Problem> {
    let found = control.db.runs().await?.into_iter().find(|run| run.id == RunId(id));
    let run = found.ok_or_else(|| Problem::not_found(format!("there is no run {id}")))?;
    let log = control.pipeline.log_tail(run.id).await;
    Ok(Json(OneRun { run: run.into(), log }))
}

pub async fn log(State(control): State<Control>, Path(id): Path<i64>) -> Result<impl IntoResponse + use<>, Problem> {
    let log = control.pipeline.log(RunId(id)).await.ok_or_else(|| Problem::not_found(format!("run {id} has no log")))?;
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], log))
}

pub async fn trigger(State(control): State<Control>, Json(asked): Json<Asked>) -> Result<(StatusCode, Json<Started>), Problem> {
    let id = control.pipeline.trigger(&asked.job).await?.0.to_string();
    Ok((StatusCode::ACCEPTED, Json(Started { id })))
}

impl From<RetrainRun> for RunRow {
    fn from(run: RetrainRun) -> Self {
        let RetrainRun { id, job, state, exit_status, reason, samples, started, ended, candidate } = run;
        let (id, started, ended) = (id.0.to_string(), started.0, ended.map(|ended| ended.0));
        Self { id, job, state, exit_status, reason, samples, started, ended, candidate }
    }
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

//! Retraining runs.
//!
//! Invariant: a run that ended does not change any more. Not here: the process (`pipeline`).

use anyhow::{Context, ensure};
use wayside_common::{fleet::ModelRef, id::Digest, time::Wall};

use crate::db::{
    registry::{RetrainRun, RunEnd, RunId, RunState},
    sql::{Row, Tx, params},
};

pub fn start(tx: &Tx, job: &str, at: Wall) -> anyhow::Result<RunId> {
    let sql = "INSERT INTO retrain_run (job, state, started) VALUES ($1, $2, $3) RETURNING id";
    tx.one(sql, params![job, RunState::Running.as_str(), at.0], |row| Ok(RunId(row.get(0)?)))
}

pub fn note_samples(tx: &Tx, run: RunId, samples: u64) -> anyhow::Result<()> {
    tx.execute("UPDATE retrain_run SET samples = $1 WHERE id = $2", params![i64::try_from(samples)?, run.0])?;
    Ok(())
}

pub fn end(tx: &Tx, run: RunId, end: &RunEnd) -> anyhow::Result<()> {
    let candidate = end.candidate.as_ref();
    let ended = tx.execute(
        "UPDATE retrain_run SET state = $1, exit_status = $2, reason = $3, ended = $4,
             candidate_name = $5, candidate_version = $6, candidate_digest = $7
         WHERE id = $8 AND state = $9",
        params![
            end.state.as_str(),
            end.exit_status,
            end.reason,
            end.ended.0,
            candidate.map(|c| c.name.as_str()),
            candidate.map(|c| c.version),
            candidate.map(|c| c.digest.0),
            run.0,
            RunState::Running.as_str()
        ],
    )?;
    ensure!(ended == 1, "run {} is not running", run.0);
    Ok(())
}

pub fn fail_open(tx: &Tx, reason: &str, at: Wall) -> anyhow::Result<u64> {
    let failed = tx.execute(
        "UPDATE retrain_run SET state = $1, reason = $2, ended = $3 WHERE state = $4",
        params![RunState::Failed.as_str(), reason, at.0, RunState::Running.as_str()],
    )?;
    Ok(failed as u64)
}

pub fn all(tx: &Tx) -> anyhow::Result<Vec<RetrainRun>> {
    tx.rows(
        "SELECT id, job, state, exit_status, reason, samples, started, ended, candidate_name, candidate_version, candidate_digest
         FROM retrain_run ORDER BY id DESC",
        params![],
        from_row,
    )
}

fn from_row(row: &Row) -> anyhow::Result<RetrainRun> {
    let state: String = row.get("state")?;
    let candidate = match row.get::<_, Option<String>>("candidate_name")? {
        Some(name) => Some(ModelRef {
            name: name.parse().context("a stored model name")?,
            version: row.get("candidate_version")?,
            digest: Digest(row.get("candidate_digest")?),
        }),
        None => None,
    };
    Ok(RetrainRun {
        id: RunId(row.get("id")?),
        job: row.get("job")?,
        state: RunState::ALL.into_iter().find(|s| s.as_str() == state).context("a stored run state")?,
        exit_status: row.get("exit_status")?,
        reason: row.get("reason")?,
        samples: row.get::<_, i64>("samples")?.unsigned_abs(),
        started: Wall(row.get("started")?),
        ended: row.get::<_, Option<i64>>("ended")?.map(Wall),
        candidate,
    })
}

//! Retention: how long raw readings are kept, and the task that lets go of the rest.
//!
//! Invariant: a step is one small transaction, so that no commit of a device's batch waits long for it. Not here: what is let go, and
//! what never is (`db`).

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use crate::{
    clock,
    config::Span,
    db::{
        Db,
        telemetry::{Retire, Retired, Telemetry},
    },
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(60);

/// Without limits everything is kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Raw readings that the server received longer ago are let go; their one-minute rollups stay.
    pub age: Option<Span>,
    /// Of raw readings no more bytes are kept; the oldest go first.
    pub bytes: Option<u64>,
}

/// Runs until it is dropped, or for ever.
pub async fn run(db: Arc<dyn Db>, config: Config) {
    if config.age.is_none() && config.bytes.is_none() {
        return;
    }
    loop {
        let limits = Retire { received_before: config.age.map(|age| clock::wall().minus(age.0)), bytes: config.bytes };
        match retire(&*db, limits).await {
            Ok(Retired { rows: 0, .. }) => {}
            Ok(Retired { rows, bytes, .. }) => tracing::info!(rows, bytes, "raw readings were let go; their rollups stay"),
            Err(e) => tracing::error!("retention failed, and is tried again in a minute: {e:#}"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Steps until nothing more is to be let go.
pub async fn retire<T: Telemetry + ?Sized>(db: &T, limits: Retire) -> anyhow::Result<Retired> {
    let mut sum = Retired::default();
    loop {
        let step = db.retire(limits).await?;
        sum.rows += step.rows;
        sum.bytes += step.bytes;
        if !step.more {
            return Ok(sum);
        }
        tokio::task::yield_now().await;
    }
}

//! The supervisor: a worker process for each slot, begun again when it dies, exchanged when a new model is to run.
//!
//! Invariant: a question has exactly one answer, whatever becomes of the process: the model's, or the reason for none. Not here:
//! what a worker does (`worker`), which model should run (`updater`).

mod process;
mod slot;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use wayside_common::{
    id::SlotName,
    record::{Fact, NoAnswer},
};

use self::{
    process::Launched,
    slot::{Asked, Keeping, Swap},
};
use crate::{
    judge::{Judge, Judged, Question, Slot, Workshop},
    worker::protocol::Request,
};

/// A self test may take this long, loading included.
const SELF_TEST: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
pub struct Config {
    /// The agent's own executable, which is the worker too.
    pub program: PathBuf,
    /// Answers with a smaller margin come with embedding and crop.
    pub details_below: f32,
    /// The least time that an answer may take; a model's own limit, times ten, may be more.
    pub patience: Duration,
}

impl Config {
    pub fn of_this_program(details_below: f32) -> std::io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, details_below, patience: Duration::from_secs(5) })
    }
}

/// Tries and exchanges models. A slot's worker ends when its judge is dropped.
pub struct Supervisor {
    config: Config,
    swaps: BTreeMap<SlotName, mpsc::Sender<Swap>>,
}

impl Supervisor {
    /// Begins a worker per slot and returns when each is ready or cannot be. A slot without a package, or with one that cannot be
    /// loaded, has no model until a swap. `facts` hears of workers that died.
    pub async fn start(
        config: Config,
        slots: impl IntoIterator<Item = (SlotName, Option<PathBuf>)>,
        facts: mpsc::Sender<Fact>,
    ) -> (Self, Vec<Slot>) {
        let mut begun = Vec::new();
        for (name, package) in slots {
            let (config, facts) = (config.clone(), facts.clone());
            // One after the other: loading needs memory, and a device has few slots.
            let launched = match &package {
                Some(dir) => process::launch(&config, dir)
                    .await
                    .inspect_err(|reason| tracing::error!(slot = %name, dir = %dir.display(), reason, "the slot has no model"))
                    .ok(),
                None => None,
            };
            begun.push(begin(config, name, launched, facts));
        }
        let swaps = begun.iter().map(|(slot, swap)| (slot.name.clone(), swap.clone())).collect();
        (Self { config, swaps }, begun.into_iter().map(|(slot, _)| slot).collect())
    }
}

fn begin(config: Config, name: SlotName, launched: Option<Launched>, facts: mpsc::Sender<Fact>) -> (Slot, mpsc::Sender<Swap>) {
    let (asked, asked_seen) = mpsc::channel(4);
    let (swap, swap_seen) = mpsc::channel(1);
    let (loaded, loaded_seen) = watch::channel(launched.as_ref().map(|launched| Arc::clone(&launched.present.loaded)));
    let keeping = Keeping::new(name.clone(), config, launched, loaded, facts);
    tokio::spawn(keeping.run(asked_seen, swap_seen));
    (Slot { name, judge: Arc::new(Handle { asked }), loaded: loaded_seen }, swap)
}

/// A slot's worker as others see it.
struct Handle {
    asked: mpsc::Sender<Asked>,
}

#[async_trait]
impl Judge for Handle {
    async fn judge(&self, question: Question) -> Result<Judged, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        if self.asked.send(Asked { question, reply }).await.is_err() {
            return Err(NoAnswer::NoModel);
        }
        answer.await.unwrap_or(Err(NoAnswer::WorkerCrash))
    }
}

#[async_trait]
impl Workshop for Supervisor {
    async fn self_test(&self, dir: &Path) -> Result<(), String> {
        let test = async {
            let mut launched = process::launch(&self.config, dir).await?;
            launched.process.self_test(&Request::SelfTest).await
        };
        match tokio::time::timeout(SELF_TEST, test).await {
            Ok(Ok(passed)) => {
                tracing::info!(dir = %dir.display(), samples = passed.samples, p95_micros = passed.p95_micros, "self test passed");
                Ok(())
            }
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err(format!("the self test takes longer than {} s", SELF_TEST.as_secs())),
        }
    }

    async fn swap(&self, slot: &SlotName, dir: &Path) -> Result<(), String> {
        let (done, result) = oneshot::channel();
        let swaps = self.swaps.get(slot).ok_or_else(|| format!("there is no slot {slot}"))?;
        let gone = |_| format!("the worker of slot {slot} is not kept any more");
        swaps.send(Swap { dir: dir.to_owned(), done }).await.map_err(|_| gone(()))?;
        result.await.map_err(|_| gone(()))?
    }
}

//! One slot's worker through its lives: asked one question at a time, begun again after a death, exchanged in a swap.
//!
//! Invariant: a question that waits while a worker is begun again is asked afterwards; the one that was at work when the worker
//! died is answered `WorkerCrash`. Not here: the process itself.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use wayside_common::{
    backoff::full_jitter,
    id::SlotName,
    record::{Fact, NoAnswer},
};

use super::{
    Config,
    process::{self, Launched, Lost, Present, Process},
};
use crate::{
    judge::{Judged, Loaded, Question},
    worker::protocol::{self, Bytes, Reply, Request},
};

const RETRY_BASE: Duration = Duration::from_millis(500);
const RETRY_CAP: Duration = Duration::from_secs(30);
/// After so many deaths without an answer between them, questions wait no longer for the next life.
const HOPEFUL: u32 = 3;

pub struct Asked {
    pub question: Question,
    pub reply: oneshot::Sender<Result<Judged, NoAnswer>>,
}

pub struct Swap {
    pub dir: PathBuf,
    pub done: oneshot::Sender<Result<(), String>>,
}

/// Why a process is being launched.
enum Purpose {
    /// The last one died.
    Again,
    Swap(oneshot::Sender<Result<(), String>>),
}

/// The task's state.
pub struct Keeping {
    name: SlotName,
    config: Config,
    present: Option<Present>,
    process: Option<Process>,
    /// Deaths since the last answer.
    deaths: u32,
    /// When the next life begins.
    again_at: Option<Instant>,
    launching: JoinSet<(Purpose, Result<Launched, String>)>,
    loaded: watch::Sender<Option<Arc<Loaded>>>,
    facts: mpsc::Sender<Fact>,
}

impl Keeping {
    pub fn new(
        name: SlotName,
        config: Config,
        launched: Option<Launched>,
        loaded: watch::Sender<Option<Arc<Loaded>>>,
        facts: mpsc::Sender<Fact>,
    ) -> Self {
        let (present, process) = launched.map(|l| (l.present, l.process)).unzip();
        Self { name, config, present, process, deaths: 0, again_at: None, launching: JoinSet::new(), loaded, facts }
    }

    /// Ends when nobody can ask or swap any more.
    pub async fn run(mut self, mut asked: mpsc::Receiver<Asked>, mut swaps: mpsc::Receiver<Swap>) {
        loop {
            let hopeless = self.present.is_none() || self.deaths >= HOPEFUL;
            let takes = self.process.is_some() || hopeless;
            tokio::select! {
                question = asked.recv(), if takes => match question {
                    Some(question) => self.answer(question).await,
                    None => return,
                },
                Some(swap) = swaps.recv() => self.launch(swap.dir, Purpose::Swap(swap.done)),
                reason = death(&mut self.process) => self.bury(reason).await,
                Some(launched) = self.launching.join_next() => match launched {
                    Ok((purpose, launched)) => self.launched(purpose, launched).await,
                    Err(failed) => {
                        tracing::error!(slot = %self.name, %failed, "a worker could not be launched");
                        self.plan_if_none();
                    }
                },
                () = at(self.again_at) => {
                    self.again_at = None;
                    if let Some(present) = &self.present {
                        let dir = present.dir.clone();
                        self.launch(dir, Purpose::Again);
                    }
                }
            }
        }
    }

    async fn answer(&mut self, Asked { question, reply }: Asked) {
        let answer = match (&mut self.process, &self.present) {
            (Some(process), Some(present)) => {
                let asked = process.ask(&request(&question, self.config.details_below), present.limit).await;
                self.judged(asked).await
            }
            (_, None) => Err(NoAnswer::NoModel),
            (None, Some(_)) => Err(NoAnswer::WorkerCrash),
        };
        // Whoever asked may have ended.
        let _ = reply.send(answer);
    }

    async fn judged(&mut self, asked: Result<Reply, Lost>) -> Result<Judged, NoAnswer> {
        match asked {
            Ok(Reply::Judged(judged)) => {
                self.deaths = 0;
                Ok(named(judged, self.present.as_ref()))
            }
            Ok(Reply::BadInput(reason)) => {
                self.deaths = 0;
                tracing::debug!(slot = %self.name, reason, "bad input");
                Err(NoAnswer::BadInput)
            }
            Ok(Reply::Failed(reason)) => {
                self.bury(reason).await;
                Err(NoAnswer::WorkerCrash)
            }
            Ok(Reply::Ready(_) | Reply::Unloadable(_) | Reply::SelfTest(_)) => {
                self.bury("it does not speak the protocol".into()).await;
                Err(NoAnswer::WorkerCrash)
            }
            Err(Lost::Died(reason)) => {
                self.bury(reason).await;
                Err(NoAnswer::WorkerCrash)
            }
            Err(Lost::TimedOut) => {
                self.bury("it did not answer in time and was killed".into()).await;
                Err(NoAnswer::Timeout)
            }
        }
    }

    /// The worker is gone: says so, and plans the next life.
    async fn bury(&mut self, reason: String) {
        self.process = None;
        let Some(present) = &self.present else { return };
        tracing::warn!(slot = %self.name, reason, deaths = self.deaths + 1, "the worker died");
        let fact = Fact::WorkerDied { slot: self.name.clone(), model: present.loaded.model.digest, reason: cut(reason) };
        // Whoever listens may have ended; the log has it.
        let _ = self.facts.send(fact).await;
        self.plan();
    }

    fn plan(&mut self) {
        // The first life after a good one begins at once, because most deaths are accidents.
        let wait = match self.deaths {
            0 => Duration::ZERO,
            n => full_jitter(RETRY_BASE, RETRY_CAP, n - 1, getrandom::u64().unwrap_or(u64::MAX)),
        };
        self.deaths = self.deaths.saturating_add(1);
        self.again_at = Some(Instant::now() + wait);
    }

    /// A slot with a model is never without a worker and without a plan for one.
    fn plan_if_none(&mut self) {
        if self.present.is_some() && self.process.is_none() && self.again_at.is_none() {
            self.plan();
        }
    }

    fn launch(&mut self, dir: PathBuf, purpose: Purpose) {
        let config = self.config.clone();
        self.launching.spawn(async move { (purpose, process::launch(&config, &dir).await) });
    }

    async fn launched(&mut self, purpose: Purpose, launched: Result<Launched, String>) {
        match (purpose, launched) {
            (Purpose::Again, Ok(launched)) => {
                // A swap may have been quicker, and its model is the one to run.
                let same = self.present.as_ref().is_some_and(|present| present.loaded.model == launched.present.loaded.model);
                if self.process.is_none() && same {
                    self.process = Some(launched.process);
                } else {
                    self.plan_if_none();
                }
            }
            (Purpose::Again, Err(reason)) => {
                tracing::error!(slot = %self.name, reason, "the worker cannot be started again");
                self.plan_if_none();
            }
            (Purpose::Swap(done), Ok(launched)) => {
                // Between two questions: the old process is dropped, and killed by that, after the new one is in its place.
                let _old = self.process.replace(launched.process);
                self.again_at = None;
                self.deaths = 0;
                self.loaded.send_replace(Some(Arc::clone(&launched.present.loaded)));
                self.present = Some(launched.present);
                let _ = done.send(Ok(()));
            }
            (Purpose::Swap(done), Err(reason)) => {
                let _ = done.send(Err(reason));
                if self.launching.is_empty() {
                    self.plan_if_none();
                }
            }
        }
    }
}

/// Never, while there is no process.
async fn death(process: &mut Option<Process>) -> String {
    match process {
        Some(process) => process.died().await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn request(question: &Question, details_below: f32) -> Request<'_> {
    match question {
        Question::Frame { jpeg, roi, thumbnail } => Request::Frame { jpeg: Bytes(jpeg), roi: *roi, thumbnail: *thumbnail, details_below },
        Question::Window { rows } => Request::Window { rows: rows.clone() },
    }
}

fn named(judged: protocol::Judged, present: Option<&Present>) -> Judged {
    let names = present.map_or(&[][..], |present| &present.loaded.features);
    let drift = names.iter().zip(judged.drift).map(|((name, _), value)| (name.clone(), value)).collect();
    let protocol::Judged { answer, embedding, thumbnail, crop, .. } = judged;
    Judged { answer, drift, embedding, thumbnail, crop }
}

fn cut(reason: String) -> String {
    reason.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use wayside_common::{fleet::ModelRef, id::Digest};

    use super::*;

    fn present(version: u32) -> Present {
        let model = ModelRef { name: "vehicles".parse().unwrap(), version, digest: Digest::of(&version.to_le_bytes()) };
        let loaded = Arc::new(Loaded { model, window: None, features: Vec::new() });
        Present { dir: "/nowhere".into(), loaded, limit: Duration::from_secs(1) }
    }

    #[tokio::test]
    async fn a_life_that_does_not_come_is_planned_again() {
        let config = Config { program: "/bin/cat".into(), details_below: 0.0, patience: Duration::from_secs(1) };
        struct Case {
            what: &'static str,
            launched: Result<u32, String>,
            lives: bool,
            planned: bool,
        }
        let cases = [
            Case { what: "the model that is to run", launched: Ok(1), lives: true, planned: false },
            Case { what: "another model", launched: Ok(2), lives: false, planned: true },
            Case { what: "none", launched: Err("no memory".into()), lives: false, planned: true },
        ];
        for Case { what, launched, lives, planned } in cases {
            let (loaded, _loaded_seen) = watch::channel(None);
            let (facts, _facts_seen) = mpsc::channel(1);
            let mut keeping = Keeping::new("vehicles".parse().unwrap(), config.clone(), None, loaded, facts);
            keeping.present = Some(present(1));
            let process = Process::spawn(&config, std::path::Path::new("/nowhere")).unwrap();
            let launched = launched.map(|version| Launched { present: present(version), process });
            keeping.launched(Purpose::Again, launched).await;
            assert_eq!((keeping.process.is_some(), keeping.again_at.is_some()), (lives, planned), "{what}");
        }
    }
}

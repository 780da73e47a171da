//! Retraining: a job that the configuration names, fed with labelled samples, whose package becomes a candidate.
//!
//! Invariant: a request names a job and nothing else; one run of a job at a time; every run ends in the database, whatever happens to
//! its process. Not here: releasing a candidate (the operator's key does that), what a trainer computes ([`trainer`], `models/train`).

pub mod champion;
pub mod job;
pub mod trainer;

use std::{
    collections::HashSet,
    fs,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use wayside_common::fleet::ModelRef;
use wayside_models::package::Package;

use crate::{
    clock,
    config::Job,
    datasets,
    db::{
        Db,
        registry::{ModelState, RunEnd, RunId, RunState},
    },
    events::{Event, Events},
    pipeline::job::{Ended, Process},
    registry::{packages::Packages, self_test},
};

/// What of a run's log is given out with the run itself.
const LOG_TAIL: u64 = 4096;

/// What a run is given: made from the database again whenever it is wanted.
const DATASET: &str = "dataset";
const BASE: &str = "base";
const OUTPUT: &str = "output";
const LOG: &str = "log.txt";

pub struct Pipeline {
    db: Arc<dyn Db>,
    packages: Arc<Packages>,
    events: Events,
    jobs: Vec<Job>,
    folder: PathBuf,
    /// Names of the jobs that run now. Guards an insert or a removal, never a wait.
    busy: Mutex<HashSet<String>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    #[error("the server's configuration has no job {asked:?}; it has: {known}")]
    NoSuchJob { asked: String, known: String },
    #[error("the job {0:?} is running; wait for its end")]
    Busy(String),
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// What a run that went well leaves behind.
struct Success {
    candidate: ModelRef,
    reason: String,
}

impl Pipeline {
    /// Runs that were under way when the server stopped are ended as failed, and so is what they left running.
    pub async fn open(db: Arc<dyn Db>, packages: Arc<Packages>, events: Events, jobs: Vec<Job>, folder: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        for run in fs::read_dir(&folder).with_context(|| format!("could not list {}", folder.display()))? {
            let run = run?.path();
            job::end_left_over(&run);
            clear(&run, &[DATASET, BASE]);
        }
        let cut_off = db.fail_open_runs("the server stopped while it ran", clock::wall()).await?;
        if cut_off > 0 {
            tracing::warn!(cut_off, "retraining runs were cut off by the last stop of the server");
        }
        Ok(Self { db, packages, events, jobs, folder, busy: Mutex::default() })
    }

    /// Starts a job; it goes on by itself.
    pub async fn trigger(self: &Arc<Self>, name: &str) -> Result<RunId, TriggerError> {
        let job = self.jobs.iter().find(|job| job.name == name).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.jobs.iter().map(|job| job.name.as_str()).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            TriggerError::NoSuchJob { asked: name.chars().take(64).collect(), known }
        })?;
        if !self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(job.name.clone()) {
            return Err(TriggerError::Busy(job.name));
        }
        let run = match self.db.start_run(&job.name, clock::wall()).await {
            Ok(run) => run,
            Err(e) => {
                self.idle(&job.name);
                return Err(e.into());
            }
        };
        self.announce(run, RunState::Running);
        let pipeline = self.clone();
        tokio::spawn(async move { pipeline.run_to_end(run, job).await });
        Ok(run)
    }

    /// All of a run's log; `None` where there is none.
    pub async fn log(&self, run: RunId) -> Option<String> {
        self.read_log(run, u64::MAX).await
    }

    /// The end of a run's log.
    pub async fn log_tail(&self, run: RunId) -> Option<String> {
        self.read_log(run, LOG_TAIL).await
    }

    async fn read_log(&self, run: RunId, most: u64) -> Option<String> {
        let path = self.run_folder(run).join(LOG);
        tokio::task::spawn_blocking(move || tail(&path, most)).await.ok()?.ok()
    }

    async fn run_to_end(&self, run: RunId, job: Job) {
        let mut exit_status = None;
        let result = self.run(run, &job, &mut exit_status).await;
        let (state, reason, candidate) = match result {
            Ok(Success { candidate, reason }) => (RunState::Succeeded, reason, Some(candidate)),
            Err(e) => (RunState::Failed, format!("{e:#}"), None),
        };
        // A package that did not become a candidate stays with the log, for a person to look at.
        let done_with: &[&str] = if candidate.is_some() { &[DATASET, BASE, OUTPUT] } else { &[DATASET, BASE] };
        let folder = self.run_folder(run);
        if tokio::task::spawn_blocking(move || clear(&folder, done_with)).await.is_err() {
            tracing::error!(run = run.0, "the removal of a run's folders has crashed");
        }
        tracing::info!(run = run.0, job = job.name, state = state.as_str(), reason, "a retraining run has ended");
        let end = RunEnd { state, exit_status, reason: Some(reason), candidate, ended: clock::wall() };
        if let Err(e) = self.db.end_run(run, end).await {
            tracing::error!(run = run.0, "the end of a run could not be stored: {e:#}");
        }
        self.idle(&job.name);
        self.announce(run, state);
    }

    async fn run(&self, run: RunId, job: &Job, exit_status: &mut Option<i32>) -> anyhow::Result<Success> {
        let folder = self.run_folder(run);
        let folder = std::path::absolute(&folder).with_context(|| format!("no absolute path for {}", folder.display()))?;
        let (dataset, base, output) = (folder.join(DATASET), folder.join(BASE), folder.join(OUTPUT));
        fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        let champion = champion::find(&*self.db, &self.packages, job).await?;
        let written = datasets::write(&*self.db, champion.manifest().answer().1, &dataset).await?;
        self.db.note_run_samples(run, written.samples).await?;
        ensure!(written.samples > 0, "no sample has a label yet: label some first (wayside sample label)");
        champion.write(&base).context("the base package could not be written")?;
        let version = champion::next_version(&self.db.models().await?, &job.model, champion.manifest().version);
        let process = Process {
            command: job.command.clone(),
            folder: folder.clone(),
            environment: vec![
                ("WAYSIDE_DATASET", dataset.into_os_string()),
                ("WAYSIDE_BASE", base.into_os_string()),
                ("WAYSIDE_OUTPUT", output.clone().into_os_string()),
                ("WAYSIDE_VERSION", version.to_string().into()),
            ],
            log: folder.join(LOG),
            timeout: job.timeout.0,
        };
        match process.run().await? {
            Ended::Exit(0) => *exit_status = Some(0),
            Ended::Exit(status) => {
                *exit_status = Some(status);
                bail!("the command ended with status {status}; the log says why");
            }
            Ended::Signal(signal) => bail!("the command was killed by signal {signal}"),
            Ended::Timeout => bail!("the command took longer than {} and was killed", job.timeout),
        }
        let lineage = json!({
            "source": "retrain", "run": run.0.to_string(), "job": job.name,
            "base": champion.model_ref(), "samples": written.samples, "labels": written.labels,
        });
        self.take_candidate(&output, job, version, lineage).await
    }

    /// The package must be what was asked for and pass its own golden samples here before it is a candidate.
    async fn take_candidate(&self, output: &Path, job: &Job, version: u32, lineage: serde_json::Value) -> anyhow::Result<Success> {
        let folder = output.to_path_buf();
        let checked = tokio::task::spawn_blocking(move || -> anyhow::Result<(Package, String)> {
            let package = Package::open(&folder).context("the command left no valid package")?;
            let said = self_test::run(&package).context("the package fails its own golden samples")?;
            Ok((package, said))
        });
        let (package, reason) = checked.await.context("the check of the package has crashed")??;
        let found = package.model_ref();
        ensure!(found.name == job.model, "the package is a {}, and the job makes {}", found.name, job.model);
        ensure!(found.version == version, "the package has version {}, and WAYSIDE_VERSION was {version}", found.version);
        let version = self.packages.admit(package.pack(), ModelState::Candidate, lineage, clock::wall()).await?;
        Ok(Success { candidate: version.model, reason })
    }

    fn run_folder(&self, run: RunId) -> PathBuf {
        self.folder.join(format!("run-{}", run.0))
    }

    fn idle(&self, job: &str) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
    }

    fn announce(&self, run: RunId, state: RunState) {
        self.events.publish(Event::Retrain { id: run.0.to_string(), state: state.as_str().into() });
    }
}

fn clear(run: &Path, names: &[&str]) {
    for name in names {
        match fs::remove_dir_all(run.join(name)) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => tracing::warn!(run = %run.display(), name, "a folder of a run could not be removed: {e}"),
        }
    }
}

/// At most the last `most` bytes, from the start of a character.
fn tail(path: &Path, most: u64) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(most);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let rest_of_character = if skipped == 0 { 0 } else { bytes.iter().take(3).take_while(|byte| (0x80..0xc0).contains(*byte)).count() };
    Ok(String::from_utf8_lossy(&bytes[rest_of_character..]).into_owned())
}

#[cfg(test)]
mod tests;

//! The supervisor over real worker processes: deaths, hangs, swaps and self tests.
//!
//! Invariant: every wait is for a condition, with a deadline. Not here: what a model answers; the golden samples show that.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use wayside_agent::{
    judge::{Question, Slot, Workshop},
    supervisor::{Config, Supervisor},
};
use wayside_common::record::{Fact, NoAnswer};
use wayside_models::package::Package;

const DEADLINE: Duration = Duration::from_secs(60);

fn zoo(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/zoo").join(model)
}

fn config(patience: Duration) -> Config {
    Config { program: env!("CARGO_BIN_EXE_wayside-agent").into(), details_below: 2.0, patience }
}

struct Rig {
    supervisor: Supervisor,
    slot: Slot,
    facts: mpsc::Receiver<Fact>,
    package: Package,
}

impl Rig {
    async fn start(model: &str, patience: Duration) -> Self {
        let package = Package::open(&zoo(model)).unwrap();
        let (facts, facts_seen) = mpsc::channel(8);
        let slots = [("vehicles".parse().unwrap(), Some(zoo(model)))];
        let (supervisor, mut slots) = Supervisor::start(config(patience), slots, facts).await;
        Self { supervisor, slot: slots.remove(0), facts: facts_seen, package }
    }

    fn question(&self) -> Question {
        let sample = &self.package.golden().samples[0];
        let jpeg = Arc::new(self.package.file(&sample.input).unwrap().to_vec());
        Question::Frame { jpeg, roi: sample.roi(), thumbnail: true }
    }

    async fn judge(&self) -> Result<String, NoAnswer> {
        let judged = timeout(DEADLINE, self.slot.judge.judge(self.question())).await.expect("a question has an answer");
        judged.map(|judged| judged.answer.label)
    }

    async fn died(&mut self) -> String {
        match timeout(DEADLINE, self.facts.recv()).await.expect("a death is told") {
            Some(Fact::WorkerDied { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }
}

/// The worker processes that this process began and that live.
fn workers() -> Vec<u32> {
    let mut workers = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(status) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        // "id (name) state parent …": the name may hold anything, the last parenthesis ends it.
        let Some((_, rest)) = status.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        let (state, parent) = (fields.next(), fields.next());
        if state != Some("Z") && parent == Some(&std::process::id().to_string()) {
            workers.push(id);
        }
    }
    workers
}

fn signal(process: u32, name: &str) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status().unwrap();
    assert!(done.success());
}

async fn until<const N: usize>() -> [u32; N] {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match workers().try_into() {
            Ok(workers) => return workers,
            Err(others) => assert!(Instant::now() < deadline, "{others:?}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Stops a worker, and returns when none of its threads runs any more: from then on nobody takes what is in its pipe.
async fn stop(worker: u32) {
    signal(worker, "STOP");
    let deadline = Instant::now() + DEADLINE;
    while !fs::read_dir(format!("/proc/{worker}/task")).unwrap().flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        status.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }) {
        assert!(Instant::now() < deadline, "{worker} does not stop");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn one_worker() -> u32 {
    let [worker] = until().await;
    worker
}

/// Returns when something stands in the worker's pipe; takes a byte of it, so the worker is good for nothing afterwards.
async fn asked(worker: u32) {
    let take = move || File::open(format!("/proc/{worker}/fd/0"))?.read_exact(&mut [0]);
    timeout(DEADLINE, tokio::task::spawn_blocking(take)).await.expect("a question is asked").unwrap().unwrap();
}

// One function, because the processes are found as children of this one.
#[tokio::test]
async fn a_worker_may_die_hang_and_be_exchanged_and_every_question_has_one_answer() {
    let mut rig = Rig::start("vehicles", Duration::from_secs(20)).await;
    let label = rig.package.golden().samples[0].label.clone();
    assert_eq!(rig.judge().await, Ok(label.clone()));

    eprintln!("killed in the middle of a question");
    let first = one_worker().await;
    stop(first).await;
    let (answer, ()) = tokio::join!(rig.judge(), async {
        asked(first).await;
        signal(first, "KILL");
    });
    assert_eq!(answer, Err(NoAnswer::WorkerCrash));
    assert!(rig.died().await.contains('9'));
    assert_eq!(rig.judge().await, Ok(label.clone()));

    eprintln!("killed while idle: the next question waits for the next life");
    let second = one_worker().await;
    assert_ne!(first, second);
    signal(second, "KILL");
    rig.died().await;
    assert_eq!(rig.judge().await, Ok(label.clone()));

    eprintln!("a bad picture is answered by the same worker");
    let third = one_worker().await;
    let bad = Question::Frame { jpeg: Arc::new(b"no picture".to_vec()), roi: None, thumbnail: false };
    assert_eq!(rig.slot.judge.judge(bad).await.map(|_| ()), Err(NoAnswer::BadInput));
    let window = Question::Window { rows: vec![vec![0.0]] };
    assert_eq!(rig.slot.judge.judge(window).await.map(|_| ()), Err(NoAnswer::BadInput));
    assert_eq!(one_worker().await, third);

    eprintln!("an answer has all that the core needs");
    let judged = rig.slot.judge.judge(rig.question()).await.unwrap();
    assert_eq!(judged.answer.model, rig.package.digest());
    assert_eq!(judged.drift.len(), rig.package.reference().features.len());
    assert!(!judged.embedding.is_empty() && judged.thumbnail.is_some_and(|jpeg| jpeg.len() <= 16_000));

    eprintln!("swapped: another process, another model, and no death is told");
    let other = Package::open(&zoo("vehicles-refit")).unwrap().digest();
    rig.supervisor.swap(&rig.slot.name, &zoo("vehicles-refit")).await.unwrap();
    let swapped = rig.slot.judge.judge(rig.question()).await.unwrap();
    assert_eq!(swapped.answer.model, other);
    assert_eq!(rig.slot.loaded.borrow().as_ref().unwrap().model.digest, other);
    assert_ne!(one_worker().await, third);
    assert!(rig.facts.try_recv().is_err());

    eprintln!("what cannot be loaded changes nothing");
    assert!(rig.supervisor.swap(&rig.slot.name, Path::new("/nowhere")).await.is_err());
    assert!(rig.supervisor.swap(&"other".parse().unwrap(), &zoo("vehicles")).await.is_err());
    assert_eq!(rig.slot.judge.judge(rig.question()).await.unwrap().answer.model, other);

    eprintln!("a self test runs in a worker of its own");
    rig.supervisor.self_test(&zoo("vehicles")).await.unwrap();
    assert!(rig.supervisor.self_test(Path::new("/nowhere")).await.is_err());
    one_worker().await;

    eprintln!("no worker outlives its slot");
    drop(rig);
    let [] = until().await;

    eprintln!("a worker that hangs is killed, and the next life answers");
    let mut rig = Rig::start("vehicles", Duration::from_millis(200)).await;
    stop(one_worker().await).await;
    assert_eq!(rig.judge().await, Err(NoAnswer::Timeout));
    assert!(rig.died().await.contains("in time"));
    assert_eq!(rig.judge().await, Ok(label));
}

#[tokio::test]
async fn a_slot_without_a_model_says_so() {
    let (facts, _facts_seen) = mpsc::channel(1);
    let slots = [("empty".parse().unwrap(), None), ("broken".parse().unwrap(), Some(PathBuf::from("/nowhere")))];
    let (_supervisor, slots) = Supervisor::start(config(Duration::from_secs(5)), slots, facts).await;
    for slot in slots {
        assert!(slot.loaded.borrow().is_none());
        let answer = slot.judge.judge(Question::Window { rows: vec![] }).await;
        assert_eq!(answer, Err(NoAnswer::NoModel), "{}", slot.name);
    }
}

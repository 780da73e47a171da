//! Runs of real commands over the real store; the golden check itself is tested where packages are (`wayside-models`).

use std::time::{Duration, Instant};

use super::*;
use crate::{
    config::Span,
    db::{
        registry::RetrainRun,
        sqlite::Sqlite,
        telemetry::{Arrival, SampleFilter},
    },
    fixture,
    registry::{blob::BlobStore, fixture::package},
    scratch::Scratch,
};

async fn pipeline(scratch: &Scratch, script: &str) -> Arc<Pipeline> {
    let db: Arc<dyn Db> = Arc::new(Sqlite::open(&scratch.path().join("wayside.db")).unwrap());
    let packages = Arc::new(Packages::new(db.clone(), BlobStore::open(&scratch.path().join("blobs")).unwrap()));
    let base = scratch.path().join("shipped");
    package(1).write(&base).unwrap();
    let job = Job {
        name: "head".into(),
        model: "vehicles-sim".parse().unwrap(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: Span(Duration::from_secs(60)),
        base: Some(base),
    };
    Arc::new(Pipeline::open(db, packages, Events::default(), vec![job], scratch.path().join("retrain")).await.unwrap())
}

/// Two samples, one of them labelled.
async fn label_one(pipeline: &Pipeline) {
    let batch = fixture::batch("cam0.samples", 0, fixture::samples(0..2));
    pipeline.db.commit(vec![Arrival { device: fixture::device("cam-1"), batch, received: clock::wall() }]).await.unwrap();
    let samples = pipeline.db.samples(SampleFilter { limit: 10, ..SampleFilter::default() }).await.unwrap();
    assert!(pipeline.db.label_sample(&samples[0].id, "car", "test", clock::wall()).await.unwrap());
}

async fn ended(pipeline: &Arc<Pipeline>) -> RetrainRun {
    let id = pipeline.trigger("head").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let run = pipeline.db.runs().await.unwrap().into_iter().find(|run| run.id == id).unwrap();
        if run.state != RunState::Running {
            return run;
        }
        assert!(Instant::now() < deadline, "the run does not end");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_job_sees_its_dataset_and_its_failure_is_kept_with_its_log() {
    let scratch = Scratch::new();
    let script = "cat $WAYSIDE_DATASET/samples.json; ls $WAYSIDE_DATASET/images $WAYSIDE_BASE; echo version $WAYSIDE_VERSION; exit 5";
    let pipeline = pipeline(&scratch, script).await;
    label_one(&pipeline).await;
    let run = ended(&pipeline).await;
    assert_eq!((run.state, run.exit_status, run.samples), (RunState::Failed, Some(5), 1));
    let folder = pipeline.run_folder(run.id);
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["log.txt"], "what can be made again is removed");
    let log = pipeline.log(run.id).await.unwrap();
    for part in ["\"label\":\"car\"", "\"embedding\":[0.5,", "000000.jpg", "manifest.toml", "version 2"] {
        assert!(log.contains(part), "{part} in {log}");
    }
}

#[tokio::test]
async fn a_package_that_fails_its_golden_samples_is_no_candidate() {
    let scratch = Scratch::new();
    // The fixture's network is noise, so no engine can load it.
    let script = "cp -r $WAYSIDE_BASE $WAYSIDE_OUTPUT && sed -i s/version.=.1/version=$WAYSIDE_VERSION/ $WAYSIDE_OUTPUT/manifest.toml";
    let pipeline = pipeline(&scratch, script).await;
    label_one(&pipeline).await;
    let run = ended(&pipeline).await;
    assert_eq!((run.state, run.exit_status, run.candidate), (RunState::Failed, Some(0), None));
    assert!(run.reason.unwrap().contains("golden"));
    assert_eq!(pipeline.db.models().await.unwrap().len(), 0);
    assert!(pipeline.run_folder(run.id).join("output/manifest.toml").exists(), "a refused package stays to be looked at");
}

#[test]
fn the_end_of_a_log_is_short_and_whole_characters() {
    struct Case {
        log: &'static str,
        most: u64,
        tail: &'static str,
    }
    let cases = [
        Case { log: "", most: 4, tail: "" },
        Case { log: "abc", most: 4, tail: "abc" },
        Case { log: "abcdefg", most: 4, tail: "defg" },
        Case { log: "a€€", most: 4, tail: "€" },
        Case { log: "a€€", most: 2, tail: "" },
        Case { log: "a€€", most: u64::MAX, tail: "a€€" },
    ];
    let scratch = Scratch::new();
    let path = scratch.path().join("log.txt");
    for case in cases {
        fs::write(&path, case.log).unwrap();
        assert_eq!(tail(&path, case.most).unwrap(), case.tail, "{:?} {}", case.log, case.most);
    }
}

#[tokio::test]
async fn nothing_is_run_without_a_labelled_sample_or_for_a_job_that_is_not_configured() {
    let scratch = Scratch::new();
    let pipeline = pipeline(&scratch, "touch ran").await;
    let run = ended(&pipeline).await;
    assert_eq!((run.state, run.exit_status), (RunState::Failed, None));
    assert!(run.reason.unwrap().contains("no sample has a label"));
    assert!(!pipeline.run_folder(run.id).join("ran").exists());
    assert!(matches!(pipeline.trigger("rm -rf /").await, Err(TriggerError::NoSuchJob { .. })));
}

#[tokio::test]
async fn runs_that_a_stop_cut_off_have_failed_at_the_next_start() {
    let scratch = Scratch::new();
    let first = pipeline(&scratch, "true").await;
    let cut_off = first.run_folder(first.db.start_run("head", clock::wall()).await.unwrap());
    fs::create_dir_all(cut_off.join("dataset/images")).unwrap();
    let again =
        Pipeline::open(first.db.clone(), first.packages.clone(), Events::default(), vec![], scratch.path().join("retrain")).await.unwrap();
    let run = again.db.runs().await.unwrap().remove(0);
    assert_eq!((run.state, run.reason.as_deref()), (RunState::Failed, Some("the server stopped while it ran")));
    assert!(cut_off.exists() && !cut_off.join("dataset").exists());
}

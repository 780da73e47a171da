//! The control plane's rules as every engine must keep them.

use wayside_common::{
    fleet::{Generation, Intent, ModelRef, Outcome, Stage, TargetRef, UpdateReport, target_path},
    id::Digest,
    time::Wall,
    trust::role::IndexRef,
};

use crate::{
    db::registry::{
        AssignedSlot, Assignment, AssignmentState, ModelState, ModelVersion, NewRelease, Registered, ReleaseId, RunEnd, RunState,
        TrustDocument,
    },
    fixture::{self, store::Place},
};

fn version(number: u32, digest: u8) -> ModelVersion {
    let model = ModelRef { name: "vehicles-sim".parse().expect("a model"), version: number, digest: Digest([digest; 32]) };
    let index = IndexRef { length: 7, sha256: Digest([digest + 100; 32]) };
    let lineage = serde_json::json!({"source": "shipped"});
    ModelVersion { model, length: 1 << 40, index, state: ModelState::Candidate, lineage, created: Wall(5) }
}

fn targets(version: u64) -> TrustDocument {
    TrustDocument { role: "targets".into(), version, bytes: vec![version as u8, 0, 255] }
}

fn assignment(generation: u64, release: ReleaseId) -> Assignment {
    let slot = AssignedSlot { release, state: AssignmentState::Assigned, stage: None, reason: None, updated: Wall(9) };
    let slots = [("vehicles".parse().expect("a slot"), slot)].into();
    Assignment { device: fixture::device("cam-1"), generation: Generation(generation), expires: Wall(99), desired: vec![1, 2], slots }
}

#[tokio::test]
async fn a_name_and_version_belong_to_one_digest_for_ever() {
    for place in Place::each() {
        let db = place.open().await;
        assert_eq!(db.register_model(version(1, 1)).await.expect("writable"), Registered::New);
        assert_eq!(db.register_model(version(1, 1)).await.expect("writable"), Registered::Known);
        assert_eq!(db.register_model(version(1, 2)).await.expect("writable"), Registered::Conflict(Digest([1; 32])));
        assert_eq!(db.register_model(version(2, 3)).await.expect("writable"), Registered::New);
        let db = place.open().await;
        assert_eq!(db.models().await.expect("readable"), [version(2, 3), version(1, 1)]);
        assert_eq!(db.model_by_digest(Digest([3; 32])).await.expect("readable"), Some(version(2, 3)));
        assert_eq!(db.model(&"other".parse().expect("a model"), 1).await.expect("readable"), None);
    }
}

#[tokio::test]
async fn trust_documents_are_kept_once_and_come_in_order() {
    for place in Place::each() {
        let db = place.open().await;
        for number in [2, 10, 1, 2] {
            db.keep_trust(targets(number)).await.expect("writable");
        }
        assert_eq!(db.trust_after("targets", 1).await.expect("readable"), [targets(2), targets(10)]);
        assert_eq!(db.newest_trust("targets").await.expect("readable"), Some(targets(10)));
        assert_eq!(db.newest_trust("root").await.expect("readable"), None);
    }
}

#[tokio::test]
async fn generations_only_grow_and_what_ended_stays_ended() {
    for place in Place::each() {
        let db = place.open().await;
        db.register_model(version(1, 1)).await.expect("writable");
        let model = version(1, 1).model;
        let target = TargetRef { path: target_path(&model.name, 1), length: 1 << 40, sha256: model.digest };
        let slot: wayside_common::id::SlotName = "vehicles".parse().expect("a slot");
        let new = NewRelease { model, slot: slot.clone(), target, intent: Intent::Improve, created: Wall(8) };
        let release = db.add_release(new.clone(), targets(1)).await.expect("writable");
        assert_eq!((release.target.clone(), release.intent), (new.target.clone(), Intent::Improve));
        assert_eq!(db.models().await.expect("readable")[0].state, ModelState::Released);
        let unknown = NewRelease { model: version(9, 9).model, ..new };
        assert!(db.add_release(unknown, targets(2)).await.is_err());
        assert_eq!(db.newest_trust("targets").await.expect("readable"), Some(targets(1)), "the failed transaction left nothing");

        db.assign(assignment(3, release.id)).await.expect("the first");
        assert!(db.assign(assignment(3, release.id)).await.is_err() && db.assign(assignment(2, release.id)).await.is_err());
        let device = fixture::device("cam-1");
        let report = async |generation, outcome| {
            let report = UpdateReport { generation: Generation(generation), slot: Some(slot.clone()), target: None, outcome };
            db.note_report(&device, &report, Wall(20)).await.expect("writable")
        };
        let refused = Outcome::Refused { stage: Stage::SelfTest, reason: "golden".into() };
        assert!(report(3, Outcome::Progress(Stage::Fetching)).await);
        assert!(report(3, refused).await && !report(3, Outcome::Active).await && !report(7, Outcome::Active).await);
        db.assign(assignment(4, release.id)).await.expect("a higher one");
        let view = db.rollout_view(&device).await.expect("readable");
        assert_eq!((view.newest.len(), view.refused), (1, vec![release.id]));
        assert_eq!(view.last, Some(assignment(4, release.id)));
        let outcomes = db.outcomes().await.expect("readable");
        let told: Vec<_> = outcomes.iter().map(|o| (o.generation.0, o.slot.state, o.slot.stage, o.slot.reason.as_deref())).collect();
        assert_eq!(
            told,
            [(3, AssignmentState::Refused, Some(Stage::SelfTest), Some("golden")), (4, AssignmentState::Assigned, None, None)]
        );
    }
}

#[tokio::test]
async fn a_run_ends_once() {
    for place in Place::each() {
        let db = place.open().await;
        let first = db.start_run("head", Wall(1)).await.expect("writable");
        let second = db.start_run("head", Wall(2)).await.expect("writable");
        db.note_run_samples(second, 12).await.expect("writable");
        let candidate = Some(version(1, 1).model);
        let end = RunEnd { state: RunState::Succeeded, exit_status: Some(0), reason: None, candidate: candidate.clone(), ended: Wall(3) };
        db.end_run(second, end.clone()).await.expect("it runs");
        assert!(db.end_run(second, end).await.is_err());
        assert_eq!(db.fail_open_runs("the server stopped", Wall(4)).await.expect("writable"), 1);
        let runs = db.runs().await.expect("readable");
        let told: Vec<_> = runs.iter().map(|run| (run.id, run.state, run.samples, run.ended, run.candidate.clone())).collect();
        assert_eq!(told, [(second, RunState::Succeeded, 12, Some(Wall(3)), candidate), (first, RunState::Failed, 0, Some(Wall(4)), None)]);
    }
}

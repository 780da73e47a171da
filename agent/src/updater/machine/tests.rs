//! Timelines of the updater's machine: what it is told, what it asks for.

use ed25519_dalek::SigningKey;
use wayside_common::{
    fleet::{DesiredKind, Intent, TargetRef},
    trust::{
        role::{ASSIGN, Custom, DelegatedRole, Delegations, Hashes, IndexRef, RoleKeys, Root, Target, Targets},
        signed::{key_id, public_key, sign},
    },
};

use super::*;

const FUTURE: &str = "2030-01-01T00:00:00Z";
const WALL: Wall = Wall(1_800_000_000_000);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn slot() -> SlotName {
    "vehicles".parse().unwrap()
}

/// A package of three chunks.
fn packed(version: u8) -> Vec<u8> {
    [[7; 100], [version; 100], [9; 100]].concat()
}

fn index(version: u8) -> ChunkIndex {
    ChunkIndex::cut(&packed(version), &[100, 200])
}

fn model(version: u8) -> ModelRef {
    ModelRef { name: "vehicles".parse().unwrap(), version: u32::from(version), digest: Digest::of(&packed(version)) }
}

fn target_ref(version: u8) -> TargetRef {
    TargetRef { path: format!("vehicles/{version}"), length: packed(version).len() as u64, sha256: Digest::of(&packed(version)) }
}

fn role(key: &SigningKey) -> RoleKeys {
    RoleKeys { keyids: vec![key_id(&public_key(key))], threshold: 1 }
}

fn root() -> Vec<u8> {
    let (root, targets) = (key(1), key(2));
    let document = Root {
        kind: "root".into(),
        spec_version: "1.0.0".into(),
        version: 1,
        expires: FUTURE.into(),
        consistent_snapshot: false,
        keys: [&root, &targets].into_iter().map(|k| (key_id(&public_key(k)), public_key(k))).collect(),
        roles: [("root".to_string(), role(&root)), ("targets".to_string(), role(&targets))].into(),
    };
    sign(&document, &[&root]).unwrap()
}

/// Targets that name these versions of the model.
fn targets(version: u64, models: &[u8]) -> Vec<u8> {
    let assign = public_key(&key(3));
    let target = |model: &u8| {
        let index = index(*model).encode();
        let custom = Custom { index: IndexRef { length: index.len() as u64, sha256: Digest::of(&index) } };
        let TargetRef { path, length, sha256 } = target_ref(*model);
        (path, Target { length, hashes: Hashes { sha256 }, custom: Some(custom) })
    };
    let document = Targets {
        kind: "targets".into(),
        spec_version: "1.0.0".into(),
        version,
        expires: FUTURE.into(),
        targets: models.iter().map(target).collect(),
        delegations: Some(Delegations {
            keys: [(key_id(&assign), assign.clone())].into(),
            roles: vec![DelegatedRole {
                name: ASSIGN.into(),
                keyids: vec![key_id(&assign)],
                threshold: 1,
                paths: vec!["assign/*".into()],
                terminating: true,
            }],
        }),
    };
    sign(&document, &[&key(2)]).unwrap()
}

fn desired_by(signer: &SigningKey, generation: u64, slot: &str, version: u8) -> Vec<u8> {
    let document = Desired {
        kind: DesiredKind::Desired,
        fleet: "demo".parse().unwrap(),
        device: "cam-1".parse().unwrap(),
        generation: Generation(generation),
        start_before: FUTURE.into(),
        expires: FUTURE.into(),
        intent: Intent::Improve,
        slots: BTreeMap::from([(slot.parse().unwrap(), target_ref(version))]),
        configuration: None,
        agent: None,
    };
    sign(&document, &[signer]).unwrap()
}

fn desired(generation: u64, version: u8) -> Vec<u8> {
    desired_by(&key(3), generation, "vehicles", version)
}

struct Timeline(Machine);

impl Timeline {
    /// A device with model 1, generation 5, and targets that name models 1 and 2.
    fn new() -> Self {
        Self::with(Generation(5), None)
    }

    fn with(obeyed: Generation, update: Option<Vec<u8>>) -> Self {
        let mut trusted = TrustedSet::from_root(&root()).unwrap();
        trusted.update_targets(&targets(1, &[1, 2])).unwrap();
        let memory = Memory {
            fleet: "demo".parse().unwrap(),
            device: "cam-1".parse().unwrap(),
            trusted,
            obeyed,
            slots: [(slot(), Some(model(1)))].into(),
            update,
        };
        Self(Machine::new(Now { mono: Mono(0), wall: WALL }, memory))
    }

    fn event(&mut self, second: u64, event: Event) -> Vec<Action> {
        self.0.handle(Now { mono: Mono(second * 1_000_000), wall: WALL }, event);
        self.actions()
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.0.poll()).collect()
    }

    /// Until the chunks of `version` are asked for.
    fn until_chunks(&mut self, generation: u64, version: u8) -> Vec<Action> {
        self.event(0, Event::Desired(desired(generation, version)));
        self.event(0, Event::Looked(None));
        let bytes = index(version).encode();
        let (blob, chunk) = (Digest::of(&packed(version)), Digest::of(&bytes));
        self.event(0, Event::Chunk { blob, chunk, bytes });
        let missing = index(version).chunks.iter().map(|chunk| chunk.digest).collect();
        self.event(0, Event::Prepared(Ok(missing)))
    }

    fn chunk(&mut self, second: u64, version: u8, at: usize, bytes: &[u8]) -> Vec<Action> {
        let (blob, chunk) = (Digest::of(&packed(version)), index(version).chunks[at].digest);
        self.event(second, Event::Chunk { blob, chunk, bytes: bytes.to_vec() })
    }

    fn until_swap(&mut self, generation: u64, version: u8) -> Vec<Action> {
        self.until_chunks(generation, version);
        for at in 0..3 {
            self.chunk(0, version, at, &packed(version)[at * 100..at * 100 + 100]);
        }
        self.event(0, Event::Staged(Ok(model(version))));
        self.event(0, Event::SelfTested(Ok(())))
    }
}

/// The outcomes that the actions report.
fn outcomes(actions: &[Action]) -> Vec<Outcome> {
    let persisted = actions.iter().filter_map(|action| match action {
        Action::Persist(change) => Some(&change.facts),
        _ => None,
    });
    persisted
        .flatten()
        .filter_map(|fact| match fact {
            Fact::Update(report) => Some(report.outcome.clone()),
            _ => None,
        })
        .collect()
}

fn refused(actions: &[Action]) -> (Stage, String) {
    match outcomes(actions).pop() {
        Some(Outcome::Refused { stage, reason }) => (stage, reason),
        other => panic!("{other:?} instead of a refusal, in {actions:?}"),
    }
}

#[test]
fn a_wish_becomes_the_running_model_step_by_step() {
    let mut t = Timeline::new();
    let actions = t.event(0, Event::Desired(desired(6, 2)));
    let Action::Persist(first) = &actions[0] else { panic!("{actions:?}") };
    assert_eq!((first.generation, outcomes(&actions)), (Some(Generation(6)), vec![Outcome::Progress(Stage::Verifying)]));
    let package = Digest::of(&packed(2));
    assert_eq!(actions.last(), Some(&Action::Look { slot: slot(), package }));

    let actions = t.event(1, Event::Looked(None));
    assert_eq!(outcomes(&actions), [Outcome::Progress(Stage::Fetching)]);
    let bytes = index(2).encode();
    assert_eq!(actions.last(), Some(&Action::Request { blob: package, chunks: vec![Digest::of(&bytes)] }));
    let actions = t.event(1, Event::Chunk { blob: package, chunk: Digest::of(&bytes), bytes });
    assert_eq!(actions, [Action::Prepare { slot: slot(), package, index: index(2) }]);

    let head = index(2).chunks[1].digest;
    let actions = t.event(1, Event::Prepared(Ok(vec![head])));
    assert_eq!(actions, [Action::Request { blob: package, chunks: vec![head] }]);
    let actions = t.chunk(2, 2, 1, &[2; 100]);
    assert_eq!(actions, [Action::Write { chunk: head, bytes: vec![2; 100] }, Action::Stage { slot: slot(), package }]);
    let actions = t.event(2, Event::Staged(Ok(model(2))));
    assert_eq!(outcomes(&actions), [Outcome::Progress(Stage::Staged), Outcome::Progress(Stage::SelfTest)]);
    assert_eq!(actions.last(), Some(&Action::SelfTest { slot: slot(), package }));
    let actions = t.event(3, Event::SelfTested(Ok(())));
    assert_eq!(outcomes(&actions), [Outcome::Progress(Stage::Swap)]);
    assert_eq!(actions.last(), Some(&Action::Swap { slot: slot(), package }));
    assert!(!t.0.done());

    let actions = t.event(4, Event::Swapped(Ok(())));
    let Action::Persist(last) = &actions[0] else { panic!("{actions:?}") };
    assert_eq!(last.slot, Some(SlotRow { slot: slot(), active: model(2), previous: Some(model(1).digest) }));
    assert_eq!((last.update.as_deref(), outcomes(&actions)), (Some(&[][..]), vec![Outcome::Active]));
    assert_eq!(actions[1..], [Action::Installed, Action::Tidy { slot: slot(), keep: vec![model(2).digest, model(1).digest] }]);
    assert!(t.0.done());
    assert_eq!(t.event(5, Event::Desired(desired(6, 2))), [], "a wish that was obeyed is no news");
}

#[test]
fn a_wish_that_does_not_hold_is_refused_once_with_its_reason() {
    struct Case(&'static str, Vec<u8>, &'static str);
    let cases = [
        Case("a wrong key", desired_by(&key(9), 6, "vehicles", 2), "0 valid signatures"),
        Case("an old generation", desired(4, 2), "generation 4 is not higher than 5"),
        Case("an unknown target", desired(6, 3), "is not in the trusted targets"),
        Case("an unknown slot", desired_by(&key(3), 6, "faces", 2), "no slot faces"),
        Case("no document", b"{}".to_vec(), "not what it should be"),
    ];
    for Case(what, document, reason) in cases {
        let mut t = Timeline::new();
        let mut actions = t.event(0, Event::Desired(document.clone()));
        if let Some(deadline) = t.0.deadline() {
            assert!(matches!(actions[..], [Action::RequestTrust { root_version: 1, targets_version: 1 }]), "{what}");
            actions = t.event(deadline.0 / 1_000_000, Event::Tick);
        }
        let (stage, found) = refused(&actions);
        assert_eq!(stage, Stage::Verifying, "{what}");
        assert!(found.contains(reason), "{what}: {found}");
        assert!(t.0.done());
        assert_eq!(t.0.obeyed(), Generation(5), "{what}: an unverified wish raises nothing");
        assert_eq!(t.event(30, Event::Desired(document)), [], "{what}: said once");
    }
}

#[test]
fn newer_targets_that_come_after_the_wish_cure_it() {
    let mut t = Timeline::new();
    t.event(0, Event::Desired(desired(6, 3)));
    let actions = t.event(1, Event::Trust(vec![("targets".into(), targets(2, &[1, 2, 3]))]));
    assert_eq!(outcomes(&actions), [Outcome::Progress(Stage::Verifying)]);
    let Action::Persist(saved) = &actions[0] else { panic!("{actions:?}") };
    assert_eq!(saved.trust.len(), 1);
    assert_eq!(actions.last(), Some(&Action::Look { slot: slot(), package: Digest::of(&packed(3)) }));
    let actions = t.event(2, Event::Trust(vec![("targets".into(), targets(1, &[1]))]));
    assert!(matches!(&actions[..], [Action::Warn(text)] if text.contains("does not follow")), "{actions:?}");
}

#[test]
fn a_flipped_byte_is_asked_for_again_and_then_refused() {
    let mut t = Timeline::new();
    let actions = t.until_chunks(6, 2);
    let all: Vec<Digest> = index(2).chunks.iter().map(|chunk| chunk.digest).collect();
    assert_eq!(actions, [Action::Request { blob: Digest::of(&packed(2)), chunks: all.clone() }]);
    t.chunk(1, 2, 0, &[7; 100]);
    for _ in 0..2 {
        let actions = t.chunk(1, 2, 1, &[3; 100]);
        assert_eq!(actions, [Action::Request { blob: Digest::of(&packed(2)), chunks: vec![all[1]] }]);
    }
    let (stage, reason) = refused(&t.chunk(2, 2, 1, &[3; 100]));
    assert_eq!(stage, Stage::Fetching);
    assert!(reason.contains(&all[1].to_string()), "{reason}");
    assert_eq!(t.0.slots()[0].active, Some(model(1)), "the old model goes on");
    assert_eq!(t.0.obeyed(), Generation(6));
}

#[test]
fn what_does_not_come_is_asked_for_again() {
    let mut t = Timeline::new();
    t.until_chunks(6, 2);
    t.chunk(2, 2, 0, &[7; 100]);
    assert_eq!(t.0.deadline(), Some(Mono(5_000_000)));
    assert_eq!(t.event(4, Event::Tick), []);
    let actions = t.event(5, Event::Tick);
    assert!(matches!(&actions[..], [Action::Request { chunks, .. }] if chunks.len() == 2), "{actions:?}");
    assert_eq!(t.event(6, Event::Connected).len(), 1);
    let chunk = index(2).chunks[1].digest;
    let (stage, _) = refused(&t.event(7, Event::NoChunk { blob: Digest::of(&packed(2)), chunk }));
    assert_eq!(stage, Stage::Fetching);
}

#[test]
fn a_package_that_fails_on_the_device_is_refused_in_its_stage() {
    let mut t = Timeline::new();
    t.until_chunks(6, 2);
    for at in 0..3 {
        t.chunk(0, 2, at, &packed(2)[at * 100..at * 100 + 100]);
    }
    t.event(0, Event::Staged(Ok(model(2))));
    let actions = t.event(1, Event::SelfTested(Err("logits[0] is 7, expected 2".into())));
    assert_eq!(refused(&actions), (Stage::SelfTest, "logits[0] is 7, expected 2".into()));

    let mut t = Timeline::new();
    t.until_swap(6, 2);
    let actions = t.event(1, Event::Swapped(Err("the new worker died".into())));
    assert_eq!(refused(&actions), (Stage::Swap, "the new worker died".into()));
    assert_eq!(t.0.slots()[0].active, Some(model(1)));

    let mut t = Timeline::new();
    t.event(0, Event::Desired(desired(6, 2)));
    let other = ModelRef { version: 9, ..model(2) };
    let (stage, reason) = refused(&t.event(0, Event::Looked(Some(other))));
    assert_eq!((stage, reason.as_str()), (Stage::Staged, "the package is vehicles/9, not vehicles/2"));
}

#[test]
fn an_update_goes_on_after_a_restart_and_is_given_up_after_three() {
    let mut t = Timeline::new();
    let actions = t.event(0, Event::Desired(desired(6, 2)));
    let kept = |actions: &[Action]| match &actions[0] {
        Action::Persist(change) => change.update.clone(),
        other => panic!("{other:?}"),
    };
    let mut update = kept(&actions);
    for _ in 0..ATTEMPTS {
        let mut t = Timeline::with(Generation(6), update);
        let actions = t.actions();
        assert!(matches!(actions.last(), Some(Action::Look { .. })), "{actions:?}");
        update = kept(&actions);
    }
    let mut t = Timeline::with(Generation(6), update);
    let (stage, reason) = refused(&t.actions());
    assert!(stage == Stage::Reverting && reason.contains("given up"), "{reason}");
    assert!(t.0.done());
}

#[test]
fn a_newer_wish_waits_for_the_present_one_and_an_active_model_is_not_fetched() {
    let mut t = Timeline::new();
    t.until_swap(6, 2);
    assert_eq!(t.event(1, Event::Desired(desired(7, 2))), []);
    let actions = t.event(2, Event::Swapped(Ok(())));
    assert_eq!(outcomes(&actions), [Outcome::Active, Outcome::Progress(Stage::Verifying), Outcome::Active]);
    assert_eq!((t.0.obeyed(), t.0.done()), (Generation(7), true));
}

#[test]
fn a_step_that_cannot_be_written_is_not_performed() {
    let mut t = Timeline::new();
    t.until_chunks(6, 2);
    let actions = t.event(1, Event::PersistFailed);
    assert!(matches!(actions[..], [Action::Warn(_)]));
    assert!(t.0.done());
    // Its generation had been written by then.
    assert_eq!((t.0.obeyed(), t.event(2, Event::Desired(desired(6, 2)))), (Generation(6), vec![]));
}

#[test]
fn a_wish_that_could_not_be_written_down_is_obeyed_when_it_comes_again() {
    let mut t = Timeline::new();
    t.0.handle(Now { mono: Mono(0), wall: WALL }, Event::Desired(desired(6, 2)));
    assert!(matches!(t.0.poll(), Some(Action::Persist(Transition { generation: Some(Generation(6)), .. }))));
    let actions = t.event(1, Event::PersistFailed);
    assert!(matches!(actions[..], [Action::Warn(_)]));
    assert_eq!(t.0.obeyed(), Generation(5));
    let actions = t.event(2, Event::Desired(desired(6, 2)));
    assert!(matches!(&actions[..], [Action::Persist(change), .., Action::Look { .. }] if change.generation == Some(Generation(6))));
    assert_eq!(t.0.obeyed(), Generation(6));
}

#[test]
fn a_generation_beyond_what_the_server_can_count_is_refused() {
    let mut t = Timeline::new();
    let (stage, reason) = refused(&t.event(0, Event::Desired(desired(MAX_NUMBER + 1, 2))));
    assert_eq!(stage, Stage::Verifying);
    assert!(reason.contains("out of bounds"), "{reason}");
    assert_eq!(t.0.obeyed(), Generation(5));
}

//! A release from the operator's key to a device that checks everything, over the real store and real files.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Mutex};

use serde_json::Value;
use wayside_common::{
    blob::ChunkIndex,
    fleet::{Desired, ModelRef, Stage, target_path},
    trust::{
        role::{Custom, Hashes, IndexRef, Target},
        set::TrustedSet,
    },
};
use wayside_models::package::Package;

use super::*;
use crate::{
    db::{
        registry::{ModelState, NewRelease},
        sqlite::Sqlite,
    },
    fixture,
    keys::{self, Operator},
    registry::{
        blob::BlobStore,
        fixture::package,
        packages::{Packages, chunk_index},
        trust::{TargetsError, Trust},
    },
    scratch::Scratch,
};

/// Keeps what was sent.
#[derive(Default)]
struct Sent(Mutex<Vec<(Down, ToDevice, bool)>>);

#[async_trait]
impl Downlink for Sent {
    async fn send(&self, _device: &DeviceId, down: Down, bytes: Vec<u8>, retain: bool) -> anyhow::Result<()> {
        self.0.lock().unwrap().push((down, wire::decode(&bytes)?, retain));
        Ok(())
    }

    async fn kick(&self, _device: &DeviceId) -> anyhow::Result<()> {
        Ok(())
    }
}

struct Fleet {
    _scratch: Scratch,
    operator: PathBuf,
    db: Arc<dyn Db>,
    packages: Packages,
    trust: Trust,
    rollout: Rollout,
    sent: Arc<Sent>,
}

impl Fleet {
    async fn start() -> Self {
        let scratch = Scratch::new();
        let (operator, server) = (scratch.path().join("operator"), scratch.path().join("server"));
        keys::init(&operator, clock::wall()).unwrap();
        keys::copy_for_server(&operator, &server).unwrap();
        let db: Arc<dyn Db> = Arc::new(Sqlite::open(&scratch.path().join("wayside.db")).unwrap());
        let blobs = BlobStore::open(&scratch.path().join("blobs")).unwrap();
        let signer = Signer::new("demo".parse().unwrap(), keys::load(&server.join(keys::ASSIGN_KEY)).unwrap());
        let rollout = Rollout::new(db.clone(), Supply::new(blobs.clone()), signer, Events::default());
        let sent = Arc::new(Sent::default());
        rollout.attach(sent.clone());
        let trust = Trust::open(&server, db.clone()).await.unwrap();
        Self { packages: Packages::new(db.clone(), blobs), _scratch: scratch, operator, db, trust, rollout, sent }
    }

    /// What `wayside release push` and the API do together.
    async fn release(&self, package: &Package) -> Result<Release, TargetsError> {
        let packed = package.pack();
        let index = chunk_index(&packed);
        let index = IndexRef { length: index.len() as u64, sha256: Digest::of(&index) };
        let model = package.model_ref();
        let known = self.packages.admit(packed.clone(), ModelState::Candidate, Value::Null, clock::wall()).await.unwrap();
        assert_eq!(known.index, index);
        let mut operator = Operator::open(&self.operator).unwrap();
        let (length, hashes) = (packed.len() as u64, Hashes { sha256: model.digest });
        let target = Target { length, hashes, custom: Some(Custom { index: index.clone() }) };
        let targets = operator.admit(&target_path(&model.name, model.version), target, clock::wall()).unwrap();
        operator.keep(&targets).unwrap();
        self.post(&targets, model, length, &index).await
    }

    async fn post(&self, targets: &[u8], model: ModelRef, length: u64, index: &IndexRef) -> Result<Release, TargetsError> {
        let target = wayside_common::fleet::TargetRef { path: target_path(&model.name, model.version), length, sha256: model.digest };
        let slot = "vehicles".parse().unwrap();
        let release = NewRelease { model, slot, target, intent: Intent::Improve, created: clock::wall() };
        let release = self.trust.release(targets, release, index).await.unwrap()?;
        self.rollout.push_all().await;
        Ok(release)
    }

    async fn hello(&self, device: &DeviceId, hello: &Hello) -> Vec<ToDevice> {
        self.db.hello(device, hello, clock::wall()).await.unwrap();
        self.rollout.hello(device, hello).await.into_iter().map(|reply| reply.packet).collect()
    }

    async fn report(&self, device: &DeviceId, generation: Generation, outcome: Outcome) {
        let report = UpdateReport { generation, slot: None, target: None, outcome };
        self.rollout.report(device, &report).await.unwrap();
    }

    async fn states(&self) -> Vec<(i64, u64, AssignmentState, Option<String>)> {
        let outcomes = self.db.outcomes().await.unwrap();
        outcomes.into_iter().map(|o| (o.release.0, o.generation.0, o.slot.state, o.slot.reason)).collect()
    }
}

/// A device that believes nothing: gives the assignment that these packets bring, verified.
fn obey(trusted: &mut TrustedSet, packets: &[ToDevice], device: &DeviceId, obeyed: Generation) -> Option<Desired> {
    let mut desired = None;
    for packet in packets {
        match packet {
            ToDevice::Trust(documents) => {
                for (role, bytes) in documents {
                    assert_eq!(role, "targets", "the device has the newest root");
                    trusted.update_targets(bytes).unwrap();
                }
            }
            ToDevice::Desired(bytes) => {
                let fleet = "demo".parse().unwrap();
                desired = Some(trusted.desired(bytes, &fleet, device, obeyed, clock::wall()).unwrap().desired().clone());
            }
            other => panic!("{other:?} is no answer to hello"),
        }
    }
    desired
}

/// Fetches a package as a device does, eight chunks at a time, with every digest checked.
async fn fetch(fleet: &Fleet, device: &DeviceId, digest: Digest, length: u64, index: Digest) -> (Vec<u8>, usize) {
    let ask = async |chunks: Vec<Digest>| -> BTreeMap<Digest, Vec<u8>> {
        let replies = fleet.rollout.need(device, digest, chunks).await;
        assert!(replies.len() <= supply::IN_FLIGHT);
        let chunk = |reply: Reply| match reply.packet {
            ToDevice::Chunk { blob, chunk, bytes } if blob == digest && Digest::of(&bytes) == chunk => (chunk, bytes),
            other => panic!("{other:?} is not a chunk of the package"),
        };
        replies.into_iter().map(chunk).collect()
    };
    let encoded = ask(vec![]).await.remove(&index).expect("the index comes first");
    let decoded = ChunkIndex::decode(&encoded, length).unwrap();
    let (mut bytes, mut asked) = (Vec::new(), 0);
    for group in decoded.chunks.chunks(supply::IN_FLIGHT) {
        let found = ask(group.iter().map(|chunk| chunk.digest).collect()).await;
        group.iter().for_each(|chunk| bytes.extend_from_slice(&found[&chunk.digest]));
        asked += 1;
    }
    (bytes, asked)
}

#[tokio::test]
async fn a_release_reaches_a_device_that_verifies_every_step() {
    let fleet = Fleet::start().await;
    let device = fixture::device("cam-1");
    let mut trusted = TrustedSet::from_root(&fs::read(fleet.operator.join(keys::ROOT)).unwrap()).unwrap();
    assert_eq!(obey(&mut trusted, &fleet.hello(&device, &fixture::hello()).await, &device, Generation(2)), None);

    let package = package(2);
    let release = fleet.release(&package).await.unwrap();
    let sent: Vec<_> = fleet.sent.0.lock().unwrap().drain(..).collect();
    assert_eq!(sent.iter().map(|(down, _, retain)| (*down, *retain)).collect::<Vec<_>>(), [(Down::Trust, false), (Down::Desired, true)]);
    let packets: Vec<ToDevice> = sent.into_iter().map(|(_, packet, _)| packet).collect();
    let desired = obey(&mut trusted, &packets, &device, Generation(2)).expect("an assignment");
    assert_eq!(desired.generation, Generation(3), "above what the device has obeyed");
    assert_eq!(fleet.states().await, [(release.id.0, 3, AssignmentState::Assigned, None)]);

    let target = trusted.target(desired.slots.values().next().unwrap()).unwrap();
    let index = target.index().unwrap().sha256;
    let (bytes, asked) = fetch(&fleet, &device, target.target().sha256, target.target().length, index).await;
    assert_eq!(Package::from_bytes(&bytes).unwrap().digest(), package.digest());
    assert!(asked > 1);

    fleet.report(&device, Generation(3), Outcome::Progress(Stage::Fetching)).await;
    fleet.report(&device, Generation(3), Outcome::Active).await;
    fleet.report(&device, Generation(3), Outcome::Progress(Stage::Swap)).await;
    assert_eq!(fleet.states().await, [(release.id.0, 3, AssignmentState::Active, None)], "a late report undoes nothing");
}

#[tokio::test]
async fn a_device_that_missed_its_assignment_gets_the_same_one_with_its_hello() {
    let fleet = Fleet::start().await;
    let device = fixture::device("cam-1");
    fleet.hello(&device, &fixture::hello()).await;
    fleet.release(&package(2)).await.unwrap();
    let mut trusted = TrustedSet::from_root(&fs::read(fleet.operator.join(keys::ROOT)).unwrap()).unwrap();
    let first = fleet.hello(&device, &fixture::hello()).await;
    let again = fleet.hello(&device, &fixture::hello()).await;
    assert_eq!(first, again);
    assert_eq!(obey(&mut trusted, &again, &device, Generation(2)).unwrap().generation, Generation(3));

    let has_it = Hello { generation: Generation(3), targets_version: 2, ..fixture::hello() };
    assert_eq!(fleet.hello(&device, &has_it).await, []);
    // A device that appears later gets the newest release as well.
    assert_eq!(fleet.hello(&fixture::device("cam-2"), &fixture::hello()).await.len(), 2);
}

#[tokio::test]
async fn a_refusal_is_kept_with_its_reason_and_not_repeated() {
    let fleet = Fleet::start().await;
    let device = fixture::device("cam-1");
    fleet.hello(&device, &fixture::hello()).await;
    let bad = fleet.release(&package(2)).await.unwrap();
    let reason = "golden/a.csv differs".to_owned();
    fleet.report(&device, Generation(3), Outcome::Refused { stage: Stage::SelfTest, reason: reason.clone() }).await;
    let hello = Hello { generation: Generation(3), targets_version: 2, ..fixture::hello() };
    assert_eq!(fleet.hello(&device, &hello).await, [], "what was refused is not assigned again");
    assert_eq!(fleet.states().await, [(bad.id.0, 3, AssignmentState::Refused, Some(reason))]);

    let good = fleet.release(&package(3)).await.unwrap();
    assert_eq!(fleet.states().await[1], (good.id.0, 4, AssignmentState::Assigned, None));
}

#[tokio::test]
async fn targets_that_do_not_vouch_for_the_package_release_nothing() {
    let fleet = Fleet::start().await;
    fleet.release(&package(2)).await.unwrap();
    let packed = package(3).pack();
    let known = fleet.packages.admit(packed, ModelState::Candidate, Value::Null, clock::wall()).await.unwrap();
    let old = fs::read(fleet.operator.join(keys::TARGETS)).unwrap();
    let post = async |targets: &[u8]| fleet.post(targets, known.model.clone(), known.length, &known.index).await;
    assert!(matches!(post(&old).await, Err(TargetsError::Trust(_))), "the package is not in the targets");

    let foreign = fleet._scratch.path().join("foreign");
    keys::init(&foreign, clock::wall()).unwrap();
    let hashes = Hashes { sha256: known.model.digest };
    let target = Target { length: known.length, hashes, custom: Some(Custom { index: known.index.clone() }) };
    let path = target_path(&known.model.name, known.model.version);
    let signed = Operator::open(&foreign).unwrap().admit(&path, target.clone(), clock::wall()).unwrap();
    assert!(matches!(post(&signed).await, Err(TargetsError::Trust(_))), "signed by another key");

    let operator = Operator::open(&fleet.operator).unwrap();
    let other = Target { custom: Some(Custom { index: IndexRef { length: 1, sha256: Digest::of(b"x") } }), ..target.clone() };
    assert!(matches!(post(&operator.admit(&path, other, clock::wall()).unwrap()).await, Err(TargetsError::OtherIndex)));
    let bare = Target { custom: None, ..target };
    assert!(matches!(post(&operator.admit(&path, bare, clock::wall()).unwrap()).await, Err(TargetsError::NoIndex)));
    assert_eq!(fleet.db.releases().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_the_registry_does_not_have_is_said_so() {
    let fleet = Fleet::start().await;
    let device = fixture::device("cam-1");
    let (known, unknown) = (package(2), Digest::of(b"unknown"));
    fleet.release(&known).await.unwrap();
    for (blob, chunks) in
        [(unknown, vec![]), (unknown, vec![unknown]), (known.digest(), vec![unknown]), (known.digest(), vec![known.digest()])]
    {
        let replies = fleet.rollout.need(&device, blob, chunks).await;
        assert!(matches!(replies.as_slice(), [Reply { packet: ToDevice::NoChunk { .. }, .. }]), "{replies:?}");
    }
    assert_eq!(fleet.rollout.need(&device, unknown, vec![unknown; 1000]).await.len(), supply::IN_FLIGHT);
}

//! The keys of a fleet and the first documents they sign; what `wayside key init` makes and `wayside release push` uses.
//!
//! Invariant: a private key is written once, readable by its owner alone, and never overwritten; the root and targets keys are only ever
//! read from the operator's folder. Not here: the check of a document (`common::trust`), the assignment of models (`rollout`).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use ed25519_dalek::SigningKey;
use wayside_common::{
    time::Wall,
    trust::{
        role::{ASSIGN, DelegatedRole, Delegations, RoleKeys, Root, Target, Targets},
        set::TrustedSet,
        signed::{self, MAX_DOCUMENT, key_id, public_key},
    },
};

use crate::disk::{self, Access};

pub const ROOT_KEY: &str = "root.key";
pub const TARGETS_KEY: &str = "targets.key";
pub const ASSIGN_KEY: &str = "assign.key";
pub const ROOT: &str = "root.json";
pub const TARGETS: &str = "targets.json";

/// What a server needs of the operator's folder, and nothing more.
pub const FOR_SERVER: [(&str, Access); 3] = [(ROOT, Access::Everyone), (TARGETS, Access::Everyone), (ASSIGN_KEY, Access::OwnerAlone)];

const SPEC_VERSION: &str = "1.0.31";
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Makes the three keys and the first version of both documents. Refuses a folder that has any of them.
pub fn init(folder: &Path, now: Wall) -> anyhow::Result<()> {
    for name in [ROOT_KEY, TARGETS_KEY, ASSIGN_KEY, ROOT, TARGETS] {
        let path = folder.join(name);
        ensure!(!path.exists(), "{} exists already; keys are never overwritten: choose another folder", path.display());
    }
    disk::private_folder(folder).with_context(|| format!("could not make {}", folder.display()))?;
    let (root, targets, assign) = (new_key()?, new_key()?, new_key()?);
    let root_document = signed::sign(&first_root(&root, &targets, now), &[&root])?;
    let targets_document = signed::sign(&first_targets(&assign, now), &[&targets])?;
    let files = [
        (ROOT_KEY, seed_text(&root), Access::OwnerAlone),
        (TARGETS_KEY, seed_text(&targets), Access::OwnerAlone),
        (ASSIGN_KEY, seed_text(&assign), Access::OwnerAlone),
        (ROOT, root_document, Access::Everyone),
        (TARGETS, targets_document, Access::Everyone),
    ];
    for (name, bytes, access) in files {
        let path = folder.join(name);
        disk::create(&path, &bytes, access).with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

/// Copies what the server needs, and refuses to replace anything there.
pub fn copy_for_server(folder: &Path, server: &Path) -> anyhow::Result<()> {
    for (name, _) in FOR_SERVER {
        let path = server.join(name);
        ensure!(!path.exists(), "{} exists already and is not overwritten", path.display());
    }
    disk::private_folder(server).with_context(|| format!("could not make {}", server.display()))?;
    for (name, access) in FOR_SERVER {
        let bytes = fs::read(folder.join(name)).with_context(|| format!("could not read {}", folder.join(name).display()))?;
        disk::create(&server.join(name), &bytes, access).with_context(|| format!("could not write {}", server.join(name).display()))?;
    }
    Ok(())
}

/// Reads a private key: 64 hex digits on one line.
pub fn load(path: &Path) -> anyhow::Result<SigningKey> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed)
        .ok()
        .with_context(|| format!("{} is not a private key (64 hex digits)", path.display()))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Reads a signed document, bounded.
pub fn load_document(path: &Path) -> anyhow::Result<Vec<u8>> {
    let length = fs::metadata(path).with_context(|| format!("could not read {}", path.display()))?.len();
    ensure!(length <= MAX_DOCUMENT as u64, "{} has {length} bytes, more than a document may have", path.display());
    fs::read(path).with_context(|| format!("could not read {}", path.display()))
}

/// The operator's folder: who owns it decides which packages the fleet may run.
pub struct Operator {
    folder: PathBuf,
    key: SigningKey,
    trusted: TrustedSet,
}

impl Operator {
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let mut trusted = TrustedSet::from_root(&load_document(&folder.join(ROOT))?).context("root.json is not valid")?;
        trusted.update_targets(&load_document(&folder.join(TARGETS))?).context("targets.json is not valid")?;
        Ok(Self { folder: folder.to_path_buf(), key: load(&folder.join(TARGETS_KEY))?, trusted })
    }

    /// Takes the server's targets where they are newer than ours and signed by our key, for example from another operator's machine.
    pub fn learn(&mut self, targets: &[u8]) -> anyhow::Result<()> {
        let mut theirs = self.trusted.clone();
        match theirs.update_targets(targets) {
            Ok(()) => self.trusted = theirs,
            // An older document of the server is extended by ours anyway.
            Err(wayside_common::trust::set::TrustError::Rollback { .. }) => {}
            Err(e) => {
                return Err(e).context("the server's targets are not signed by this folder's targets key; is it the right --keys folder?");
            }
        }
        Ok(())
    }

    /// Signs the next version of targets, in which `path` may be installed as well.
    pub fn admit(&self, path: &str, target: Target, now: Wall) -> anyhow::Result<Vec<u8>> {
        let current = self.trusted.targets().context("no targets are trusted")?;
        if let Some(known) = current.targets.get(path) {
            ensure!(
                known.hashes == target.hashes,
                "{path} was released with other bytes; a version never changes: raise it in manifest.toml"
            );
        }
        let mut next = current.clone();
        next.version += 1;
        next.expires = now.plus(YEAR).to_rfc3339();
        next.targets.insert(path.to_owned(), target);
        let bytes = signed::sign(&next, &[&self.key])?;
        ensure!(bytes.len() <= MAX_DOCUMENT, "targets.json would have {} bytes, and {MAX_DOCUMENT} are allowed", bytes.len());
        Ok(bytes)
    }

    /// Keeps what the server has accepted.
    pub fn keep(&mut self, targets: &[u8]) -> anyhow::Result<()> {
        self.trusted.update_targets(targets)?;
        let path = self.folder.join(TARGETS);
        disk::replace(&path, targets, Access::Everyone).with_context(|| format!("could not write {}", path.display()))
    }
}

pub(crate) fn new_key() -> anyhow::Result<SigningKey> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| io::Error::other(e.to_string())).context("the system gave no random bytes")?;
    Ok(SigningKey::from_bytes(&seed))
}

pub(crate) fn seed_text(key: &SigningKey) -> Vec<u8> {
    format!("{}\n", hex::encode(key.to_bytes())).into_bytes()
}

fn first_root(root: &SigningKey, targets: &SigningKey, now: Wall) -> Root {
    let public = [public_key(root), public_key(targets)];
    let role = |key: &SigningKey| RoleKeys { keyids: vec![key_id(&public_key(key))], threshold: 1 };
    Root {
        kind: "root".into(),
        spec_version: SPEC_VERSION.into(),
        version: 1,
        expires: now.plus(YEAR).to_rfc3339(),
        consistent_snapshot: false,
        keys: public.into_iter().map(|key| (key_id(&key), key)).collect(),
        roles: BTreeMap::from([("root".into(), role(root)), ("targets".into(), role(targets))]),
    }
}

fn first_targets(assign: &SigningKey, now: Wall) -> Targets {
    let key = public_key(assign);
    let id = key_id(&key);
    Targets {
        kind: "targets".into(),
        spec_version: SPEC_VERSION.into(),
        version: 1,
        expires: now.plus(YEAR).to_rfc3339(),
        targets: BTreeMap::new(),
        delegations: Some(Delegations {
            keys: BTreeMap::from([(id.clone(), key)]),
            roles: vec![DelegatedRole {
                name: ASSIGN.into(),
                keyids: vec![id],
                threshold: 1,
                paths: vec![format!("{ASSIGN}/*")],
                terminating: true,
            }],
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use wayside_common::{id::Digest, trust::role::Hashes};

    use super::*;
    use crate::scratch::Scratch;

    const NOW: Wall = Wall(1_795_435_041_000);

    fn target(bytes: &[u8]) -> Target {
        Target { length: bytes.len() as u64, hashes: Hashes { sha256: Digest::of(bytes) }, custom: None }
    }

    #[test]
    fn private_keys_are_for_their_owner_and_never_overwritten() {
        let scratch = Scratch::new();
        let folder = scratch.path().join("keys");
        init(&folder, NOW).unwrap();
        for name in [ROOT_KEY, TARGETS_KEY, ASSIGN_KEY] {
            assert_eq!(fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        let before = fs::read(folder.join(ROOT_KEY)).unwrap();
        assert!(init(&folder, NOW).unwrap_err().to_string().contains("never overwritten"));
        assert_eq!(fs::read(folder.join(ROOT_KEY)).unwrap(), before);
    }

    #[test]
    fn the_server_gets_three_files_and_no_other_key() {
        let scratch = Scratch::new();
        let (folder, server) = (scratch.path().join("keys"), scratch.path().join("server"));
        init(&folder, NOW).unwrap();
        copy_for_server(&folder, &server).unwrap();
        let mut names: Vec<_> = fs::read_dir(&server).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["assign.key", "root.json", "targets.json"]);
        assert!(copy_for_server(&folder, &server).is_err());
    }

    #[test]
    fn an_admitted_target_is_trusted_under_the_root_and_its_version_never_changes() {
        let scratch = Scratch::new();
        let folder = scratch.path().join("keys");
        init(&folder, NOW).unwrap();
        let mut operator = Operator::open(&folder).unwrap();
        let document = operator.admit("vehicles/2", target(b"two"), NOW).unwrap();
        operator.keep(&document).unwrap();

        let mut device = TrustedSet::from_root(&fs::read(folder.join(ROOT)).unwrap()).unwrap();
        device.update_targets(&document).unwrap();
        assert_eq!(device.targets_version(), 2);
        assert!(device.targets().unwrap().targets.contains_key("vehicles/2"));
        assert!(Operator::open(&folder).unwrap().admit("vehicles/2", target(b"other"), NOW).is_err());
        assert!(Operator::open(&folder).unwrap().admit("vehicles/2", target(b"two"), NOW).is_ok());
    }

    #[test]
    fn targets_of_a_foreign_key_are_not_learned() {
        let scratch = Scratch::new();
        let (ours, theirs) = (scratch.path().join("ours"), scratch.path().join("theirs"));
        init(&ours, NOW).unwrap();
        init(&theirs, NOW).unwrap();
        let mut operator = Operator::open(&ours).unwrap();
        assert!(operator.learn(&fs::read(theirs.join(TARGETS)).unwrap()).is_err());
        assert!(operator.learn(&fs::read(ours.join(TARGETS)).unwrap()).is_ok());
    }
}

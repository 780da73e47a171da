//! What a device trusts now: root, then targets under it, then `Desired` under both.
//!
//! Invariant: versions never go back; each step names the paragraph of the TUF client workflow (§5) that it performs. Expired
//! targets stop a new install, never the running model. Not here: snapshot and timestamp (§5.4, §5.5).

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::{
    role::{ASSIGN, IndexRef, RoleKeys, Root, Targets},
    signed::{SignedError, unverified, verify},
};
use crate::{
    fleet::{Desired, Generation, TargetRef},
    id::{DeviceId, FleetId},
    time::Wall,
};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Signed(#[from] SignedError),
    #[error("{role} version {got} does not follow the trusted version {trusted}")]
    Rollback { role: &'static str, got: u64, trusted: u64 },
    #[error("{role} expired at {expires}")]
    Expired { role: &'static str, expires: String },
    #[error("the {role} document says that it is {found:?}")]
    WrongType { role: &'static str, found: String },
    #[error("the trusted documents name no {0} role")]
    NoRole(&'static str),
    #[error("the assignment is for {0}, not for this device")]
    NotForUs(String),
    #[error("generation {got} is not higher than {obeyed}, which was obeyed already")]
    OldGeneration { got: u64, obeyed: u64 },
    #[error("target {0:?} is not in the trusted targets")]
    UnknownTarget(String),
    #[error("target {0:?} has another length or hash in the trusted targets")]
    OtherTarget(String),
}

/// The verified root and, once it came, the verified targets, with the bytes they came in.
#[derive(Clone, Debug)]
pub struct TrustedSet {
    root: Root,
    root_bytes: Vec<u8>,
    targets: Option<(Targets, Vec<u8>)>,
}

/// A `Desired` that was signed, is for this device, in time and newer than what was obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedDesired(Desired);

impl VerifiedDesired {
    pub fn desired(&self) -> &Desired {
        &self.0
    }
}

/// A package that trusted targets name: bytes with this length and hash may be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedTarget {
    target: TargetRef,
    index: Option<IndexRef>,
}

impl VerifiedTarget {
    pub fn target(&self) -> &TargetRef {
        &self.target
    }

    pub fn index(&self) -> Option<&IndexRef> {
        self.index.as_ref()
    }
}

impl TrustedSet {
    /// §5.2: starts from a root that came with the device.
    pub fn from_root(bytes: &[u8]) -> Result<Self, TrustError> {
        let claimed: Root = unverified(bytes)?;
        let root = verified_root(bytes, &claimed)?;
        Ok(Self { root, root_bytes: bytes.to_vec(), targets: None })
    }

    pub fn root_version(&self) -> u64 {
        self.root.version
    }

    pub fn root_bytes(&self) -> &[u8] {
        &self.root_bytes
    }

    pub fn targets_version(&self) -> u64 {
        self.targets.as_ref().map_or(0, |(targets, _)| targets.version)
    }

    pub fn targets_bytes(&self) -> Option<&[u8]> {
        self.targets.as_ref().map(|(_, bytes)| bytes.as_slice())
    }

    pub fn targets(&self) -> Option<&Targets> {
        self.targets.as_ref().map(|(targets, _)| targets)
    }

    /// §5.3: the next root is signed by a threshold of the old root's keys and of its own, and its version is one higher.
    pub fn update_root(&mut self, bytes: &[u8]) -> Result<(), TrustError> {
        let next: Root = {
            let old = self.root.roles.get("root").ok_or(TrustError::NoRole("root"))?;
            verify("root", bytes, self.root.keys.iter().filter(|(id, _)| old.keyids.contains(id)), old.threshold)?
        };
        let next = verified_root(bytes, &next)?;
        if next.version != self.root.version + 1 {
            return Err(TrustError::Rollback { role: "root", got: next.version, trusted: self.root.version });
        }
        self.root = next;
        self.root_bytes = bytes.to_vec();
        Ok(())
    }

    /// §5.6: targets signed by the root's targets role, and not older than the trusted ones.
    pub fn update_targets(&mut self, bytes: &[u8]) -> Result<(), TrustError> {
        let role = self.root.roles.get("targets").ok_or(TrustError::NoRole("targets"))?;
        let targets: Targets = verify("targets", bytes, self.root.keys.iter().filter(|(id, _)| role.keyids.contains(id)), role.threshold)?;
        if targets.kind != "targets" {
            return Err(TrustError::WrongType { role: "targets", found: targets.kind });
        }
        if targets.version < self.targets_version() {
            return Err(TrustError::Rollback { role: "targets", got: targets.version, trusted: self.targets_version() });
        }
        self.targets = Some((targets, bytes.to_vec()));
        Ok(())
    }

    /// Verifies an assignment: signature of the `assign` role, addressee, expiry, start-before and generation.
    pub fn desired(
        &self,
        bytes: &[u8],
        fleet: &FleetId,
        device: &DeviceId,
        obeyed: Generation,
        now: Wall,
    ) -> Result<VerifiedDesired, TrustError> {
        let (targets, _) = self.targets.as_ref().ok_or(TrustError::NoRole("targets"))?;
        in_time("targets", &targets.expires, now)?;
        let delegations = targets.delegations.as_ref().ok_or(TrustError::NoRole(ASSIGN))?;
        let role = delegations.roles.iter().find(|r| r.name == ASSIGN).ok_or(TrustError::NoRole(ASSIGN))?;
        let keys = delegations.keys.iter().filter(|(id, _)| role.keyids.contains(id));
        let desired: Desired = verify(ASSIGN, bytes, keys, role.threshold)?;
        if desired.fleet != *fleet || desired.device != *device {
            return Err(TrustError::NotForUs(format!("{}/{}", desired.fleet, desired.device)));
        }
        in_time("the assignment", &desired.expires, now)?;
        in_time("the assignment's start", &desired.start_before, now)?;
        if desired.generation <= obeyed {
            return Err(TrustError::OldGeneration { got: desired.generation.0, obeyed: obeyed.0 });
        }
        Ok(VerifiedDesired(desired))
    }

    /// §5.7: the target as trusted targets have it; what the assignment says of it must be the same.
    pub fn target(&self, wanted: &TargetRef) -> Result<VerifiedTarget, TrustError> {
        let (targets, _) = self.targets.as_ref().ok_or(TrustError::NoRole("targets"))?;
        let known = targets.targets.get(&wanted.path).ok_or_else(|| TrustError::UnknownTarget(wanted.path.clone()))?;
        if known.length != wanted.length || known.hashes.sha256 != wanted.sha256 {
            return Err(TrustError::OtherTarget(wanted.path.clone()));
        }
        Ok(VerifiedTarget { target: wanted.clone(), index: known.custom.as_ref().map(|c| c.index.clone()) })
    }
}

/// A root is signed by a threshold of its own keys (§5.3.4).
fn verified_root(bytes: &[u8], claimed: &Root) -> Result<Root, TrustError> {
    let RoleKeys { keyids, threshold } = claimed.roles.get("root").ok_or(TrustError::NoRole("root"))?;
    let root: Root = verify("root", bytes, claimed.keys.iter().filter(|(id, _)| keyids.contains(id)), *threshold)?;
    if root.kind != "root" {
        return Err(TrustError::WrongType { role: "root", found: root.kind });
    }
    Ok(root)
}

fn in_time(role: &'static str, expires: &str, now: Wall) -> Result<(), TrustError> {
    match Wall::from_rfc3339(expires) {
        Some(end) if now < end => Ok(()),
        _ => Err(TrustError::Expired { role, expires: expires.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use alloc::{collections::BTreeMap, string::ToString, vec};

    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::{
        fleet::{DesiredKind, Intent},
        id::Digest,
        trust::{
            role::{Custom, DelegatedRole, Delegations, Hashes, Target},
            signed::{key_id, public_key, sign},
        },
    };

    const NOW: Wall = Wall(1_800_000_000_000);
    const FUTURE: &str = "2030-01-01T00:00:00Z";
    const PAST: &str = "2020-01-01T00:00:00Z";

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    /// One key per role, as `wayside key init` makes them.
    struct Keys {
        root: SigningKey,
        targets: SigningKey,
        assign: SigningKey,
    }

    fn keys() -> Keys {
        Keys { root: key(1), targets: key(2), assign: key(3) }
    }

    fn role(key: &SigningKey) -> RoleKeys {
        RoleKeys { keyids: vec![key_id(&public_key(key))], threshold: 1 }
    }

    fn root(root: &SigningKey, targets: &SigningKey, version: u64) -> Root {
        Root {
            kind: "root".into(),
            spec_version: "1.0.0".into(),
            version,
            expires: FUTURE.into(),
            consistent_snapshot: false,
            keys: [root, targets].into_iter().map(|k| (key_id(&public_key(k)), public_key(k))).collect(),
            roles: [("root".to_string(), role(root)), ("targets".to_string(), role(targets))].into(),
        }
    }

    fn targets(assign: &SigningKey, version: u64) -> Targets {
        let id = key_id(&public_key(assign));
        let target = Target {
            length: 5,
            hashes: Hashes { sha256: Digest::of(b"model") },
            custom: Some(Custom { index: IndexRef { length: 7, sha256: Digest::of(b"index") } }),
        };
        Targets {
            kind: "targets".into(),
            spec_version: "1.0.0".into(),
            version,
            expires: FUTURE.into(),
            targets: [("vehicles/2".to_string(), target)].into(),
            delegations: Some(Delegations {
                keys: [(id.clone(), public_key(assign))].into(),
                roles: vec![DelegatedRole {
                    name: ASSIGN.into(),
                    keyids: vec![id],
                    threshold: 1,
                    paths: vec!["assign/*".into()],
                    terminating: true,
                }],
            }),
        }
    }

    fn desired(generation: u64) -> Desired {
        let target = TargetRef { path: "vehicles/2".into(), length: 5, sha256: Digest::of(b"model") };
        Desired {
            kind: DesiredKind::Desired,
            fleet: "demo".parse().unwrap(),
            device: "cam-1".parse().unwrap(),
            generation: Generation(generation),
            start_before: FUTURE.into(),
            expires: FUTURE.into(),
            intent: Intent::Improve,
            slots: BTreeMap::from([("vehicles".parse().unwrap(), target)]),
            configuration: None,
            agent: None,
        }
    }

    /// A device that trusts root 1 and targets 3.
    fn trusted(keys: &Keys) -> TrustedSet {
        let mut set = TrustedSet::from_root(&sign(&root(&keys.root, &keys.targets, 1), &[&keys.root]).unwrap()).unwrap();
        set.update_targets(&sign(&targets(&keys.assign, 3), &[&keys.targets]).unwrap()).unwrap();
        set
    }

    fn check(set: &TrustedSet, bytes: &[u8], obeyed: u64) -> Result<VerifiedDesired, TrustError> {
        set.desired(bytes, &"demo".parse().unwrap(), &"cam-1".parse().unwrap(), Generation(obeyed), NOW)
    }

    #[test]
    fn from_root_over_targets_and_assignment_to_a_target() {
        let keys = keys();
        let set = trusted(&keys);
        assert_eq!((set.root_version(), set.targets_version()), (1, 3));
        let verified = check(&set, &sign(&desired(8), &[&keys.assign]).unwrap(), 7).unwrap();
        assert_eq!(*verified.desired(), desired(8));
        let target = set.target(&verified.desired().slots[&"vehicles".parse().unwrap()]).unwrap();
        assert_eq!(target.target().sha256, Digest::of(b"model"));
        assert_eq!(target.index().unwrap().sha256, Digest::of(b"index"));
    }

    #[test]
    fn a_root_is_taken_only_with_its_own_signature() {
        let keys = keys();
        let content = root(&keys.root, &keys.targets, 1);
        let signed_by = |key: &SigningKey| TrustedSet::from_root(&sign(&content, &[key]).unwrap()).map(|_| ());
        assert_eq!(signed_by(&keys.root), Ok(()));
        assert!(matches!(signed_by(&keys.targets), Err(TrustError::Signed(SignedError::Threshold { valid: 0, .. }))));
        let other_type = Root { kind: "targets".into(), ..content.clone() };
        let refused = TrustedSet::from_root(&sign(&other_type, &[&keys.root]).unwrap()).map(|_| ());
        assert_eq!(refused, Err(TrustError::WrongType { role: "root", found: "targets".into() }));
        let no_roles = Root { roles: BTreeMap::new(), ..content };
        let refused = TrustedSet::from_root(&sign(&no_roles, &[&keys.root]).unwrap()).map(|_| ());
        assert_eq!(refused, Err(TrustError::NoRole("root")));
    }

    #[test]
    fn the_next_root_needs_the_old_keys_and_its_own() {
        let keys = keys();
        let new = key(9);
        let first = root(&keys.root, &keys.targets, 1);
        let next = |version| root(&new, &keys.targets, version);
        struct Case {
            name: &'static str,
            bytes: Vec<u8>,
            taken: bool,
        }
        let cases = [
            Case { name: "old and new", bytes: sign(&next(2), &[&keys.root, &new]).unwrap(), taken: true },
            Case { name: "only new", bytes: sign(&next(2), &[&new]).unwrap(), taken: false },
            Case { name: "only old", bytes: sign(&next(2), &[&keys.root]).unwrap(), taken: false },
            Case { name: "a version left out", bytes: sign(&next(3), &[&keys.root, &new]).unwrap(), taken: false },
            Case { name: "the same version", bytes: sign(&next(1), &[&keys.root, &new]).unwrap(), taken: false },
            Case { name: "of another role", bytes: sign(&next(2), &[&keys.targets, &new]).unwrap(), taken: false },
        ];
        for case in cases {
            let mut set = TrustedSet::from_root(&sign(&first, &[&keys.root]).unwrap()).unwrap();
            assert_eq!(set.update_root(&case.bytes).is_ok(), case.taken, "{}", case.name);
            assert_eq!(set.root_version(), if case.taken { 2 } else { 1 }, "{}", case.name);
        }
    }

    #[test]
    fn targets_are_refused_with_the_wrong_key_type_or_version() {
        let keys = keys();
        let newer = targets(&keys.assign, 4);
        let other_type = Targets { kind: "root".into(), ..newer.clone() };
        let changed = {
            let text = String::from_utf8(sign(&newer, &[&keys.targets]).unwrap()).unwrap();
            text.replace("vehicles/2", "vehicles/3").into_bytes()
        };
        struct Case {
            name: &'static str,
            bytes: Vec<u8>,
            refused: Option<TrustError>,
        }
        let threshold = || Some(TrustError::Signed(SignedError::Threshold { role: "targets".into(), valid: 0, threshold: 1 }));
        let cases = [
            Case { name: "newer", bytes: sign(&newer, &[&keys.targets]).unwrap(), refused: None },
            Case { name: "the same again", bytes: sign(&targets(&keys.assign, 3), &[&keys.targets]).unwrap(), refused: None },
            Case {
                name: "rollback",
                bytes: sign(&targets(&keys.assign, 2), &[&keys.targets]).unwrap(),
                refused: Some(TrustError::Rollback { role: "targets", got: 2, trusted: 3 }),
            },
            Case { name: "signed by root", bytes: sign(&newer, &[&keys.root]).unwrap(), refused: threshold() },
            Case { name: "signed by assign", bytes: sign(&newer, &[&keys.assign]).unwrap(), refused: threshold() },
            Case { name: "changed after signing", bytes: changed, refused: threshold() },
            Case {
                name: "another type",
                bytes: sign(&other_type, &[&keys.targets]).unwrap(),
                refused: Some(TrustError::WrongType { role: "targets", found: "root".into() }),
            },
        ];
        for case in cases {
            let mut set = trusted(&keys);
            let before = set.targets_version();
            let got = set.update_targets(&case.bytes);
            assert_eq!(got.clone().err(), case.refused, "{}", case.name);
            assert!(got.is_ok() || set.targets_version() == before, "{}: a refused document changes nothing", case.name);
        }
    }

    #[test]
    fn an_assignment_is_refused_with_its_reason() {
        let keys = keys();
        let threshold = || Some(TrustError::Signed(SignedError::Threshold { role: ASSIGN.into(), valid: 0, threshold: 1 }));
        let mut elsewhere = desired(8);
        elsewhere.device = "cam-2".parse().unwrap();
        let mut other_fleet = desired(8);
        other_fleet.fleet = "prod".parse().unwrap();
        struct Case {
            name: &'static str,
            bytes: Vec<u8>,
            refused: Option<TrustError>,
        }
        let signed = |content: &Desired| sign(content, &[&keys.assign]).unwrap();
        let expired = |role| Some(TrustError::Expired { role, expires: PAST.into() });
        let cases = [
            Case { name: "signed by targets", bytes: sign(&desired(8), &[&keys.targets]).unwrap(), refused: threshold() },
            Case { name: "signed by root", bytes: sign(&desired(8), &[&keys.root]).unwrap(), refused: threshold() },
            Case { name: "for another device", bytes: signed(&elsewhere), refused: Some(TrustError::NotForUs("demo/cam-2".into())) },
            Case { name: "for another fleet", bytes: signed(&other_fleet), refused: Some(TrustError::NotForUs("prod/cam-1".into())) },
            Case { name: "obeyed already", bytes: signed(&desired(7)), refused: Some(TrustError::OldGeneration { got: 7, obeyed: 7 }) },
            Case { name: "older than obeyed", bytes: signed(&desired(6)), refused: Some(TrustError::OldGeneration { got: 6, obeyed: 7 }) },
            Case { name: "expired", bytes: signed(&Desired { expires: PAST.into(), ..desired(8) }), refused: expired("the assignment") },
            Case {
                name: "not to be started any more",
                bytes: signed(&Desired { start_before: PAST.into(), ..desired(8) }),
                refused: expired("the assignment's start"),
            },
        ];
        for case in cases {
            assert_eq!(check(&trusted(&keys), &case.bytes, 7).err(), case.refused, "{}", case.name);
        }
    }

    #[test]
    fn expired_or_missing_targets_stop_a_new_install() {
        let keys = keys();
        let bytes = sign(&desired(8), &[&keys.assign]).unwrap();
        let mut set = TrustedSet::from_root(&sign(&root(&keys.root, &keys.targets, 1), &[&keys.root]).unwrap()).unwrap();
        assert_eq!(check(&set, &bytes, 7), Err(TrustError::NoRole("targets")));
        let expired = Targets { expires: PAST.into(), ..targets(&keys.assign, 1) };
        set.update_targets(&sign(&expired, &[&keys.targets]).unwrap()).unwrap();
        assert_eq!(check(&set, &bytes, 7), Err(TrustError::Expired { role: "targets", expires: PAST.into() }));
        let undelegated = Targets { delegations: None, ..targets(&keys.assign, 2) };
        set.update_targets(&sign(&undelegated, &[&keys.targets]).unwrap()).unwrap();
        assert_eq!(check(&set, &bytes, 7), Err(TrustError::NoRole(ASSIGN)));
    }

    #[test]
    fn a_target_must_be_in_trusted_targets_with_its_length_and_hash() {
        let set = trusted(&keys());
        let right = TargetRef { path: "vehicles/2".into(), length: 5, sha256: Digest::of(b"model") };
        let unknown = TargetRef { path: "vehicles/3".into(), ..right.clone() };
        let other = || Err(TrustError::OtherTarget("vehicles/2".into()));
        assert!(set.target(&right).is_ok());
        assert_eq!(set.target(&unknown), Err(TrustError::UnknownTarget("vehicles/3".into())));
        assert_eq!(set.target(&TargetRef { length: 6, ..right.clone() }), other());
        assert_eq!(set.target(&TargetRef { sha256: Digest::of(b"evil"), ..right }), other());
    }
}

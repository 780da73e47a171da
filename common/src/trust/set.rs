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

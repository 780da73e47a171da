//! The trust documents that this server hands out: what the operator signed, checked as a device would.
//!
//! Invariant: a document is accepted only when it is valid under the root that the operator put into the trust folder; versions never go
//! back. Not here: any key but the `assign` key's file name; the check itself (`common::trust`).

use std::{path::Path, sync::Arc};

use anyhow::{Context, ensure};
use tokio::sync::Mutex;
use wayside_common::{
    fleet::TargetRef,
    trust::{
        role::{IndexRef, Targets},
        set::{TrustError, TrustedSet},
    },
};

use crate::{
    db::{
        Db,
        registry::{NewRelease, Release, TrustDocument},
    },
    keys,
};

pub struct Trust {
    db: Arc<dyn Db>,
    /// Held while a release is accepted, so that two operators do not both make version n + 1.
    set: Mutex<TrustedSet>,
}

/// Why a release's targets are refused.
#[derive(Debug, thiserror::Error)]
pub enum TargetsError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("targets version {0} is known with other content; fetch the newest targets and sign the next version")]
    Stale(u64),
    #[error("the signed targets name another chunk index than the registry made of the package")]
    OtherIndex,
    #[error("the package has no chunk index in the signed targets")]
    NoIndex,
}

impl Trust {
    /// Reads the folder and what was accepted before; the newer of each counts.
    pub async fn open(folder: &Path, db: Arc<dyn Db>) -> anyhow::Result<Self> {
        let hint = || {
            let folder = folder.display();
            format!(
                "the server has no trust documents in {folder}: make them with `wayside key init --dir operator-keys --server-dir {folder}`"
            )
        };
        let mut set = TrustedSet::from_root(&keys::load_document(&folder.join(keys::ROOT)).with_context(hint)?)
            .context("root.json of the trust folder is not valid")?;
        for document in db.trust_after("root", set.root_version()).await? {
            set.update_root(&document.bytes).context("a root document that was accepted before")?;
        }
        set.update_targets(&keys::load_document(&folder.join(keys::TARGETS)).with_context(hint)?)
            .context("targets.json of the trust folder is not valid under its root.json")?;
        if let Some(known) = db.newest_trust("targets").await?
            && known.version > set.targets_version()
        {
            set.update_targets(&known.bytes)
                .context("the targets that were accepted before are not valid under the trust folder's root")?;
        }
        let targets = set.targets_bytes().context("no targets")?.to_vec();
        db.keep_trust(TrustDocument { role: "root".into(), version: set.root_version(), bytes: set.root_bytes().to_vec() }).await?;
        db.keep_trust(TrustDocument { role: "targets".into(), version: set.targets_version(), bytes: targets }).await?;
        ensure!(set.targets().is_some_and(|t| t.delegations.is_some()), "targets.json delegates nothing to the assign key");
        Ok(Self { db, set: Mutex::new(set) })
    }

    /// Checks the targets of a release as a device will, and that they name the package with its index; then keeps both in one transaction.
    pub async fn release(&self, targets: &[u8], release: NewRelease, index: &IndexRef) -> anyhow::Result<Result<Release, TargetsError>> {
        let mut set = self.set.lock().await;
        let next = match checked(&set, targets, &release.target, index) {
            Ok(next) => next,
            Err(e) => return Ok(Err(e)),
        };
        let document = TrustDocument { role: "targets".into(), version: next.targets_version(), bytes: targets.to_vec() };
        let release = self.db.add_release(release, document).await?;
        *set = next;
        Ok(Ok(release))
    }

    /// What may be installed now.
    pub async fn targets(&self) -> Option<Targets> {
        self.set.lock().await.targets().cloned()
    }
}

fn checked(set: &TrustedSet, targets: &[u8], package: &TargetRef, index: &IndexRef) -> Result<TrustedSet, TargetsError> {
    let mut next = set.clone();
    next.update_targets(targets)?;
    if next.targets_version() == set.targets_version() && set.targets_bytes() != Some(targets) {
        return Err(TargetsError::Stale(next.targets_version()));
    }
    match next.target(package)?.index() {
        Some(named) if named == index => Ok(next),
        Some(_) => Err(TargetsError::OtherIndex),
        None => Err(TargetsError::NoIndex),
    }
}

//! Takes packages in and gives them out.
//!
//! Invariant: a package is registered after it was parsed as a whole and its bytes and chunk index are on the disk; a name and version that
//! belong to other bytes are refused. Not here: whether it is any good (golden samples: `pipeline`, the device).

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use async_trait::async_trait;
use serde_json::{Value, json};
use wayside_common::{
    blob::ChunkIndex, fleet::ModelRef, id::Digest, sketch::histogram::ReferenceFeature, time::Wall, trust::role::IndexRef,
};
use wayside_models::package::{Package, boundaries};

use super::blob::BlobStore;
use crate::{
    db::{
        Db,
        registry::{ModelState, ModelVersion, Registered},
    },
    drift::References,
    rollout::supply::MAX_INDEX,
};

/// References that are kept in memory; a fleet runs few models at a time.
const KEPT: usize = 64;

/// Why a package is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    #[error("not a package: {0}")]
    Unreadable(String),
    #[error("{model} belongs to other bytes ({known}); raise the version in manifest.toml")]
    Conflict { model: String, known: Digest },
    #[error("the package has so many chunks that its index does not fit into one packet")]
    TooManyChunks,
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

pub struct Packages {
    db: Arc<dyn Db>,
    blobs: BlobStore,
    /// Guards a lookup and an insert, never a wait.
    references: Mutex<HashMap<Digest, Option<Vec<ReferenceFeature>>>>,
}

impl Packages {
    pub fn new(db: Arc<dyn Db>, blobs: BlobStore) -> Self {
        Self { db, blobs, references: Mutex::default() }
    }

    /// Registers packed bytes under the name and version of their manifest.
    pub async fn admit(&self, packed: Vec<u8>, state: ModelState, lineage: Value, now: Wall) -> Result<ModelVersion, AdmitError> {
        let blobs = self.blobs.clone();
        let work = tokio::task::spawn_blocking(move || store(&blobs, &packed));
        let (model, length, index) = work.await.context("the package could not be stored")??;
        let version = ModelVersion { model: model.clone(), length, index, state, lineage, created: now };
        match self.db.register_model(version.clone()).await? {
            Registered::New => {
                tracing::info!(%model, digest = %model.digest, state = state.as_str(), "a package was registered");
                Ok(version)
            }
            Registered::Known => {
                let known = self.db.model(&model.name, model.version).await?;
                Ok(known.context("a registered package is gone")?)
            }
            Registered::Conflict(known) => Err(AdmitError::Conflict { model: model.to_string(), known }),
        }
    }

    /// Registers a folder that devices came with.
    pub async fn admit_shipped(&self, folder: &Path, now: Wall) -> anyhow::Result<()> {
        let path = folder.to_path_buf();
        let package = tokio::task::spawn_blocking(move || Package::open(&path)).await?;
        let package = package.with_context(|| format!("the package {}", folder.display()))?;
        let lineage = json!({ "source": "shipped" });
        self.admit(package.pack(), ModelState::Shipped, lineage, now).await.with_context(|| format!("the package {}", folder.display()))?;
        Ok(())
    }

    /// The packed bytes.
    pub async fn packed(&self, digest: Digest) -> anyhow::Result<Option<Vec<u8>>> {
        let blobs = self.blobs.clone();
        Ok(tokio::task::spawn_blocking(move || blobs.read(digest)).await??)
    }

    pub async fn package(&self, digest: Digest) -> anyhow::Result<Option<Package>> {
        let Some(packed) = self.packed(digest).await? else { return Ok(None) };
        let package = tokio::task::spawn_blocking(move || Package::from_bytes(&packed)).await??;
        Ok(Some(package))
    }
}

#[async_trait]
impl References for Packages {
    async fn reference(&self, model: Digest) -> anyhow::Result<Option<Vec<ReferenceFeature>>> {
        let kept = self.references.lock().unwrap_or_else(PoisonError::into_inner).get(&model).cloned();
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let Some(package) = self.package(model).await? else { return Ok(None) };
        let features = package.reference().features.iter().map(|feature| ReferenceFeature {
            name: feature.name.clone(),
            edges: feature.edges.as_slice().to_vec(),
            counts: feature.counts.0.to_vec(),
        });
        let reference = Some(features.collect::<Vec<_>>());
        let mut kept = self.references.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(model, reference.clone());
        Ok(reference)
    }
}

fn store(blobs: &BlobStore, packed: &[u8]) -> Result<(ModelRef, u64, IndexRef), AdmitError> {
    let package = Package::from_bytes(packed).map_err(|e| AdmitError::Unreadable(e.to_string()))?;
    let index = chunk_index(packed);
    if index.len() > MAX_INDEX {
        return Err(AdmitError::TooManyChunks);
    }
    let failed = |e: std::io::Error| AdmitError::Failed(anyhow::Error::new(e).context("a blob could not be written"));
    blobs.put(packed).map_err(failed)?;
    let sha256 = blobs.put(&index).map_err(failed)?;
    Ok((package.model_ref(), packed.len() as u64, IndexRef { length: index.len() as u64, sha256 }))
}

/// The encoded chunk index of packed bytes; the same wherever it is made.
pub fn chunk_index(packed: &[u8]) -> Vec<u8> {
    ChunkIndex::cut(packed, &boundaries(packed)).encode()
}

//! Gives devices the chunks of packages that they lack.
//!
//! Invariant: one request is answered with at most eight chunks, each checked against its digest after it was read. Not here: which
//! package a device should have; the pace, which is the device's (it asks again).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use wayside_common::{
    blob::ChunkIndex,
    id::Digest,
    wire::{MAX_PACKET, ToDevice},
};

use crate::{db::Db, registry::blob::BlobStore};

/// Chunks in flight per request; the device asks for the next ones when these came.
pub const IN_FLIGHT: usize = 8;
/// A chunk index travels in one packet, with room for the packet's other fields.
pub const MAX_INDEX: usize = MAX_PACKET - 256;
/// Decoded indexes that are kept; a fleet fetches few packages at a time.
const KEPT: usize = 8;

/// Where each piece of a package lies.
type Places = HashMap<Digest, (u64, u32)>;

pub struct Supply {
    blobs: BlobStore,
    /// Guards a lookup and an insert, never a wait.
    known: Mutex<HashMap<Digest, Arc<Places>>>,
}

impl Supply {
    pub fn new(blobs: BlobStore) -> Self {
        Self { blobs, known: Mutex::default() }
    }

    pub async fn chunks(&self, db: &dyn Db, blob: Digest, chunks: Vec<Digest>) -> Vec<ToDevice> {
        let mut packets = Vec::new();
        let chunks = if chunks.is_empty() { self.index_of(db, blob).await } else { chunks };
        for chunk in chunks.into_iter().take(IN_FLIGHT) {
            packets.push(match self.chunk(db, blob, chunk).await {
                Ok(Some(bytes)) => ToDevice::Chunk { blob, chunk, bytes },
                Ok(None) => ToDevice::NoChunk { blob, chunk },
                Err(e) => {
                    tracing::error!(%blob, %chunk, "a chunk could not be read: {e:#}");
                    ToDevice::NoChunk { blob, chunk }
                }
            });
        }
        packets
    }

    /// What a device asks for that does not know the package's chunks yet.
    async fn index_of(&self, db: &dyn Db, blob: Digest) -> Vec<Digest> {
        match db.model_by_digest(blob).await {
            Ok(Some(version)) => vec![version.index.sha256],
            Ok(None) => vec![blob],
            Err(e) => {
                tracing::error!(%blob, "a package could not be looked up: {e:#}");
                vec![blob]
            }
        }
    }

    async fn chunk(&self, db: &dyn Db, blob: Digest, chunk: Digest) -> anyhow::Result<Option<Vec<u8>>> {
        if let Some(places) = self.known(blob)
            && let Some(&(offset, length)) = places.get(&chunk)
        {
            return self.piece(blob, offset, length, chunk).await.map(Some);
        }
        if blob == chunk {
            // A chunk index asked for by its own name.
            let is_index = db.models().await?.iter().any(|version| version.index.sha256 == chunk);
            return if is_index { self.whole(chunk).await } else { Ok(None) };
        }
        let Some(version) = db.model_by_digest(blob).await? else { return Ok(None) };
        let index = self.whole(version.index.sha256).await?.context("the chunk index of a registered package is gone")?;
        if chunk == version.index.sha256 {
            return Ok(Some(index));
        }
        let index = ChunkIndex::decode(&index, version.length)?;
        let places: Places = index.spans().map(|(offset, chunk)| (chunk.digest, (offset, chunk.length))).collect();
        let place = places.get(&chunk).copied();
        self.remember(blob, places);
        match place {
            Some((offset, length)) => self.piece(blob, offset, length, chunk).await.map(Some),
            None => Ok(None),
        }
    }

    async fn whole(&self, digest: Digest) -> anyhow::Result<Option<Vec<u8>>> {
        let blobs = self.blobs.clone();
        Ok(tokio::task::spawn_blocking(move || blobs.read(digest)).await??)
    }

    async fn piece(&self, blob: Digest, offset: u64, length: u32, chunk: Digest) -> anyhow::Result<Vec<u8>> {
        let blobs = self.blobs.clone();
        Ok(tokio::task::spawn_blocking(move || blobs.read_piece(blob, offset, length, chunk)).await??)
    }

    fn known(&self, blob: Digest) -> Option<Arc<Places>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&blob).cloned()
    }

    fn remember(&self, blob: Digest, places: Places) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(blob, Arc::new(places));
    }
}

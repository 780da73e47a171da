//! How a package is one blob: a byte string of known digest, cut into chunks that an index names.
//!
//! Invariant: the index is itself content-addressed and bounded; a chunk is written only after its own digest was verified, and
//! the whole only used after the blob's was. Not here: files, transfer, what is inside a package (`models::package`).

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{id::Digest, wire::MAX_CHUNK};

/// No blob is longer.
pub const MAX_BLOB: u64 = 512 * 1024 * 1024;
/// Where no boundary is near, chunks are this long.
pub const CHUNK: usize = 32 * 1024;
/// No index has more chunks.
pub const MAX_CHUNKS: usize = 65_536;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub digest: Digest,
    pub length: u32,
}

/// The chunks of a blob in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkIndex {
    pub chunks: Vec<Chunk>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    #[error("the chunk index is damaged")]
    MalformedIndex,
    #[error("the chunk index names {chunks} chunks of {length} bytes together, more than is allowed or than its target says")]
    Bounds { chunks: usize, length: u64 },
    #[error("a chunk has {0} bytes; 1 to {MAX_CHUNK} are allowed")]
    ChunkLength(u32),
}

impl ChunkIndex {
    /// Cuts at each of `boundaries` (offsets, ascending: starts of files and tensors) and each [`CHUNK`] bytes between them.
    pub fn cut(blob: &[u8], boundaries: &[usize]) -> Self {
        let mut chunks = Vec::new();
        let mut start = 0;
        for &end in boundaries.iter().filter(|&&b| b > 0 && b < blob.len()).chain([&blob.len()]) {
            for piece in blob.get(start..end).unwrap_or_default().chunks(CHUNK) {
                chunks.push(Chunk { digest: Digest::of(piece), length: piece.len() as u32 });
            }
            start = start.max(end);
        }
        Self { chunks }
    }

    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("writing to a Vec does not fail")
    }

    /// Reads an index whose digest was verified already; `length` is the blob's, from signed metadata.
    pub fn decode(bytes: &[u8], length: u64) -> Result<Self, BlobError> {
        let (index, rest): (Self, _) = postcard::take_from_bytes(bytes).map_err(|_| BlobError::MalformedIndex)?;
        if !rest.is_empty() {
            return Err(BlobError::MalformedIndex);
        }
        if let Some(odd) = index.chunks.iter().find(|c| c.length == 0 || c.length as usize > MAX_CHUNK) {
            return Err(BlobError::ChunkLength(odd.length));
        }
        let total = index.length();
        if index.chunks.len() > MAX_CHUNKS || total > MAX_BLOB || total != length {
            return Err(BlobError::Bounds { chunks: index.chunks.len(), length: total });
        }
        Ok(index)
    }

    pub fn length(&self) -> u64 {
        self.chunks.iter().map(|c| u64::from(c.length)).sum()
    }

    /// Each chunk with its offset in the blob.
    pub fn spans(&self) -> impl Iterator<Item = (u64, &Chunk)> {
        self.chunks.iter().scan(0u64, |offset, chunk| {
            let at = *offset;
            *offset += u64::from(chunk.length);
            Some((at, chunk))
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn chunks_cover_the_blob_and_respect_boundaries() {
        let blob: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let index = ChunkIndex::cut(&blob, &[10, 40_000, 40_000, 200_000]);
        assert_eq!(index.length(), blob.len() as u64);
        for (offset, chunk) in index.spans() {
            let piece = &blob[offset as usize..offset as usize + chunk.length as usize];
            assert_eq!(Digest::of(piece), chunk.digest);
        }
        let starts: Vec<u64> = index.spans().map(|(offset, _)| offset).collect();
        assert!(starts.contains(&10) && starts.contains(&40_000));
        assert_eq!(ChunkIndex::decode(&index.encode(), blob.len() as u64), Ok(index));
    }

    #[test]
    fn an_index_that_lies_is_refused() {
        let chunk = |length| Chunk { digest: Digest::of(b""), length };
        struct Case(Vec<Chunk>, u64, BlobError);
        let cases = [
            Case(vec![chunk(10)], 11, BlobError::Bounds { chunks: 1, length: 10 }),
            Case(vec![chunk(0)], 0, BlobError::ChunkLength(0)),
            Case(vec![chunk(u32::MAX)], u64::from(u32::MAX), BlobError::ChunkLength(u32::MAX)),
            Case(vec![chunk(65_536); 10_000], 655_360_000, BlobError::Bounds { chunks: 10_000, length: 655_360_000 }),
        ];
        for Case(chunks, length, error) in cases {
            assert_eq!(ChunkIndex::decode(&ChunkIndex { chunks }.encode(), length), Err(error));
        }
        assert_eq!(ChunkIndex::decode(&[0xff; 20], 1), Err(BlobError::MalformedIndex));
    }
}

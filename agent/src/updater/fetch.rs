//! A package on its way: a partial file into which verified chunks are written, wherever they come from.
//!
//! Invariant: only chunks whose digest was verified are written; which are there is found by hashing the file, so nothing but
//! the file has to survive a restart. Not here: asking for chunks (`machine`).

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use wayside_common::{blob::ChunkIndex, id::Digest};

const SUFFIX: &str = "partial";

#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    file: File,
    /// Where each chunk belongs; the same bytes may belong to several places.
    places: BTreeMap<Digest, Vec<u64>>,
    length: u64,
}

impl Partial {
    /// Opens or makes the partial file of `blob` in `dir`, fills in what `have` holds (another package's packed bytes, cut at
    /// `boundaries`), and gives the chunks that are still missing. Other blobs' partial files are deleted.
    pub fn open(dir: &Path, blob: Digest, index: &ChunkIndex, have: &[u8], boundaries: &[usize]) -> io::Result<(Self, Vec<Digest>)> {
        let path = dir.join(format!("{blob}.{SUFFIX}"));
        for entry in fs::read_dir(dir)? {
            let other = entry?.path();
            if other != path && other.extension().is_some_and(|extension| extension == SUFFIX) {
                fs::remove_file(other)?;
            }
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        file.set_len(index.length())?;
        let mut places: BTreeMap<Digest, Vec<u64>> = BTreeMap::new();
        let mut lengths = BTreeMap::new();
        for (offset, chunk) in index.spans() {
            places.entry(chunk.digest).or_default().push(offset);
            lengths.insert(chunk.digest, chunk.length as usize);
        }
        let partial = Self { path, file, places, length: index.length() };
        let held = ChunkIndex::cut(have, boundaries);
        let held: BTreeMap<Digest, &[u8]> =
            held.spans().map(|(offset, chunk)| (chunk.digest, &have[offset as usize..offset as usize + chunk.length as usize])).collect();
        let mut missing = Vec::new();
        for (chunk, length) in lengths {
            if partial.has(chunk, length)? {
                continue;
            }
            match held.get(&chunk) {
                Some(bytes) => partial.write(chunk, bytes)?,
                None => missing.push(chunk),
            }
        }
        Ok((partial, missing))
    }

    fn has(&self, chunk: Digest, length: usize) -> io::Result<bool> {
        let mut bytes = vec![0; length];
        for offset in &self.places[&chunk] {
            self.file.read_exact_at(&mut bytes, *offset)?;
            if Digest::of(&bytes) != chunk {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes a chunk, whose digest was verified, to all its places.
    pub fn write(&self, chunk: Digest, bytes: &[u8]) -> io::Result<()> {
        for offset in self.places.get(&chunk).into_iter().flatten() {
            if offset + bytes.len() as u64 <= self.length {
                self.file.write_all_at(bytes, *offset)?;
            }
        }
        Ok(())
    }

    /// All its bytes; the file is kept until [`Partial::discard`].
    pub fn read(&self) -> io::Result<Vec<u8>> {
        fs::read(&self.path)
    }

    pub fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn chunks_are_reused_resumed_and_put_in_all_their_places() {
        let dir = Scratch::new();
        let old: Vec<u8> = [[1; 100], [2; 100], [3; 100]].concat();
        let new: Vec<u8> = [[1; 100], [9; 100], [3; 100], [8; 100], [9; 100]].concat();
        let boundaries = [100, 200, 300, 400];
        let index = ChunkIndex::cut(&new, &boundaries);
        let blob = Digest::of(&new);
        fs::write(dir.path().join("00.partial"), b"another").unwrap();

        let (partial, missing) = Partial::open(dir.path(), blob, &index, &old, &boundaries).unwrap();
        assert!(!dir.path().join("00.partial").exists());
        let (nine, eight) = (Digest::of(&[9; 100]), Digest::of(&[8; 100]));
        assert_eq!(missing.iter().copied().collect::<std::collections::BTreeSet<_>>(), [nine, eight].into());
        partial.write(nine, &[9; 100]).unwrap();
        drop(partial);

        let (partial, missing) = Partial::open(dir.path(), blob, &index, &[], &[]).unwrap();
        assert_eq!(missing, [eight]);
        partial.write(eight, &[8; 100]).unwrap();
        assert_eq!(partial.read().unwrap(), new);
        partial.discard().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

//! Content-addressed files: `blobs/ab/abcdef…`.
//!
//! Invariant: a file under a digest's name holds bytes of that digest, or the disk has changed them: who sends them on checks again. Not
//! here: what the bytes are.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use wayside_common::{blob::MAX_BLOB, id::Digest};

use crate::disk::{self, Access};

#[derive(Clone, Debug)]
pub struct BlobStore {
    folder: PathBuf,
}

impl BlobStore {
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// Writes the bytes unless they are there already.
    pub fn put(&self, bytes: &[u8]) -> io::Result<Digest> {
        if bytes.len() as u64 > MAX_BLOB {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("a blob of {} bytes, and {MAX_BLOB} are allowed", bytes.len()),
            ));
        }
        let digest = Digest::of(bytes);
        let path = self.path(digest);
        if fs::metadata(&path).is_ok_and(|found| found.len() == bytes.len() as u64) {
            return Ok(digest);
        }
        disk::folder(path.parent().expect("a blob lies in a folder"))?;
        disk::replace(&path, bytes, Access::Everyone)?;
        Ok(digest)
    }

    /// The whole blob, checked; `None` where there is none.
    pub fn read(&self, digest: Digest) -> io::Result<Option<Vec<u8>>> {
        let bytes = match fs::read(self.path(digest)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        checked(digest, bytes).map(Some)
    }

    /// `length` bytes from `offset`, checked against the digest of that piece.
    pub fn read_piece(&self, blob: Digest, offset: u64, length: u32, piece: Digest) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(blob))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = vec![0; length as usize];
        file.read_exact(&mut bytes)?;
        checked(piece, bytes)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.folder.join(&name[..2]).join(name)
    }
}

fn checked(digest: Digest, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    if Digest::of(&bytes) == digest {
        Ok(bytes)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("the blob {digest} was changed on the disk")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_blob_is_found_by_its_digest_and_a_changed_file_is_not_given_out() {
        let scratch = Scratch::new();
        let store = BlobStore::open(&scratch.path().join("blobs")).unwrap();
        let digest = store.put(b"package").unwrap();
        assert_eq!(store.put(b"package").unwrap(), digest);
        assert_eq!(store.read(digest).unwrap().as_deref(), Some(&b"package"[..]));
        assert_eq!(store.read(Digest::of(b"other")).unwrap(), None);
        assert_eq!(store.read_piece(digest, 4, 3, Digest::of(b"age")).unwrap(), b"age");
        assert!(store.read_piece(digest, 4, 30, Digest::of(b"age")).is_err());

        fs::write(store.path(digest), b"pACkage").unwrap();
        assert!(store.read(digest).is_err());
        assert!(store.read_piece(digest, 0, 3, Digest::of(b"pac")).is_err());
    }
}

//! The files of the stores, where SQLite has no say: is one there, moving it aside, reading it as bytes.
//!
//! Invariant: when [`Files::rename`] returns, the new name survives a power cut. Not here: what is in them (`spool`, `state`).

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// A folder on a disk; in tests, one in RAM.
pub trait Files: Send + Sync {
    /// How long the file is; `None`: there is none.
    fn len(&self, path: &Path) -> Option<u64>;
    /// Reads from `offset` on; fewer bytes than asked for only at the end.
    fn read_at(&self, path: &Path, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a file of so many zeros, on the disk when it returns; none where it fails.
    fn fill(&self, path: &Path, bytes: u64) -> io::Result<()>;
}

/// The real ones.
pub struct OnDisk;

impl Files for OnDisk {
    fn len(&self, path: &Path) -> Option<u64> {
        fs::metadata(path).ok().map(|found| found.len())
    }

    fn read_at(&self, path: &Path, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = fs::File::open(path)?;
        let mut done = 0;
        while done < into.len() {
            match file.read_at(&mut into[done..], offset + done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        to.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn fill(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let filled = fs::File::create(path).and_then(|mut file| {
            io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
            file.sync_all()
        });
        filled.inspect_err(|_| drop(fs::remove_file(path)))
    }
}

/// What SQLite keeps beside a database, and the database last, so that a death in between leaves it under its name.
pub const SUFFIXES: [&str; 3] = ["-wal", "-shm", ""];

pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Moves a database and what belongs to it to `PATH.damaged`; what lay there goes.
pub fn set_aside(files: &dyn Files, path: &Path) -> io::Result<()> {
    for suffix in SUFFIXES {
        let from = beside(path, suffix);
        if files.len(&from).is_some() {
            files.rename(&from, &beside(&from, ".damaged"))?;
        }
    }
    Ok(())
}

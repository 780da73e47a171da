//! Files that survive a power cut: whole or not there.
//!
//! Invariant: a file that these functions name at the end has all its bytes on the disk and its name in a synced folder.
//! Not here: what the files mean (`keys`, `registry::blob`, `datasets`).

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    OwnerAlone,
    Everyone,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::OwnerAlone => 0o600,
            Self::Everyone => 0o644,
        }
    }
}

/// Writes a file that must not exist yet.
pub fn create(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    write_synced(path, bytes, access)?;
    sync_folder(path)
}

/// Writes a file under another name first, so that a reader sees the old bytes or the new ones.
pub fn replace(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let unique = format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let temporary = path.with_file_name(format!("{name}{unique}"));
    let written = write_synced(&temporary, bytes, access).and_then(|()| fs::rename(&temporary, path)).and_then(|()| sync_folder(path));
    if written.is_err() {
        // The first error is what the caller needs; a temporary file that stays is never read.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes a folder whose parent is there.
pub fn folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => sync_folder(path),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

/// Makes a folder that only its owner can enter.
pub fn private_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

fn write_synced(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(access.mode()).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

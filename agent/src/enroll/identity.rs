//! Who this device is, on its disk: key, certificate, the CA that it trusts, the server that it belongs to.
//!
//! Invariant: all of it is one file, replaced as a whole (temporary file, fsync, rename, fsync of the folder), readable by its owner alone: key
//! and certificate never disagree, whenever the power fails. The key was made here and never leaves. Not here: getting one
//! (`enroll`).

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, ensure};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use wayside_common::{
    id::{DeviceClass, DeviceId, FleetId},
    time::Wall,
    trust::role::Key,
};

use super::verifier::{Validity, validity};

const FOLDER: &str = "identity";
const FILE: &str = "identity.json";
const ROOT: &str = "root.json";
const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    version: u32,
    pub device: DeviceId,
    pub fleet: FleetId,
    pub class: DeviceClass,
    /// Where it was enrolled and renews: `https://HOST:PORT`.
    pub server: String,
    pub broker: String,
    /// PKCS #8, PEM.
    pub key: String,
    pub certificate: String,
    /// The CAs that the server's certificate may be signed by, PEM.
    pub authorities: String,
    /// Signs the answers to this device's questions for the time.
    pub timestamp_key: Key,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} of {})", self.device, self.fleet)
    }
}

/// What an enrolment gives; the rest of an [`Identity`] is fixed.
pub struct Parts {
    pub device: DeviceId,
    pub fleet: FleetId,
    pub class: DeviceClass,
    pub server: String,
    pub broker: String,
    pub key: String,
    pub certificate: String,
    pub authorities: String,
    pub timestamp_key: Key,
}

impl Identity {
    pub fn new(parts: Parts) -> Self {
        let Parts { device, fleet, class, server, broker, key, certificate, authorities, timestamp_key } = parts;
        Self { version: VERSION, device, fleet, class, server, broker, key, certificate, authorities, timestamp_key }
    }

    /// `None`: this device was never enrolled.
    pub fn load(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = data_dir.join(FOLDER).join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("{} cannot be read", path.display())),
        };
        let damaged = || format!("{} is damaged; enrol this device again: wayside-agent enroll URL --token TOKEN", path.display());
        let identity: Self = serde_json::from_slice(&bytes).with_context(damaged)?;
        ensure!(identity.version == VERSION, "{} is of version {}, and this build reads {VERSION}", path.display(), identity.version);
        identity.validity().with_context(damaged)?;
        Ok(Some(identity))
    }

    pub fn save(&self, data_dir: &Path) -> anyhow::Result<()> {
        let folder = data_dir.join(FOLDER);
        private_folder(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let text = serde_json::to_vec_pretty(self).context("an identity is JSON")?;
        replace(&folder.join(FILE), &text, 0o600).with_context(|| format!("{} cannot be written", folder.join(FILE).display()))
    }

    /// The root document that came with the enrolment.
    pub fn save_root(data_dir: &Path, root: &[u8]) -> anyhow::Result<()> {
        let folder = data_dir.join(FOLDER);
        private_folder(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        replace(&Self::root(data_dir), root, 0o644).with_context(|| format!("{} cannot be written", Self::root(data_dir).display()))
    }

    pub fn root(data_dir: &Path) -> PathBuf {
        data_dir.join(FOLDER).join(ROOT)
    }

    pub fn certificate(&self) -> anyhow::Result<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|e| anyhow::anyhow!("this device's certificate: {e}"))
    }

    pub fn validity(&self) -> anyhow::Result<Validity> {
        validity(&self.certificate()?).context("this device's certificate has no readable dates")
    }

    /// After two thirds of its life.
    pub fn renew_at(&self) -> anyhow::Result<Wall> {
        let Validity { from, until } = self.validity()?;
        Ok(Wall(from.0.saturating_add(until.0.saturating_sub(from.0) / 3 * 2)))
    }
}

fn private_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

/// A reader sees the old bytes or the new ones; the new ones are on the disk when this returns.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // The first error is what the caller needs; a temporary file that stays is never read.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{enroll::fixture, scratch::Scratch};

    #[test]
    fn what_was_saved_is_loaded_and_only_its_owner_can_read_it() {
        let scratch = Scratch::new();
        assert_eq!(Identity::load(scratch.path()).unwrap(), None);
        let ca = fixture::Ca::new("plant");
        let identity = ca.identity("cam-1", (Wall(0), Wall(90_000)));
        identity.save(scratch.path()).unwrap();
        assert_eq!(Identity::load(scratch.path()).unwrap(), Some(identity.clone()));
        assert_eq!(identity.renew_at().unwrap(), Wall(60_000));
        let file = scratch.path().join("identity/identity.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{identity:?}").contains("PRIVATE"), "a key reaches no log");
        // A second one replaces the first as a whole, and leaves nothing beside it.
        ca.identity("cam-2", (Wall(0), Wall(1_000))).save(scratch.path()).unwrap();
        assert_eq!(fs::read_dir(scratch.path().join("identity")).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_one_says_what_to_do() {
        let scratch = Scratch::new();
        fixture::Ca::new("plant").identity("cam-1", (Wall(0), Wall(90_000))).save(scratch.path()).unwrap();
        let file = scratch.path().join("identity/identity.json");
        let whole = fs::read(&file).unwrap();
        for bytes in [&whole[..whole.len() / 2], b"", b"{}"] {
            fs::write(&file, bytes).unwrap();
            let error = format!("{:#}", Identity::load(scratch.path()).unwrap_err());
            assert!(error.contains("enrol this device again"), "{error}");
        }
    }
}

//! The files by which a broker outside of this process knows devices: CAs, its own certificate and key, the list of what is revoked.
//!
//! Invariant: each file is replaced as a whole; the list names everything that was revoked when it was written, and is written anew with
//! every revocation. Not here: the broker's configuration (`broker::mosquitto`), telling the broker to read them again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use wayside_common::time::Wall;

use super::authority::{Authority, Role};
use crate::{
    broker::TlsFiles,
    disk::{self, Access},
};

/// A broker is told of a new certificate by a person or a script, so it lasts.
const BROKER_LIFETIME: Duration = Duration::from_secs(398 * 24 * 3600);
/// A list that is older is refused by the broker, with every device; each start of the server writes it anew.
const LIST_LIFETIME: Duration = Duration::from_secs(398 * 24 * 3600);

/// Where the files lie.
pub struct Export(PathBuf);

impl Export {
    pub fn to(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    pub fn files(&self) -> TlsFiles {
        TlsFiles { ca: self.0.join("ca.pem"), cert: self.0.join("broker.pem"), key: self.0.join("broker.key") }
    }

    pub fn revoked(&self) -> PathBuf {
        self.0.join("revoked.pem")
    }

    pub fn write(&self, authority: &Authority, names: &[String], now: Wall) -> anyhow::Result<()> {
        disk::private_folder(&self.0).with_context(|| format!("could not make {}", self.0.display()))?;
        let (issued, key) = authority.issue_with_key(&Role::Server { names }, now, BROKER_LIFETIME)?;
        let TlsFiles { ca, cert, key: key_file } = self.files();
        write(&ca, &authority.trusted_pem(), Access::Everyone)?;
        // Key before certificate: whoever reads in between fails, and reads again.
        write(&key_file, &key.serialize_pem(), Access::OwnerAlone)?;
        write(&cert, &(issued.pem + &authority.chain_pem()), Access::Everyone)
    }

    pub fn write_revoked(&self, authority: &Authority, revoked: &[(String, Wall)], now: Wall) -> anyhow::Result<()> {
        write(&self.revoked(), &authority.revocation_list(revoked, now, LIST_LIFETIME)?, Access::Everyone)
    }
}

fn write(path: &Path, text: &str, access: Access) -> anyhow::Result<()> {
    disk::replace(path, text.as_bytes(), access).with_context(|| format!("could not write {}", path.display()))
}

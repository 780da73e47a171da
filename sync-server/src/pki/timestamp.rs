//! The timestamp key: it says what time it is, to one device's question at a time.
//!
//! Invariant: it signs the time of the moment in which it is asked, together with the asker's nonce, and nothing that somebody else wrote.
//! Not here: what a device makes of it (`common::trusted_time`); the key's TUF role.

use std::path::Path;

use anyhow::{Context, ensure};
use ed25519_dalek::SigningKey;
use wayside_common::{
    time::Wall,
    trust::{
        role::Key,
        signed::{self, public_key},
    },
    trusted_time::TimeAnswer,
};

use crate::{
    disk::{self, Access},
    keys,
};

const FILE: &str = "timestamp.key";

#[derive(Clone)]
pub struct Timestamp(SigningKey);

impl Timestamp {
    /// `issued`: devices know its public half, so that it may not be made anew.
    pub fn open(folder: &Path, issued: bool) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        if !path.exists() {
            ensure!(!issued, "{} is not there, and devices know it: bring it back from a backup", path.display());
            let key = keys::new_key()?;
            disk::replace(&path, &keys::seed_text(&key), Access::OwnerAlone)
                .with_context(|| format!("could not write {}", path.display()))?;
        }
        keys::load(&path).map(Self)
    }

    pub fn public(&self) -> Key {
        public_key(&self.0)
    }

    pub fn answer(&self, nonce: u64, now: Wall) -> Vec<u8> {
        signed::sign(&TimeAnswer::new(nonce, now), &[&self.0]).expect("an answer holds no fractions")
    }
}

//! The certificate that the server shows, on every listener of its own.
//!
//! Invariant: its key lives in memory alone and is made anew with every certificate, at each start and when half of its life is over;
//! listeners see the new one with their next handshake. Not here: the CA (`authority`).

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use wayside_common::time::Wall;

use super::{
    authority::{Authority, Role},
    provider,
};

/// A certificate with its key, and when the next one is to be made.
pub struct Certified {
    key: Arc<CertifiedKey>,
    due: Wall,
}

pub fn certify(authority: &Authority, names: &[String], lifetime: Duration, now: Wall) -> anyhow::Result<Certified> {
    let (issued, key) = authority.issue_with_key(&Role::Server { names }, now, lifetime)?;
    let chain = std::iter::once(issued.der).chain(authority.chain().cloned()).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Certified { key: Arc::new(CertifiedKey::from_der(chain, key, &provider())?), due: now.plus(lifetime / 2) })
}

#[cfg(test)]
impl Certified {
    pub fn chain(&self) -> &[rustls::pki_types::CertificateDer<'static>] {
        &self.key.cert
    }
}

pub struct Served(RwLock<Certified>);

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Served")
    }
}

impl Served {
    pub fn new(certified: Certified) -> Self {
        Self(RwLock::new(certified))
    }

    pub fn is_due(&self, now: Wall) -> bool {
        now >= self.0.read().unwrap_or_else(PoisonError::into_inner).due
    }

    pub fn replace(&self, certified: Certified) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).key.clone())
    }
}

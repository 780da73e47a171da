//! The server's own small CA: who is a device of this fleet, and how a device knows its server.
//!
//! Invariant: the CA's key is made once, at the first start, and never silently again: what is there and cannot be read is an error. A
//! device's certificate says what the server decided, never what the request claimed. Not here: who may have a certificate
//! (`api::enroll`), what was issued (`db::identity`).

pub mod authority;
pub mod export;
pub mod request;
mod served;
pub mod timestamp;

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use serde::Deserialize;
use wayside_common::{
    id::{DeviceId, Digest, FleetId},
    time::Wall,
};
use x509_parser::parse_x509_certificate;

use crate::{
    broker::{self, mosquitto},
    config::Span,
};
use authority::{Authority, Issued, Role};
use export::Export;
use request::{Proof, PublicKey, RequestError};
use served::Served;
use timestamp::Timestamp;

/// `[pki]` of the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Host names and addresses by which devices reach this server; the first one is told to them.
    pub names: Vec<String>,
    /// Of a device's certificate; it renews it after two thirds.
    pub device_lifetime: Span,
    /// Of the server's certificate; the server renews it after half.
    pub server_lifetime: Span,
}

impl Default for Config {
    fn default() -> Self {
        let days = |days: u64| Span(Duration::from_secs(days * 24 * 3600));
        Self { names: Vec::new(), device_lifetime: days(90), server_lifetime: days(90) }
    }
}

/// `[enroll]` of the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enroll {
    /// Where devices enrol and renew; port 0: the system chooses.
    pub listen: SocketAddr,
    /// How long a token is good.
    #[serde(default = "default_token_lifetime")]
    pub token_lifetime: Span,
}

fn default_token_lifetime() -> Span {
    Span(Duration::from_secs(3600))
}

/// How the server itself is known to an external broker; in memory alone, made anew at every start.
const BRIDGE_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// See the module.
pub struct Pki {
    authority: Authority,
    fleet: FleetId,
    config: Config,
    served: Arc<Served>,
    timestamp: Timestamp,
    revoked: Arc<Revoked>,
    export: Option<Export>,
}

/// The serial numbers that are no longer good; the database remembers them.
#[derive(Debug, Default)]
pub struct Revoked(RwLock<HashSet<String>>);

impl Revoked {
    pub fn add(&self, serials: impl IntoIterator<Item = String>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).extend(serials);
    }
}

impl broker::Revoked for Revoked {
    fn is_revoked(&self, serial: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(serial)
    }
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Pki {
    /// Opens what is in the folder, or makes it where there is nothing. `issued`: certificates of this CA are out there, so that
    /// nothing may be made anew.
    pub fn open(folder: &Path, fleet: &FleetId, config: Config, issued: bool, now: Wall) -> anyhow::Result<Self> {
        let authority = Authority::open(folder, fleet, issued)?;
        let timestamp = Timestamp::open(folder, issued)?;
        let certified = served::certify(&authority, &config.names, config.server_lifetime.0, now)?;
        let served = Arc::new(Served::new(certified));
        Ok(Self { authority, fleet: fleet.clone(), config, served, timestamp, revoked: Arc::default(), export: None })
    }

    /// From now on a broker outside of this process finds in `export` what it needs.
    pub fn exporting(mut self, export: Export, revoked: &[(String, Wall)], now: Wall) -> anyhow::Result<Self> {
        export.write(&self.authority, &self.config.names, now)?;
        export.write_revoked(&self.authority, revoked, now)?;
        self.export = Some(export);
        Ok(self)
    }

    /// Where a broker outside of this process must be told of the revocations, tells it; `true`: somebody has to make it read them.
    pub fn export_revoked(&self, revoked: &[(String, Wall)], now: Wall) -> anyhow::Result<bool> {
        let Some(export) = &self.export else { return Ok(false) };
        export.write_revoked(&self.authority, revoked, now)?;
        Ok(true)
    }

    /// Makes the server a new certificate when half of the present one's life is over. Connections that stand stay.
    pub fn refresh(&self, now: Wall) -> anyhow::Result<()> {
        if self.served.is_due(now) {
            self.served.replace(served::certify(&self.authority, &self.config.names, self.config.server_lifetime.0, now)?);
            tracing::info!("the server has a new certificate");
        }
        Ok(())
    }

    pub fn timestamp(&self) -> &Timestamp {
        &self.timestamp
    }

    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// What a token pins: SHA-256 of the CA's SubjectPublicKeyInfo.
    pub fn pin(&self) -> Digest {
        self.authority.pin()
    }

    /// The CAs that devices trust, and their keys signed by earlier ones, PEM.
    pub fn authorities(&self) -> (String, String) {
        self.authority.published()
    }

    /// A device's certificate for this key.
    pub fn issue(&self, device: &DeviceId, key: &PublicKey, now: Wall) -> anyhow::Result<Issued> {
        self.authority.issue(key, &Role::Device { device, fleet: &self.fleet }, now, self.config.device_lifetime.0)
    }

    /// The serial number and name in a certificate of this CA, or of an earlier one, that may have expired; with the proof that whoever
    /// shows it has its key.
    pub fn proven(&self, proof: &Proof<'_>) -> Result<(String, DeviceId), RequestError> {
        let der = request::certificate(proof.certificate)?;
        let (rest, parsed) = parse_x509_certificate(&der).map_err(|_| RequestError::Certificate)?;
        if !rest.is_empty() {
            return Err(RequestError::Certificate);
        }
        // Inside its life: that it is over is no reason to refuse.
        let then = u64::try_from(parsed.validity().not_before.timestamp()).map_err(|_| RequestError::Certificate)?;
        let verifier = self.client_verifier().map_err(|_| RequestError::NotOurs)?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(then));
        verifier.verify_client_cert(&der, &[], at).map_err(|_| RequestError::NotOurs)?;
        let key = PublicKey::of(parsed.public_key())?;
        key.verify(&proof.message, proof.signature)?;
        let subject = broker::subject(&parsed);
        let device = subject.common_name.and_then(|name| name.parse().ok()).ok_or(RequestError::NotOurs)?;
        if subject.organization.as_deref() != Some(self.fleet.as_str()) {
            return Err(RequestError::NotOurs);
        }
        Ok((subject.serial, device))
    }

    /// TLS 1.3 of the enrolment: the server shows itself, the device need not.
    pub fn enrolment_tls(&self) -> anyhow::Result<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
        Ok(no_tickets(builder.with_no_client_auth().with_cert_resolver(self.served.clone())))
    }

    /// What a broker needs to know devices by this CA.
    pub fn broker_tls(&self, now: Wall) -> anyhow::Result<broker::Own> {
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
        let listener = builder.with_client_cert_verifier(self.client_verifier()?).with_cert_resolver(self.served.clone());
        let (issued, key) =
            self.authority.issue_with_key(&Role::Client { name: mosquitto::SERVER, fleet: &self.fleet }, now, BRIDGE_LIFETIME)?;
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(vec![issued.der], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))?;
        Ok(broker::Own { listener: Arc::new(no_tickets(listener)), client: Arc::new(client), revoked: self.revoked.clone() })
    }

    fn client_verifier(&self) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
        WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider()).build().context("the CA's own certificates")
    }

    fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in self.authority.trusted() {
            roots.add(CertificateDer::clone(certificate)).context("a CA certificate of the pki folder")?;
        }
        Ok(roots)
    }
}

/// Without tickets every connection shows its certificate again.
fn no_tickets(mut config: ServerConfig) -> ServerConfig {
    config.send_tls13_tickets = 0;
    config
}

#[cfg(test)]
mod tests;

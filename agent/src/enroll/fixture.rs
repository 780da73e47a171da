//! A small CA for tests.
//!
//! Invariant: each value is another CA. Not here: anything that the program uses; the module exists in tests only.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use wayside_common::{time::Wall, trusted_time::TimeAnswer};

use super::identity::{Identity, Parts};
use crate::clock::Timekeeper;

/// Late in 2026.
pub const TODAY: Wall = Wall(1_795_435_041_000);

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    timestamp: ed25519_dalek::SigningKey,
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = params(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn date(at: Wall) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1000)).unwrap()
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let (params, key) = (ca_params(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        let (pem, certificate) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params, key), certificate, pem, timestamp: ed25519_dalek::SigningKey::from_bytes(&[5; 32]) }
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The other CA's key, signed by this one.
    pub fn bridge(&self, to: &Self, name: &str) -> String {
        ca_params(name).signed_by(to.issuer.key(), &self.issuer).unwrap().pem()
    }

    pub fn server(&self, (from, until): (Wall, Wall)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date(from), date(until));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }

    pub fn device(&self, name: &str, key: &impl PublicKeyData, (from, until): (Wall, Wall)) -> String {
        let mut params = params(name);
        (params.not_before, params.not_after) = (date(from), date(until));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    pub fn identity(&self, name: &str, dates: (Wall, Wall)) -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity::new(Parts {
            device: name.parse().unwrap(),
            fleet: "plant".parse().unwrap(),
            class: "camera".parse().unwrap(),
            server: "https://127.0.0.1:8443".into(),
            broker: "mqtts://127.0.0.1:8883".into(),
            certificate: self.device(name, &key, dates),
            key: key.serialize_pem(),
            authorities: self.pem.clone(),
            timestamp_key: wayside_common::trust::signed::public_key(&self.timestamp),
        })
    }

    /// Answers the device's question.
    pub fn vouch(&self, time: &Timekeeper, at: Wall) {
        let nonce = time.ask().unwrap();
        let answer = wayside_common::trust::signed::sign(&TimeAnswer::new(nonce, at), &[&self.timestamp]).unwrap();
        time.answered(&answer, &wayside_common::trust::signed::public_key(&self.timestamp)).unwrap();
    }
}

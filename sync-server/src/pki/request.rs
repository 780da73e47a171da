//! A device's request: which key it has, and the proof that it has it.
//!
//! Invariant: a key leaves this module only with a signature that was checked with it, by the verification that TLS itself uses; ed25519
//! and ECDSA P-256 alone. Nothing else of a request is looked at. Not here: who may ask (`api::enroll`).

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SignatureAlgorithm};
use rustls::{
    SignatureScheme,
    pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject},
};
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ED25519},
    prelude::FromDer,
    x509::SubjectPublicKeyInfo,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the certificate request cannot be read")]
    Csr,
    #[error("the certificate cannot be read")]
    Certificate,
    #[error("the key is neither ed25519 nor ECDSA P-256")]
    KeyKind,
    #[error("the signature is not by the key that it names")]
    Signature,
    #[error("the certificate is not one of this fleet's")]
    NotOurs,
}

/// What a renewal shows of the key until now.
pub struct Proof<'a> {
    /// PEM.
    pub certificate: &'a str,
    pub message: Vec<u8>,
    pub signature: &'a [u8],
}

/// A public key that a certificate can be made for.
#[derive(Debug)]
pub struct PublicKey {
    raw: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
    scheme: SignatureScheme,
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.raw
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl PublicKey {
    /// The key of a request that is signed with it.
    pub fn of_request(pem: &str) -> Result<Self, RequestError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| RequestError::Csr)?;
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Csr)?;
        if !rest.is_empty() {
            return Err(RequestError::Csr);
        }
        let key = Self::of(&request.certification_request_info.subject_pki)?;
        let named = if key.scheme == SignatureScheme::ED25519 { OID_SIG_ED25519 } else { OID_SIG_ECDSA_WITH_SHA256 };
        if request.signature_algorithm.algorithm != named {
            return Err(RequestError::Signature);
        }
        key.verify(request.certification_request_info.raw, &request.signature_value.data)?;
        Ok(key)
    }

    pub fn of(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, RequestError> {
        let raw = info.subject_public_key.data.to_vec();
        let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        if info.algorithm.algorithm == OID_SIG_ED25519 && raw.len() == 32 {
            Ok(Self { raw, algorithm: &PKCS_ED25519, scheme: SignatureScheme::ED25519 })
        } else if info.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256) && raw.len() == 65 {
            Ok(Self { raw, algorithm: &PKCS_ECDSA_P256_SHA256, scheme: SignatureScheme::ECDSA_NISTP256_SHA256 })
        } else {
            Err(RequestError::KeyKind)
        }
    }

    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), RequestError> {
        let algorithms = super::provider().signature_verification_algorithms;
        let known = algorithms.mapping.iter().find(|(scheme, _)| *scheme == self.scheme);
        let algorithm = known.and_then(|(_, algorithms)| algorithms.first()).ok_or(RequestError::KeyKind)?;
        algorithm.verify_signature(&self.raw, message, signature).map_err(|_| RequestError::Signature)
    }
}

pub fn certificate(pem: &str) -> Result<CertificateDer<'static>, RequestError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| RequestError::Certificate)
}

//! Becoming and staying a member of a fleet: the key is made here, the server certifies it.
//!
//! Invariant: the private key never leaves this device; before the first certificate the server is known by the token's pin alone, later
//! by the CAs of the identity. A new CA is trusted only when one that is trusted already has signed its key. Not here: files
//! (`identity`), when to renew (`task`).

pub mod command;
pub mod exchange;
#[cfg(test)]
pub mod fixture;
pub mod identity;
pub mod task;
pub mod verifier;

use std::sync::{Arc, PoisonError};

use anyhow::{Context, ensure};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};
use rustls::pki_types::CertificateDer;
use wayside_common::{
    enrolment::{EnrolRequest, Granted, RenewRequest, Token, renewal},
    id::Digest,
    trust::{role::Key, set::TrustedSet},
};

use self::{
    exchange::{ExchangeError, post},
    identity::{Identity, Parts},
    verifier::{Accepted, Dated, Pinned, certificates, chains, client_config, public_key},
};
use crate::clock::Timekeeper;

/// A fresh key, and what asks for its certificate.
struct Asking {
    key: KeyPair,
    csr: String,
    nonce: u64,
}

impl Asking {
    fn new(time: &Timekeeper) -> anyhow::Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("the system gives no random number")?;
        let mut params = CertificateParams::default();
        // The server says who this is.
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?.pem()?;
        Ok(Self { key, csr, nonce: time.ask()? })
    }
}

/// Trades the token for a certificate; gives the root document that came with it as well.
pub async fn enroll(server: &str, token: Token, time: &Timekeeper) -> anyhow::Result<(Identity, Vec<u8>)> {
    let pin = token.pin();
    let tls = client_config(Arc::new(Pinned { pin, time: time.clone() }), None)?;
    let Asking { key, csr, nonce } = Asking::new(time)?;
    let granted: Granted = post(server, "/v1/enroll", &EnrolRequest { token, csr, nonce }, tls).await?;
    let authorities = certificates(&granted.authorities)?;
    let pinned = |ca: &CertificateDer<'_>| public_key(ca).is_some_and(|key| Digest::of(&key) == pin);
    ensure!(!authorities.is_empty() && authorities.iter().all(pinned), "the server names another CA than the token does");
    check_leaf(&granted, &key, &authorities)?;
    TrustedSet::from_root(granted.root.as_bytes()).context("the root document that the server gave")?;
    note_time(&granted, &granted.timestamp_key, time);
    let root = granted.root.clone().into_bytes();
    Ok((identity(server, key, granted), root))
}

/// A new key and certificate for the ones until now, which may have expired.
pub async fn renew(identity: &Identity, time: &Timekeeper) -> anyhow::Result<Identity> {
    let known = certificates(&identity.authorities)?;
    let accepted = Accepted::default();
    let dated = Dated::new(&known, time.clone(), accepted.clone())?;
    let tls = client_config(Arc::new(dated), None)?;
    let Asking { key, csr, nonce } = Asking::new(time)?;
    let old = KeyPair::from_pem(&identity.key).context("this device's key")?;
    let signature = hex::encode(old.sign(&renewal(&csr, nonce)).context("signing with this device's key")?);
    let request = RenewRequest { csr, certificate: identity.certificate.clone(), signature, nonce };
    let granted: Granted = post(&identity.server, "/v1/renew", &request, tls).await?;
    ensure!(
        granted.device == identity.device && granted.fleet == identity.fleet,
        "the server renews {} of {}, and this is {} of {}",
        granted.device,
        granted.fleet,
        identity.device,
        identity.fleet
    );
    let authorities = certificates(&granted.authorities)?;
    let leaf = check_leaf(&granted, &key, &authorities)?;
    let bridges = certificates(&granted.bridges)?;
    ensure!(
        !authorities.is_empty() && authorities.iter().all(|ca| is_vouched(ca, &leaf, &bridges, &known)),
        "the server names a CA that none which this device knows has signed"
    );
    // The key of the time stays: another one needs a signature of the fleet's root.
    note_time(&granted, &identity.timestamp_key, time);
    let (now, dates) = (time.now(), *accepted.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(now.is_trusted(), "this device does not know the time, and the server does not tell it");
    ensure!(dates.is_some_and(|dates| dates.holds(now.at)), "the server's certificate is not good at the time that it tells");
    let mut renewed = self::identity(&identity.server, key, granted);
    renewed.timestamp_key = identity.timestamp_key.clone();
    Ok(renewed)
}

/// Whether a server that refuses a renewal will refuse every other.
pub fn is_refusal(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<ExchangeError>(), Some(ExchangeError::Refused { status: 403, .. }))
}

fn identity(server: &str, key: KeyPair, granted: Granted) -> Identity {
    Identity::new(Parts {
        device: granted.device,
        fleet: granted.fleet,
        class: granted.class,
        server: server.trim_end_matches('/').into(),
        broker: granted.broker,
        key: key.serialize_pem(),
        certificate: granted.certificate,
        authorities: granted.authorities,
        timestamp_key: granted.timestamp_key,
    })
}

/// The certificate is for our key, and signed by a CA that was named with it.
fn check_leaf(granted: &Granted, key: &KeyPair, authorities: &[CertificateDer<'static>]) -> anyhow::Result<CertificateDer<'static>> {
    let mut all = certificates(&granted.certificate)?;
    ensure!(all.len() == 1, "the server gives {} certificates for one key", all.len());
    let leaf = all.remove(0);
    ensure!(public_key(&leaf) == Some(key.subject_public_key_info()), "the server's certificate is for another key");
    ensure!(chains(&leaf, &[], authorities), "the server's certificate is not signed by its CA");
    Ok(leaf)
}

/// Known already; or its key is a link that the chain from our new certificate to a known CA cannot do without, which only a bridge that
/// a known CA signed can be. webpki does the checking.
fn is_vouched(
    ca: &CertificateDer<'static>,
    leaf: &CertificateDer<'static>,
    bridges: &[CertificateDer<'static>],
    known: &[CertificateDer<'static>],
) -> bool {
    let key = public_key(ca);
    if key.is_none() {
        return false;
    }
    if known.iter().any(|known| public_key(known) == key) {
        return true;
    }
    let others: Vec<_> = bridges.iter().filter(|bridge| public_key(bridge) != key).cloned().collect();
    chains(leaf, bridges, known) && !chains(leaf, &others, known)
}

fn note_time(granted: &Granted, key: &Key, time: &Timekeeper) {
    if let Err(error) = time.answered(granted.time.as_bytes(), key) {
        tracing::warn!(%error, "the time that the server told is not believed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enroll::fixture::{Ca, TODAY};

    #[test]
    fn a_new_ca_is_trusted_by_the_signature_of_one_that_is_known_and_by_nothing_else() {
        let (old, middle, new, theirs) = (Ca::new("one"), Ca::new("two"), Ca::new("three"), Ca::new("their CA"));
        let key = KeyPair::generate().unwrap();
        let dates = (TODAY, wayside_common::time::Wall(TODAY.0 + 1_000_000));
        let of_new = new.device("cam-1", &key, dates);
        let of_theirs = theirs.device("cam-1", &key, dates);
        let leaf = |pem: &str| certificates(pem).unwrap().remove(0);
        let known = [old.certificate()];
        let direct = old.bridge(&new, "three");
        let over = [old.bridge(&middle, "two"), middle.bridge(&new, "three")].concat();
        let forged = theirs.bridge(&new, "three");
        struct Case<'a>(&'a Ca, &'a str, &'a str, bool);
        let cases = [
            Case(&new, &of_new, &direct, true),
            Case(&new, &of_new, &over, true),
            Case(&new, &of_new, "", false),
            Case(&new, &of_new, &forged, false),
            Case(&new, &of_new, &middle.bridge(&new, "three"), false),
            // Good bridges do not vouch for a CA that is merely named beside them.
            Case(&theirs, &of_new, &over, false),
            Case(&theirs, &of_theirs, &over, false),
            Case(&old, &of_new, "", true),
        ];
        for (i, Case(ca, certificate, bridges, expected)) in cases.into_iter().enumerate() {
            let bridges = certificates(bridges).unwrap();
            assert_eq!(is_vouched(&ca.certificate(), &leaf(certificate), &bridges, &known), expected, "case {i}");
        }
    }
}

//! How the device knows its server: rustls' own verification, with the time that the device may believe, and with a pin before it trusts
//! any CA.
//!
//! Invariant: chain, name and signatures are checked by webpki alone and always. Dates are not judged while the device's time is untrusted:
//! then webpki is asked for a moment inside the certificate's life. A certificate that is good but for its dates makes the device doubt its
//! clock, never its vouched time. Not here: what the time is (`common::trusted_time`), sockets.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use wayside_common::{id::Digest, time::Wall};
use x509_parser::parse_x509_certificate;

use super::identity::Identity;
use crate::clock::Timekeeper;

/// From when to when a certificate says that it is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: Wall,
    pub until: Wall,
}

impl Validity {
    pub fn holds(self, at: Wall) -> bool {
        (self.from..=self.until).contains(&at)
    }
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let wall = |seconds: i64| Wall(seconds.saturating_mul(1000));
    Some(Validity { from: wall(parsed.validity().not_before.timestamp()), until: wall(parsed.validity().not_after.timestamp()) })
}

/// The SubjectPublicKeyInfo, as pins hash it.
pub fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    parse_x509_certificate(certificate).ok().map(|(_, parsed)| parsed.public_key().raw.to_vec())
}

pub fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    all.map_err(|e| anyhow::anyhow!("certificates that cannot be read: {e}"))
}

pub fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone())?;
    }
    Ok(roots)
}

/// Whether `leaf` is a device's certificate whose chain leads to one of `roots`; dates apart.
pub fn chains(leaf: &CertificateDer<'_>, between: &[CertificateDer<'_>], trusted: &[CertificateDer<'static>]) -> bool {
    let at = inside(leaf, between);
    let verifier =
        roots(trusted).ok().and_then(|roots| WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().ok());
    verifier.is_some_and(|verifier| verifier.verify_client_cert(leaf, between, at).is_ok())
}

/// A moment in which all of them are good, if there is one.
fn inside(leaf: &CertificateDer<'_>, between: &[CertificateDer<'_>]) -> UnixTime {
    let newest = std::iter::once(leaf).chain(between).filter_map(validity).map(|validity| validity.from).max();
    unix(newest.unwrap_or_default())
}

fn unix(at: Wall) -> UnixTime {
    // Certificates know whole seconds.
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at.0.div_euclid(1000)).unwrap_or(0)))
}

/// The dates of the certificate that was accepted last; what follows from an answer to the device's question is judged by them.
pub type Accepted = Arc<Mutex<Option<Validity>>>;

/// What is wrong when a certificate is good but for its dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspect {
    /// Our clock: the time is asked for before anything else is believed.
    Clock,
    /// The certificate: a person is there who can set the clock, and a secret is about to be told.
    Certificate,
}

/// Trusts some CAs.
#[derive(Debug)]
pub struct Dated {
    inner: Arc<WebPkiServerVerifier>,
    time: Timekeeper,
    accepted: Accepted,
    suspect: Suspect,
}

impl Dated {
    pub fn new(trusted: &[CertificateDer<'static>], time: Timekeeper, accepted: Accepted) -> Result<Self, Error> {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(trusted)?), provider()).build();
        Ok(Self { inner: inner.map_err(|e| Error::General(e.to_string()))?, time, accepted, suspect: Suspect::Clock })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        check: impl Fn(UnixTime) -> Result<ServerCertVerified, Error>,
    ) -> Result<ServerCertVerified, Error> {
        let now = self.time.now();
        if !now.is_trusted() {
            return check(inside(leaf, between));
        }
        let error = match check(unix(now.at)) {
            Err(error) if is_about_dates(&error) && self.suspect == Suspect::Clock => error,
            verified => return verified,
        };
        // Only a certificate that is good but for its dates says anything about the time.
        check(inside(leaf, between))?;
        match validity(leaf) {
            Some(validity) if now.at < validity.from => self.time.signed(validity.from),
            _ => self.time.contradicted(),
        }
        let again = self.time.now();
        if again.is_trusted() {
            return check(unix(again.at)).map_err(|_| error);
        }
        tracing::warn!(clock = %now.at, "the server's certificate contradicts this device's clock; the server is asked for the time");
        check(inside(leaf, between))
    }
}

fn is_about_dates(error: &Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(error, Error::InvalidCertificate(Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }))
}

impl ServerCertVerifier for Dated {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verify(leaf, between, |at| self.inner.verify_server_cert(leaf, between, name, ocsp, at))?;
        *self.accepted.lock().unwrap_or_else(PoisonError::into_inner) = validity(leaf);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        s: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(m, c, s)
    }

    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        s: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(m, c, s)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Trusts the one CA, among those that the server shows, whose key has this hash. Dates are judged unless the clock cannot be right.
#[derive(Debug)]
pub struct Pinned {
    pub pin: Digest,
    pub time: Timekeeper,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = |certificate: &&CertificateDer<'_>| public_key(certificate).is_some_and(|key| Digest::of(&key) == self.pin);
        let ca = between.iter().find(pinned).ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let dated = Dated::new(&[ca.clone().into_owned()], self.time.clone(), Accepted::default())?;
        Dated { suspect: Suspect::Certificate, ..dated }.verify_server_cert(leaf, between, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        s: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(m, c, s, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        s: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(m, c, s, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// TLS 1.3 to a server that `verifier` knows; with an identity, the device shows itself.
pub fn client_config(verifier: Arc<dyn ServerCertVerifier>, identity: Option<&Identity>) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| anyhow::anyhow!("this device's key: {e}"))?;
            builder.with_client_auth_cert(vec![identity.certificate()?], key)?
        }
    };
    // A resumed session would skip the verification.
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        enroll::fixture::{Ca, TODAY},
    };

    const DAY: i64 = 24 * 3_600_000;

    fn day(n: i64) -> Wall {
        Wall(TODAY.0 + n * DAY)
    }

    fn verify(ca: &Ca, trusted: &Ca, name: &str, dates: (Wall, Wall), time: &Timekeeper) -> Result<(), String> {
        let shown = ca.server(dates);
        let dated = Dated::new(&[trusted.certificate()], time.clone(), Accepted::default()).unwrap();
        let name = ServerName::try_from(name).unwrap();
        let verified = dated.verify_server_cert(&shown, &[ca.certificate()], &name, &[], UnixTime::now());
        verified.map(|_| ()).map_err(|e| e.to_string())
    }

    #[test]
    fn chain_and_name_are_checked_whatever_the_time_is_and_dates_when_it_is_known() {
        let (ours, theirs) = (Ca::new("plant"), Ca::new("plant"));
        let good = (day(-1), day(89));
        struct Case<'a> {
            clock: Wall,
            ca: &'a Ca,
            name: &'a str,
            dates: (Wall, Wall),
            ok: bool,
            trusted_after: bool,
        }
        let good_case = Case { clock: TODAY, ca: &ours, name: "localhost", dates: good, ok: true, trusted_after: true };
        let cases = [
            Case { ..good_case },
            // A clock that was never set, and one at 2099: dates are not judged, all else is.
            Case { clock: Wall(0), trusted_after: false, ..good_case },
            Case { clock: Wall(4_071_168_000_000), trusted_after: false, ..good_case },
            Case { clock: Wall(0), ca: &theirs, ok: false, trusted_after: false, ..good_case },
            Case { clock: Wall(0), name: "elsewhere.example", ok: false, trusted_after: false, ..good_case },
            // A clock that stood still for 400 days, and one that runs 400 days ahead, are found out.
            Case { clock: day(-400), trusted_after: false, ..good_case },
            Case { clock: day(400), trusted_after: false, ..good_case },
            // Neither a foreign CA nor a wrong name makes a device doubt its clock.
            Case { clock: day(400), ca: &theirs, ok: false, ..good_case },
            Case { clock: day(400), name: "elsewhere.example", ok: false, ..good_case },
        ];
        for (i, Case { clock, ca, name, dates, ok, trusted_after }) in cases.into_iter().enumerate() {
            let time = Timekeeper::new(Clock::showing(clock), None);
            let verified = verify(ca, &ours, name, dates, &time);
            assert_eq!(verified.is_ok(), ok, "case {i}: {verified:?}");
            assert_eq!(time.now().is_trusted(), trusted_after, "case {i}");
        }
    }

    #[test]
    fn a_vouched_time_is_not_doubted_and_an_expired_certificate_is_refused() {
        let ca = Ca::new("plant");
        let time = Timekeeper::new(Clock::showing(Wall(0)), None);
        ca.vouch(&time, TODAY);
        assert!(verify(&ca, &ca, "localhost", (day(-1), day(89)), &time).is_ok());
        let error = verify(&ca, &ca, "localhost", (day(-200), day(-110)), &time).unwrap_err();
        assert!(error.contains("expired"), "{error}");
        assert!(time.now().is_trusted());
    }

    #[test]
    fn before_enrolment_only_the_pinned_ca_is_believed() {
        let (ours, theirs) = (Ca::new("plant"), Ca::new("plant"));
        let pin = Digest::of(&public_key(&ours.certificate()).unwrap());
        let verifier = Pinned { pin, time: Timekeeper::new(Clock::showing(TODAY), None) };
        let name = ServerName::try_from("localhost").unwrap();
        let dates = (day(-1), day(89));
        struct Case(CertificateDer<'static>, Vec<CertificateDer<'static>>, bool);
        let cases = [
            Case(ours.server(dates), vec![ours.certificate()], true),
            Case(theirs.server(dates), vec![theirs.certificate()], false),
            // Who shows our CA beside a certificate of another.
            Case(theirs.server(dates), vec![theirs.certificate(), ours.certificate()], false),
            Case(ours.server(dates), vec![], false),
        ];
        for (i, Case(leaf, between, ok)) in cases.into_iter().enumerate() {
            assert_eq!(verifier.verify_server_cert(&leaf, &between, &name, &[], UnixTime::now()).is_ok(), ok, "case {i}");
        }
        // A token is told to nobody whose certificate has expired, by a clock that may be right.
        for (clock, ok) in [(day(400), false), (day(-100), false), (Wall(0), true)] {
            let verifier = Pinned { pin, time: Timekeeper::new(Clock::showing(clock), None) };
            let verified = verifier.verify_server_cert(&ours.server(dates), &[ours.certificate()], &name, &[], UnixTime::now());
            assert_eq!(verified.is_ok(), ok, "{clock}");
        }
    }
}

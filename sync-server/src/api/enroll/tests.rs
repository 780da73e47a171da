//! Enrolment and renewal over real TLS, against a real store.

use std::net::Ipv4Addr;

use rcgen::{
    CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm, SigningKey,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use wayside_common::{time::Wall, topic::Down};
use x509_parser::parse_x509_certificate;

use super::{
    listener::{Peer, TlsListener},
    *,
};
use crate::{
    broker::{Revoked, subject},
    db::{registry::TrustDocument, sqlite::Sqlite},
    fixture, keys, pki,
    scratch::Scratch,
};

struct Nobody;

#[async_trait::async_trait]
impl Downlink for Nobody {
    async fn send(&self, _: &DeviceId, _: Down, _: Vec<u8>, _: bool) -> anyhow::Result<()> {
        Ok(())
    }
    async fn kick(&self, _: &DeviceId) -> anyhow::Result<()> {
        Ok(())
    }
}

struct Bench {
    scratch: Scratch,
    enrolment: Enrolment,
    address: SocketAddr,
}

/// A device's key, and its request.
struct Asking {
    key: KeyPair,
    csr: String,
}

fn asking(algorithm: &'static SignatureAlgorithm, claims: &str) -> Asking {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, claims);
    params.distinguished_name.push(DnType::OrganizationName, "another-fleet");
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    Asking { key, csr }
}

impl Bench {
    async fn new() -> Self {
        let scratch = Scratch::new();
        let db: Arc<dyn Db> = Arc::new(Sqlite::open(&scratch.path().join("wayside.db")).unwrap());
        let trust = scratch.path().join("trust");
        keys::init(&trust, clock::wall()).unwrap();
        let root = std::fs::read(trust.join(keys::ROOT)).unwrap();
        db.keep_trust(TrustDocument { role: "root".into(), version: 1, bytes: root }).await.unwrap();
        let fleet: FleetId = "plant".parse().unwrap();
        let pki = Pki::open(&scratch.path().join("pki"), &fleet, pki::Config::default(), false, clock::wall()).unwrap();
        let listener = TlsListener::bind((Ipv4Addr::LOCALHOST, 0).into(), pki.enrolment_tls().unwrap()).await.unwrap();
        let address = listener.address();
        let served = Some((format!("https://{address}"), Duration::from_secs(3600)));
        let broker = "mqtts://127.0.0.1:8883".into();
        let enrolment = Enrolment { db, pki: Arc::new(pki), fleet, broker, served, downlink: Arc::new(Nobody), failures: Arc::default() };
        let service = router(enrolment.clone()).into_make_service_with_connect_info::<Peer>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { scratch, enrolment, address }
    }

    async fn token(&self, device: &str) -> Token {
        let class = "camera".parse().unwrap();
        let path = Path(fixture::device(device));
        invite(State(self.enrolment.clone()), path, Json(InviteRequest { class })).await.unwrap().1.0.token
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.enrolment.pki.authorities().0.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(pki::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::IpAddress(self.address.ip().into());
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // Who is too long is answered before it was read.
        let _ = stream.write_all(body.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
    }

    async fn enroll(&self, token: &Token, csr: &str) -> (u16, Value) {
        self.post("/v1/enroll", &json!({"token": token, "csr": csr, "nonce": 7})).await
    }

    async fn renew(&self, certificate: &str, with: &KeyPair, next: &Asking) -> (u16, Value) {
        let signature = hex::encode(with.sign(&renewal(&next.csr, 8)).unwrap());
        self.post("/v1/renew", &json!({"csr": next.csr, "certificate": certificate, "signature": signature, "nonce": 8})).await
    }
}

fn names(pem: &str) -> (String, String, String) {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, parsed) = parse_x509_certificate(&der).unwrap();
    let subject = subject(&parsed);
    (subject.common_name.unwrap(), subject.organization.unwrap(), subject.serial)
}

#[tokio::test]
async fn a_token_buys_one_certificate_and_the_request_does_not_say_for_whom() {
    let bench = Bench::new().await;
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
        let (token, device) = (bench.token("cam-1").await, asking(algorithm, "cam-2"));
        let (status, granted) = bench.enroll(&token, &device.csr).await;
        assert_eq!(status, 200, "{granted}");
        let granted: Granted = serde_json::from_value(granted).unwrap();
        let (common_name, organization, _) = names(&granted.certificate);
        assert_eq!((common_name.as_str(), organization.as_str()), ("cam-1", "plant"));
        assert_eq!((granted.device.as_str(), granted.class.as_str()), ("cam-1", "camera"));
        let (status, problem) = bench.enroll(&token, &device.csr).await;
        assert_eq!(status, 403);
        assert!(problem["detail"].as_str().unwrap().contains("has been used"), "{problem}");
    }
}

#[tokio::test]
async fn what_is_no_request_or_no_token_gets_nothing() {
    let bench = Bench::new().await;
    let good = asking(&PKCS_ECDSA_P256_SHA256, "cam-1");
    // One bit of the self-signature turned.
    let der = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(good.csr.as_bytes()).unwrap();
    let mut forged = der.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let forged = pem_of("CERTIFICATE REQUEST", &forged);
    let wrong_kind = asking(&PKCS_ECDSA_P384_SHA384, "cam-1");
    struct Case<'a>(&'a str, u16, &'a str);
    let cases = [
        Case(&forged, 400, "not by the key"),
        Case(&wrong_kind.csr, 400, "neither ed25519"),
        Case("", 400, "cannot be read"),
        Case("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n", 400, "cannot be read"),
    ];
    let token = bench.token("cam-1").await;
    for Case(csr, expected, says) in cases {
        let (status, problem) = bench.enroll(&token, csr).await;
        assert_eq!(status, expected, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem} lacks {says}");
    }
    let foreign = Token::new([9; 32], bench.enrolment.pki.pin());
    let (status, problem) = bench.enroll(&foreign, &good.csr).await;
    assert_eq!(status, 403, "{problem}");
    assert!(!problem.to_string().contains(&foreign.to_string()[..30]), "a token's text is not said again");
    assert_eq!(bench.post("/v1/enroll", &json!({"csr": "x".repeat(MAX_REQUEST)})).await.0, 413);
    assert_eq!(bench.enroll(&token, &good.csr).await.0, 200, "what was refused has used nothing up");
}

fn pem_of(kind: &str, der: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", BASE64_STANDARD.encode(der))
}

#[tokio::test]
async fn only_the_old_key_renews_and_a_revoked_device_does_not() {
    let bench = Bench::new().await;
    let (first, next) = (asking(&PKCS_ECDSA_P256_SHA256, ""), asking(&PKCS_ECDSA_P256_SHA256, "cam-9"));
    let granted = bench.enroll(&bench.token("cam-1").await, &first.csr).await.1;
    let certificate = granted["certificate"].as_str().unwrap().to_owned();
    let (status, problem) = bench.renew(&certificate, &next.key, &next).await;
    assert_eq!(status, 403, "with the new key alone: {problem}");
    let (status, granted) = bench.renew(&certificate, &first.key, &next).await;
    assert_eq!(status, 200, "{granted}");
    let renewed = granted["certificate"].as_str().unwrap().to_owned();
    let ((name, _, old), (same, _, new)) = (names(&certificate), names(&renewed));
    assert_eq!((name.as_str(), same.as_str()), ("cam-1", "cam-1"));
    assert_ne!(old, new);
    // A signature for one nonce is none for another.
    let signature = hex::encode(next.key.sign(&renewal(&first.csr, 1)).unwrap());
    let other_nonce = json!({"csr": first.csr, "certificate": renewed, "signature": signature, "nonce": 2});
    assert_eq!(bench.post("/v1/renew", &other_nonce).await.0, 403);

    let Json(answer) = revoke(State(bench.enrolment.clone()), Path(fixture::device("cam-1"))).await.unwrap();
    assert_eq!(answer.certificates, 2);
    for (certificate, key) in [(&certificate, &first.key), (&renewed, &next.key)] {
        let (status, problem) = bench.renew(certificate, key, &asking(&PKCS_ECDSA_P256_SHA256, "")).await;
        assert_eq!(status, 403);
        assert!(problem["detail"].as_str().unwrap().contains("revoked"), "{problem}");
    }
    assert!([old, new].iter().all(|serial| bench.enrolment.pki.revoked().is_revoked(serial)));
}

#[tokio::test]
async fn a_certificate_of_an_authority_with_the_same_name_is_not_ours() {
    let bench = Bench::new().await;
    let theirs =
        Pki::open(&bench.scratch.path().join("theirs"), &bench.enrolment.fleet, pki::Config::default(), false, clock::wall()).unwrap();
    let old = asking(&PKCS_ECDSA_P256_SHA256, "");
    let key = PublicKey::of_request(&old.csr).unwrap();
    let foreign = theirs.issue(&fixture::device("cam-1"), &key, clock::wall()).unwrap();
    let (status, problem) = bench.renew(&foreign.pem, &old.key, &asking(&PKCS_ECDSA_P256_SHA256, "")).await;
    assert_eq!(status, 403);
    assert!(problem["detail"].as_str().unwrap().contains("not one of this fleet's"), "{problem}");
}

#[tokio::test]
async fn an_expired_certificate_renews() {
    let bench = Bench::new().await;
    let first = asking(&PKCS_ECDSA_P256_SHA256, "");
    let key = PublicKey::of_request(&first.csr).unwrap();
    let long_ago = Wall(clock::wall().0 - 400 * 24 * 3_600_000);
    let issued = bench.enrolment.pki.issue(&fixture::device("cam-1"), &key, long_ago).unwrap();
    let (token, class) = (bench.token("cam-1").await, "camera".parse().unwrap());
    let device = fixture::device("cam-1");
    let row = Certificate { serial: issued.serial.clone(), device, class, issued: long_ago, expires: issued.expires };
    bench.enrolment.db.redeem(token.digest(), row).await.unwrap();
    assert!(issued.expires < clock::wall());
    assert_eq!(bench.renew(&issued.pem, &first.key, &asking(&PKCS_ECDSA_P256_SHA256, "")).await.0, 200);
}

#[tokio::test]
async fn who_fails_too_often_is_told_to_wait() {
    let bench = Bench::new().await;
    let mut seen = Vec::new();
    for _ in 0..25 {
        seen.push(bench.post("/v1/enroll", &json!({})).await.0);
    }
    assert_eq!((seen[0], seen[24]), (422, 429), "{seen:?}");
}

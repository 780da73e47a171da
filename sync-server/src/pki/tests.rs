//! The CA over starts, damage and rotation.

use std::fs;

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{ServerName, pem::PemObject},
};

use super::*;
use crate::scratch::Scratch;

const NOW: Wall = Wall(1_795_435_041_000);

fn open(folder: &Path, issued: bool) -> anyhow::Result<Pki> {
    Pki::open(folder, &"plant".parse().unwrap(), Config::default(), issued, NOW)
}

fn roots_of(pem: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(der.unwrap()).unwrap();
    }
    Arc::new(roots)
}

/// Whether a client that trusts `roots` believes what the server shows.
fn believes(roots: &str, pki: &Pki, name: &str, at: Wall) -> bool {
    let certified = served::certify(&pki.authority, &pki.config.names, pki.config.server_lifetime.0, NOW).unwrap();
    let shown = certified.chain();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots_of(roots), provider()).build().unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_millis(at.0.unsigned_abs()));
    verifier.verify_server_cert(&shown[0], &shown[1..], &ServerName::try_from(name).unwrap(), &[], at).is_ok()
}

#[test]
fn the_ca_is_made_once_and_found_again() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("pki");
    let first = open(&folder, false).unwrap();
    let again = open(&folder, true).unwrap();
    assert_eq!((first.pin(), first.timestamp().public()), (again.pin(), again.timestamp().public()));
    use std::os::unix::fs::PermissionsExt;
    for name in ["authority.pem", "timestamp.key"] {
        assert_eq!(fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let (roots, _) = again.authorities();
    for (name, expected) in [("localhost", true), ("127.0.0.1", true), ("elsewhere.example", false)] {
        assert_eq!(believes(&roots, &first, name, NOW), expected, "{name}");
    }
    assert!(!believes(&roots, &first, "localhost", Wall(NOW.0 + 91 * 24 * 3_600_000)), "the server's certificate expires");
}

#[test]
fn what_is_damaged_or_gone_is_an_error_and_never_a_new_ca() {
    type Damage = fn(&[u8]) -> Vec<u8>;
    struct Case {
        name: &'static str,
        bytes: Option<Damage>,
        says: &'static str,
    }
    let cases = [
        Case { name: "authority.pem", bytes: None, says: "bring it back" },
        Case { name: "authority.pem", bytes: Some(|_| Vec::new()), says: "damaged" },
        Case { name: "authority.pem", bytes: Some(|all| all[..all.len() / 2].to_vec()), says: "damaged" },
        Case { name: "authority.pem", bytes: Some(other_key), says: "not its key's" },
        Case { name: "timestamp.key", bytes: None, says: "bring it back" },
        Case { name: "timestamp.key", bytes: Some(|_| b"zz".to_vec()), says: "not a private key" },
        Case { name: "earlier.pem", bytes: Some(|_| b"nothing".to_vec()), says: "damaged" },
    ];
    for Case { name, bytes, says } in cases {
        let scratch = Scratch::new();
        let folder = scratch.path().join("pki");
        open(&folder, false).unwrap();
        let path = folder.join(name);
        match bytes {
            None => fs::remove_file(&path).unwrap(),
            Some(change) => fs::write(&path, change(&fs::read(&path).unwrap_or_default())).unwrap(),
        }
        let before = fs::read(folder.join("authority.pem")).ok();
        let error = format!("{:#}", open(&folder, true).err().expect("an error"));
        assert!(error.contains(says), "{name}: {error} lacks {says}");
        assert_eq!(fs::read(folder.join("authority.pem")).ok(), before, "nothing was written");
    }
}

/// The certificate with another private key.
fn other_key(all: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(all.to_vec()).unwrap();
    let (_, certificate) = text.split_at(text.find("-----BEGIN CERTIFICATE").unwrap());
    (KeyPair::generate().unwrap().serialize_pem() + certificate).into_bytes()
}

#[test]
fn who_knows_an_earlier_ca_believes_the_server_after_two_rotations_and_its_own_certificate_is_still_known() {
    let scratch = Scratch::new();
    let (folder, fleet): (_, FleetId) = (scratch.path().join("pki"), "plant".parse().unwrap());
    let before = open(&folder, false).unwrap();
    let (old_roots, none) = before.authorities();
    assert_eq!(none, "");
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let issued = before.issue(&"cam-1".parse().unwrap(), &PublicKey::of_request(&csr).unwrap(), NOW).unwrap();
    for _ in 0..2 {
        Authority::rotate(&folder, &fleet).unwrap();
    }
    let after = open(&folder, true).unwrap();
    assert_ne!(before.pin(), after.pin());
    let (new_roots, _) = after.authorities();
    assert_ne!(old_roots, new_roots);
    assert!(believes(&old_roots, &after, "localhost", NOW), "by the bridges");
    assert!(believes(&new_roots, &after, "localhost", NOW));
    assert!(!believes(&new_roots, &before, "localhost", NOW), "the old CA counts no more for who has the new one");
    use rcgen::SigningKey;
    let message = b"it is me".to_vec();
    let signature = key.sign(&message).unwrap();
    let proof = Proof { certificate: &issued.pem, message, signature: &signature };
    assert_eq!(after.proven(&proof).unwrap(), (issued.serial, "cam-1".parse().unwrap()));
}

#[test]
fn the_servers_certificate_is_made_anew_after_half_its_life() {
    let scratch = Scratch::new();
    let pki = open(&scratch.path().join("pki"), false).unwrap();
    let day = |n: i64| Wall(NOW.0 + n * 24 * 3_600_000);
    for (at, due) in [(day(0), false), (day(44), false), (day(46), true)] {
        assert_eq!(pki.served.is_due(at), due, "{at}");
    }
    pki.refresh(day(46)).unwrap();
    assert!(!pki.served.is_due(day(46)));
}

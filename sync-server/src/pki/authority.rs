//! The CA: its key and certificate on disk, the ones before it, and what it signs.
//!
//! Invariant: key and certificate are one file, so they never disagree; it is replaced by `rotate` alone, which first writes down the old
//! certificate and the new key as the old one signed it. Subject, usage and dates of what is issued come from the caller. Not here:
//! checking a request (`request`).

use std::{fs, net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use wayside_common::{
    id::{DeviceId, Digest, FleetId},
    time::Wall,
};
use x509_parser::parse_x509_certificate;

use crate::disk::{self, Access};

/// Private key and certificate of the present CA.
const AUTHORITY: &str = "authority.pem";
/// Certificates of the CAs before it.
const EARLIER: &str = "earlier.pem";
/// The key of each later CA, signed by the one before it.
const BRIDGES: &str = "bridges.pem";
/// A certificate is good from a little earlier on, for clocks that are a little behind.
const BACKDATED: Duration = Duration::from_secs(300);

/// Whom a certificate is for.
pub enum Role<'a> {
    Device {
        device: &'a DeviceId,
        fleet: &'a FleetId,
    },
    /// The server as a client of an external broker.
    Client {
        name: &'a str,
        fleet: &'a FleetId,
    },
    Server {
        names: &'a [String],
    },
}

/// A certificate that the CA signed.
pub struct Issued {
    pub der: CertificateDer<'static>,
    pub pem: String,
    /// In hex.
    pub serial: String,
    pub expires: Wall,
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    earlier: Vec<CertificateDer<'static>>,
    bridges: Vec<CertificateDer<'static>>,
}

impl Authority {
    pub fn open(folder: &Path, fleet: &FleetId, issued: bool) -> anyhow::Result<Self> {
        disk::private_folder(folder).with_context(|| format!("could not make {}", folder.display()))?;
        let path = folder.join(AUTHORITY);
        if !path.exists() {
            let left = [EARLIER, BRIDGES].iter().find(|name| folder.join(name).exists());
            ensure!(
                left.is_none() && !issued,
                "{} is not there, and devices have certificates of it: bring it back from a backup; a new CA would lock every device out",
                path.display()
            );
            let key = new_key()?;
            let certificate = ca_params(&key, fleet).self_signed(&key)?;
            disk::replace(&path, pair(&key, &certificate.pem()).as_bytes(), Access::OwnerAlone)
                .with_context(|| format!("could not write {}", path.display()))?;
        }
        let (key, certificate) = load(&path)?;
        let (earlier, bridges) = (certificates(&folder.join(EARLIER))?, certificates(&folder.join(BRIDGES))?);
        Ok(Self { issuer: Issuer::new(named_like(&certificate)?, key), certificate, earlier, bridges })
    }

    /// Makes a new CA whose key the present one signs. Devices that know the old one find to the new one by that.
    pub fn rotate(folder: &Path, fleet: &FleetId) -> anyhow::Result<()> {
        let old = Self::open(folder, fleet, true)?;
        let key = new_key()?;
        let params = ca_params(&key, fleet);
        let bridge = params.signed_by(&key, &old.issuer)?.pem();
        let certificate = params.self_signed(&key)?.pem();
        let write = |name: &str, text: String, access| {
            let path = folder.join(name);
            disk::replace(&path, text.as_bytes(), access).with_context(|| format!("could not write {}", path.display()))
        };
        // Whatever is on disk when the power fails, the present CA is whole; a bridge without its CA is of no use and no harm.
        write(BRIDGES, pem_of(&old.bridges) + &bridge, Access::Everyone)?;
        write(EARLIER, pem_of(&old.earlier) + &pem_of(std::slice::from_ref(&old.certificate)), Access::Everyone)?;
        write(AUTHORITY, pair(&key, &certificate), Access::OwnerAlone)
    }

    pub fn pin(&self) -> Digest {
        Digest::of(&self.issuer.key().subject_public_key_info())
    }

    /// The present CA and those before it.
    pub fn trusted(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.certificate).chain(&self.earlier)
    }

    /// For devices: whom to trust, and why. The ones before the present CA are for the server alone.
    pub fn published(&self) -> (String, String) {
        (pem_of(std::slice::from_ref(&self.certificate)), pem_of(&self.bridges))
    }

    /// All CAs whose certificates are good, PEM; for a broker that reads files.
    pub fn trusted_pem(&self) -> String {
        self.trusted().map(|der| pem_of(std::slice::from_ref(der))).collect()
    }

    pub fn chain_pem(&self) -> String {
        self.chain().map(|der| pem_of(std::slice::from_ref(der))).collect()
    }

    /// What follows the server's certificate in a handshake: the way to every CA that a device may know, and the present CA, by whose key
    /// a device that enrols knows its server.
    pub fn chain(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.bridges.iter().chain(std::iter::once(&self.certificate))
    }

    pub fn issue_with_key(&self, role: &Role<'_>, now: Wall, lifetime: Duration) -> anyhow::Result<(Issued, KeyPair)> {
        let key = new_key()?;
        Ok((self.issue(&key, role, now, lifetime)?, key))
    }

    pub fn issue(&self, key: &impl PublicKeyData, role: &Role<'_>, now: Wall, lifetime: Duration) -> anyhow::Result<Issued> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let usage = match role {
            Role::Device { device, fleet } => {
                name(&mut params, device.as_str(), fleet);
                ExtendedKeyUsagePurpose::ClientAuth
            }
            Role::Client { name: common_name, fleet } => {
                name(&mut params, common_name, fleet);
                ExtendedKeyUsagePurpose::ClientAuth
            }
            Role::Server { names } => {
                params.distinguished_name.push(DnType::CommonName, "wayside server");
                params.subject_alt_names = alternative_names(names)?;
                ExtendedKeyUsagePurpose::ServerAuth
            }
        };
        let serial = random_serial()?;
        let expires = now.plus(lifetime);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = date(now.minus(BACKDATED.min(lifetime / 100)))?;
        params.not_after = date(expires)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Issued { pem: certificate.pem(), der: certificate.der().clone(), serial: hex::encode(serial), expires })
    }

    /// The list of revoked certificates for a broker that reads files, PEM. It names what this CA revoked, not what those before it did.
    pub fn revocation_list(&self, revoked: &[(String, Wall)], now: Wall, lifetime: Duration) -> anyhow::Result<String> {
        let mut entries = Vec::new();
        for (serial, at) in revoked {
            let serial_number = SerialNumber::from_slice(&hex::decode(serial).ok().context("a serial number that was stored")?);
            entries.push(RevokedCertParams { serial_number, revocation_time: date(*at)?, reason_code: None, invalidity_date: None });
        }
        let list = CertificateRevocationListParams {
            this_update: date(now.minus(BACKDATED))?,
            next_update: date(now.plus(lifetime))?,
            crl_number: SerialNumber::from(now.0.unsigned_abs()),
            issuing_distribution_point: None,
            revoked_certs: entries,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

fn new_key() -> anyhow::Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("the system gave no random bytes")
}

/// Positive, and with a first byte that DER neither drops nor pads.
fn random_serial() -> anyhow::Result<[u8; 16]> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|e| anyhow::anyhow!("no random bytes for a serial number: {e}"))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn name(params: &mut CertificateParams, common_name: &str, fleet: &FleetId) {
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, fleet.as_str());
}

/// Named after its key, so that two CAs never have one name. It does not expire: it is rotated.
fn ca_params(key: &KeyPair, fleet: &FleetId) -> CertificateParams {
    let id = hex::encode(&Digest::of(&key.subject_public_key_info()).0[..8]);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    name(&mut params, &format!("Wayside CA {id}"), fleet);
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2125, 1, 1));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The issuer's name as it stands in the certificate, which may have been made by another version.
fn named_like(certificate: &CertificateDer<'_>) -> anyhow::Result<CertificateParams> {
    let (_, parsed) = parse_x509_certificate(certificate).context("the CA's certificate")?;
    let only = |mut values: Box<dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>> + '_>| {
        values.next().and_then(|value| value.as_str().ok()).map(str::to_owned)
    };
    let (Some(common_name), Some(organization)) =
        (only(Box::new(parsed.subject().iter_common_name())), only(Box::new(parsed.subject().iter_organization())))
    else {
        bail!("the CA's certificate has no readable subject");
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn alternative_names(names: &[String]) -> anyhow::Result<Vec<SanType>> {
    let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let name = |name: &String| match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.as_str().try_into().with_context(|| format!("[pki] names: {name:?} is no host name"))?)),
    };
    names.iter().filter(|name| !own.contains(name)).chain(&own).map(name).collect()
}

fn date(at: Wall) -> anyhow::Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1000)).context("a date beyond the year 9999; is this server's clock right?")
}

fn pair(key: &KeyPair, certificate: &str) -> String {
    key.serialize_pem() + certificate
}

fn load(path: &Path) -> anyhow::Result<(KeyPair, CertificateDer<'static>)> {
    let hint = || format!("{} is damaged: bring it back from a backup; a new CA would lock every device out", path.display());
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let (key, certificate) = text.find("-----BEGIN CERTIFICATE").map(|at| text.split_at(at)).with_context(hint)?;
    let key = KeyPair::from_pem(key).with_context(hint)?;
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| anyhow::anyhow!(hint()))?;
    let (_, parsed) = parse_x509_certificate(&certificate).with_context(hint)?;
    ensure!(parsed.public_key().raw == key.subject_public_key_info(), "{}: its certificate is not its key's", hint());
    Ok((key, certificate))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|e| anyhow::anyhow!("{} is damaged: {e}; bring it back from a backup", path.display()))?;
    ensure!(!read.is_empty(), "{} is damaged: no certificate is in it; bring it back from a backup", path.display());
    Ok(read)
}

fn pem_of(certificates: &[CertificateDer<'_>]) -> String {
    let line = |der: &CertificateDer<'_>| {
        let text = base64(der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    certificates.iter().map(line).collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}

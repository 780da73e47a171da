//! How a device gets its certificate: the token that a person carries to it, and what travels over `/v1/enroll` and `/v1/renew`.
//!
//! Invariant: a token names the server's CA by the hash of its key, so a device that holds one can tell its server from every other
//! before it trusts anything; its secret is shown by `Display` alone, never by `Debug`. Not here: certificates, TLS, HTTP.

use alloc::{string::String, vec::Vec};
use core::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    id::{DeviceClass, DeviceId, Digest, FleetId},
    trust::role::Key,
};

/// Of a request's body.
pub const MAX_REQUEST: usize = 32 * 1024;
/// Of an answer; a root document is the most of it.
pub const MAX_ANSWER: usize = 512 * 1024;

const SECRET: usize = 32;

/// Good for one enrolment of one device: a secret, and whom the device may tell it.
///
/// ```
/// use wayside_common::{enrolment::Token, id::Digest};
/// let token = Token::new([7; 32], Digest::of(b"the CA's public key"));
/// let text = token.to_string();
/// assert_eq!(text.parse::<Token>().unwrap(), token);
/// assert!(!format!("{token:?}").contains(&text[..20]));
/// assert!("c2hvcnQ".parse::<Token>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: [u8; SECRET],
    pin: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a token; copy the whole line that `wayside device add` printed")]
pub struct TokenError;

impl Token {
    pub fn new(secret: [u8; SECRET], pin: Digest) -> Self {
        Self { secret, pin }
    }

    /// What the server remembers of it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.secret)
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the server's CA.
    pub fn pin(&self) -> Digest {
        self.pin
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(…, pin {})", self.pin)
    }
}
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode([self.secret, self.pin.0].concat()))
    }
}
impl FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut bytes = [0; 2 * SECRET];
        match BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(length) if length == bytes.len() => {}
            _ => return Err(TokenError),
        }
        let (mut secret, mut pin) = ([0; SECRET], [0; SECRET]);
        secret.copy_from_slice(&bytes[..SECRET]);
        pin.copy_from_slice(&bytes[SECRET..]);
        Ok(Self { secret, pin: Digest(pin) })
    }
}
impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Body of `POST /v1/enroll`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    pub token: Token,
    /// PKCS #10, PEM. Of it the server takes the public key and nothing else.
    pub csr: String,
    /// For the signed time in the answer.
    pub nonce: u64,
}

/// Body of `POST /v1/renew`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    pub csr: String,
    /// The certificate until now, PEM. It may have expired.
    pub certificate: String,
    /// Of [`renewal`], with that certificate's key, in hex.
    pub signature: String,
    pub nonce: u64,
}

/// What the old key signs, to prove that the device that renews is the one that was enrolled.
pub fn renewal(csr: &str, nonce: u64) -> Vec<u8> {
    let mut text = Vec::from(&b"wayside renewal 1\0"[..]);
    text.extend(nonce.to_be_bytes());
    text.extend(csr.as_bytes());
    text
}

/// The answer to both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    pub device: DeviceId,
    pub fleet: FleetId,
    pub class: DeviceClass,
    /// The device's certificate, PEM.
    pub certificate: String,
    /// The CAs that the device trusts from now on, PEM.
    pub authorities: String,
    /// Their keys as signed by earlier CAs of this server, PEM: how a device that knows an earlier one comes to trust the present one.
    pub bridges: String,
    /// `mqtts://HOST:PORT`, or `mqtt://HOST:PORT` on loopback.
    pub broker: String,
    /// The TUF root document.
    pub root: String,
    pub timestamp_key: Key,
    /// The time, signed with that key, with the request's nonce.
    pub time: String,
}

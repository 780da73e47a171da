//! What was issued to whom: tokens, certificates, revocations.
//!
//! Invariant: one method is one transaction; a token is redeemed once; a certificate that was revoked stays so. A token's secret is not
//! here, only its digest. Not here: SQL, certificates themselves.

use async_trait::async_trait;
use wayside_common::{
    id::{DeviceClass, DeviceId, Digest},
    time::Wall,
};

/// Lets one device of one class enrol once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub digest: Digest,
    pub device: DeviceId,
    pub class: DeviceClass,
    pub expires: Wall,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// In hex.
    pub serial: String,
    pub device: DeviceId,
    pub class: DeviceClass,
    pub issued: Wall,
    pub expires: Wall,
}

/// What became of a token, or of the certificate that was to be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granting {
    Done,
    Unknown,
    /// The token has been used, or the certificate is revoked.
    Barred,
    Expired,
}

#[async_trait]
pub trait Identity: Send + Sync {
    async fn keep_token(&self, token: Token, now: Wall) -> anyhow::Result<()>;
    /// Whom a token is for, whatever became of it.
    async fn token(&self, digest: Digest) -> anyhow::Result<Option<Token>>;
    /// Uses the token up and notes the certificate, or neither.
    async fn redeem(&self, token: Digest, certificate: Certificate) -> anyhow::Result<Granting>;
    /// The class of the device that the certificate was issued to; `None`: it was not issued here.
    async fn class_of(&self, serial: &str) -> anyhow::Result<Option<DeviceClass>>;
    /// Notes the certificate that follows the one with this serial number, which must be its device's and not revoked.
    async fn renew(&self, serial: &str, certificate: Certificate) -> anyhow::Result<Granting>;
    /// Revokes every certificate and every open token of the device; gives the serial numbers.
    async fn revoke(&self, device: &DeviceId, now: Wall) -> anyhow::Result<Vec<String>>;
    /// Serial numbers, and since when they are revoked.
    async fn revoked(&self) -> anyhow::Result<Vec<(String, Wall)>>;
    async fn has_issued(&self) -> anyhow::Result<bool>;
}

//! The broker as the server sees it: what comes from devices goes to an `Ingest`, what goes to devices leaves by a `Downlink`.
//!
//! Invariant: a QoS 1 publish of a device is acknowledged only after `Ingest::take` said `Committed` (or `Refused`, when sending it
//! again cannot help). Not here: what the bytes mean (`ingest`), who a device is (`acl`), any MQTT library (`embedded`, `external`).

pub mod acl;
pub mod embedded;
pub mod external;
pub mod mosquitto;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use async_trait::async_trait;
use rustls::{ClientConfig, ServerConfig};
use serde::{Deserialize, Deserializer, de};
use wayside_common::{
    id::{DeviceId, FleetId},
    topic::{Down, Up},
    wire::{MAX_PACKET, ToDevice},
};
use x509_parser::{certificate::X509Certificate, x509::AttributeTypeAndValue};

/// What ingest says of a publish.
#[derive(Debug)]
pub enum Taken {
    /// It is durable; the PUBACK and then the replies follow.
    Committed(Vec<Reply>),
    /// Sending it again cannot help: success for the transport, the reason is logged.
    Refused(String),
    /// No PUBACK: the device sends it again.
    Unavailable(String),
}

/// Published to the device whose publish was taken, after the commit.
#[derive(Debug)]
pub struct Reply {
    pub down: Down,
    pub packet: ToDevice,
}

/// Takes what devices publish. Each adapter calls `take` in the order of one device's publishes, never twice at once for one device.
#[async_trait]
pub trait Ingest: Send + Sync {
    async fn take(&self, device: &DeviceId, up: Up, bytes: &[u8]) -> Taken;
    async fn connected(&self, device: &DeviceId);
    async fn disconnected(&self, device: &DeviceId);
}

/// Reaches devices. A device that is offline gets what fits into its session's bounded queue; nothing here is the only copy.
#[async_trait]
pub trait Downlink: Send + Sync {
    /// QoS 1. `bytes` is an encoded `ToDevice`; with `retain` it also waits for a device without a session.
    async fn send(&self, device: &DeviceId, down: Down, bytes: Vec<u8>, retain: bool) -> anyhow::Result<()>;
    /// Ends the device's connection and session. A device that may still come back does so at once.
    async fn kick(&self, device: &DeviceId) -> anyhow::Result<()>;
}

/// How long a publish waits for its device. The server can make each of them again.
fn lifetime(down: Down) -> Duration {
    Duration::from_secs(match down {
        Down::Ack | Down::Blob | Down::Cmd => 300,
        Down::Trust => 24 * 3600,
        Down::Desired => 7 * 24 * 3600,
    })
}

/// What the MQTT header, topic and properties of a publish may need of a packet.
const HEAD: usize = 512;

/// A packet that is too large would end the device's connection, again and again.
fn check_length(device: &DeviceId, bytes: &[u8]) -> anyhow::Result<()> {
    anyhow::ensure!(bytes.len() + HEAD <= MAX_PACKET, "{} bytes for {device} do not fit into a packet", bytes.len());
    Ok(())
}

/// `[broker]` of the server's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Config {
    /// The broker runs inside this process.
    Embedded {
        /// Port 0: the system chooses.
        listen: SocketAddr,
        /// Absent: none on a loopback address, and this server's own CA on any other.
        tls: Option<Tls>,
    },
    /// Any MQTT 5 broker, Mosquitto for example.
    External {
        /// `mqtt://HOST:PORT` or `mqtts://HOST:PORT`.
        url: String,
        /// The server's own client certificate, and the CA of the broker; needed for `mqtts`.
        tls: Option<Tls>,
    },
}

/// Whose certificates a broker knows: `"own"`, this server's CA, or those of the files.
#[derive(Clone, Debug)]
pub enum Tls {
    Own,
    Files(TlsFiles),
}

impl<'de> Deserialize<'de> for Tls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Tls;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"own\", or a table with ca, cert and key")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Tls, E> {
                if text == "own" { Ok(Tls::Own) } else { Err(E::invalid_value(de::Unexpected::Str(text), &self)) }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Tls, A::Error> {
                TlsFiles::deserialize(de::value::MapAccessDeserializer::new(map)).map(Tls::Files)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// This server's own CA, as a broker needs it.
#[derive(Clone)]
pub struct Own {
    /// For devices that connect here: TLS 1.3 with a client certificate of the CA.
    pub listener: Arc<ServerConfig>,
    /// For this server as a client of an external broker.
    pub client: Arc<ClientConfig>,
    pub revoked: Arc<dyn Revoked>,
}

/// Asked at every connection, so that a revocation needs no restart.
pub trait Revoked: Send + Sync {
    /// `serial` in hex.
    fn is_revoked(&self, serial: &str) -> bool;
}

/// PEM files of one end of a mutually authenticated connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The CA that signed the other end.
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A broker that takes part: the embedded one, or the connection to an external one.
pub enum Broker {
    Embedded(embedded::Embedded),
    External(external::External),
}

/// Starts the broker; from here on `ingest` is called. `own` is needed where the configuration wants this server's CA.
pub async fn start(config: Config, own: Option<Own>, fleet: FleetId, ingest: Arc<dyn Ingest>) -> anyhow::Result<Broker> {
    match config {
        Config::Embedded { listen, tls } => {
            let security = match tls {
                Some(Tls::Files(files)) => embedded::Security::Files(files),
                Some(Tls::Own) => embedded::Security::Own(own.context("this server has no CA of its own")?),
                None if listen.ip().is_loopback() => embedded::Security::Loopback,
                None => embedded::Security::Own(
                    own.with_context(|| format!("plain MQTT on {listen}: without TLS only a loopback address can be listened on"))?,
                ),
            };
            Ok(Broker::Embedded(embedded::start(listen, security, fleet, ingest).await?))
        }
        Config::External { url, tls } => {
            let client = match tls {
                Some(Tls::Files(files)) => Some(Arc::new(external::configuration(&files)?)),
                Some(Tls::Own) => Some(own.context("this server has no CA of its own")?.client),
                None => None,
            };
            Ok(Broker::External(external::start(&url, client, fleet, ingest).await?))
        }
    }
}

/// The fields of a certificate that name a device, and the one that names the certificate. A field that comes twice counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub common_name: Option<String>,
    pub organization: Option<String>,
    /// In hex.
    pub serial: String,
}

pub fn subject(certificate: &X509Certificate<'_>) -> Subject {
    let name = certificate.subject();
    Subject {
        common_name: only(name.iter_common_name()),
        organization: only(name.iter_organization()),
        serial: hex::encode(certificate.tbs_certificate.raw_serial()),
    }
}

fn only<'a>(mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Option<String> {
    match (values.next(), values.next()) {
        (Some(value), None) => value.as_str().ok().map(str::to_owned),
        _ => None,
    }
}

impl Broker {
    pub fn downlink(&self) -> Arc<dyn Downlink> {
        match self {
            Self::Embedded(embedded) => embedded.downlink(),
            Self::External(external) => external.downlink(),
        }
    }

    /// Where devices connect; only the embedded broker knows.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Embedded(embedded) => Some(embedded.address()),
            Self::External(_) => None,
        }
    }

    /// Like `Downlink::send`, for what is worthless after `lifetime`, which is rounded to whole seconds.
    pub async fn send_for(&self, device: &DeviceId, down: Down, bytes: Vec<u8>, lifetime: Duration) -> anyhow::Result<()> {
        match self {
            Self::Embedded(embedded) => embedded.send_for(device, down, bytes, lifetime).await,
            Self::External(external) => external.send_for(device, down, bytes, lifetime).await,
        }
    }

    /// Bars the device's way by its name and ends its connection. Forgotten when the process ends; with this server's own CA the
    /// revoked serial numbers do it instead, and a kick.
    pub async fn revoke(&self, device: &DeviceId) -> anyhow::Result<()> {
        match self {
            Self::Embedded(embedded) => embedded.revoke(device).await,
            Self::External(_) => anyhow::bail!("an external broker refuses {device} when its own revocation list says so"),
        }
    }

    /// Takes nothing more, and returns when what was being taken is done.
    pub async fn stop(self) {
        match self {
            Self::Embedded(embedded) => embedded.stop().await,
            Self::External(external) => external.stop().await,
        }
    }
}

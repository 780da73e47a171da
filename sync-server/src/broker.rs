//! The broker as the server sees it: what comes from devices goes to an `Ingest`, what goes to devices leaves by a `Downlink`.
//!
//! Invariant: a QoS 1 publish of a device is acknowledged only after `Ingest::take` said `Committed` (or `Refused`, when sending it
//! again cannot help). Not here: what the bytes mean (`ingest`), who a device is (`acl`), any MQTT library (`embedded`, `external`).

pub mod acl;
pub mod embedded;
pub mod external;
pub mod mosquitto;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use wayside_common::{
    id::{DeviceId, FleetId},
    topic::{Down, Up},
    wire::{MAX_PACKET, ToDevice},
};

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
        /// Without `tls` this must be a loopback address. Port 0: the system chooses.
        listen: SocketAddr,
        tls: Option<TlsFiles>,
    },
    /// Any MQTT 5 broker, Mosquitto for example.
    External {
        /// `mqtt://HOST:PORT` or `mqtts://HOST:PORT`.
        url: String,
        /// The server's own client certificate, and the CA of the broker; needed for `mqtts`.
        tls: Option<TlsFiles>,
    },
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

/// Starts the broker; from here on `ingest` is called.
pub async fn start(config: Config, fleet: FleetId, ingest: Arc<dyn Ingest>) -> anyhow::Result<Broker> {
    match config {
        Config::Embedded { listen, tls } => Ok(Broker::Embedded(embedded::start(listen, tls, fleet, ingest).await?)),
        Config::External { url, tls } => Ok(Broker::External(external::start(&url, tls, fleet, ingest).await?)),
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

    /// Bars the device's way and ends its connection. Forgotten when the process ends.
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

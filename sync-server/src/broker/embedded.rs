//! The embedded broker: rmqtt as a library in this process, and everything about it that is ours to bound.
//!
//! Invariant: no device reaches rmqtt but through a listener opened here, and rmqtt's hooks (`hooks`) judge every CONNECT, PUBLISH
//! and SUBSCRIBE; packet size, in-flight window, queue, sessions and their lifetime have limits. Not here: the judgement
//! (`acl`), TLS (`front`: rmqtt's own listener cannot refuse TLS 1.2), retained publishes (`retain`).

mod front;
mod hooks;
mod retain;

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use rmqtt::{
    codec::v5::PublishProperties,
    context::ServerContext,
    net::{Builder, Listener},
    server::MqttServer,
    session::SessionState,
    types::{CodecPublish, From, Id, Publish, QoS},
    utils::timestamp_millis,
};
use tokio::task::JoinHandle;
use wayside_common::{
    id::{DeviceId, FleetId},
    topic::{Down, Topic},
    wire::MAX_PACKET,
};

use super::{Downlink, Ingest, Own, TlsFiles, check_length, lifetime};
use hooks::Gate;

/// Sessions that may exist, connected or not.
const MAX_SESSIONS: isize = 10_000;
const MAX_CONNECTIONS: usize = 10_000;
/// Handshakes that may be under way at once; a fleet that comes back together waits here.
const MAX_HANDSHAKES: usize = 200;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Unacknowledged publishes, in each direction and per device.
const MAX_INFLIGHT: NonZeroU16 = NonZeroU16::new(16).expect("16 is not 0");
/// Publishes that wait for one device, connected or not; the oldest is dropped first.
const MAX_QUEUE: usize = 64;
const MAX_SUBSCRIPTIONS: usize = 8;
/// A device that stays away longer starts without a session.
const MAX_SESSION_EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// How long a stop waits for publishes that are being taken.
const DRAIN: Duration = Duration::from_secs(5);

pub struct Embedded {
    address: SocketAddr,
    /// Where rmqtt itself listens.
    #[cfg(test)]
    inner: SocketAddr,
    context: ServerContext,
    gate: Arc<Gate>,
    in_process: Arc<InProcess>,
    /// Accepting ends when these are aborted; connections are their own tasks.
    accepting: Vec<JoinHandle<()>>,
}

/// Publishes from inside the process; no ACL runs for it.
#[derive(Clone)]
struct InProcess {
    context: ServerContext,
    fleet: FleetId,
}

/// How a device is known.
pub enum Security {
    /// By what it says: whoever can connect to a loopback address is the operator.
    Loopback,
    /// By a certificate of the CA in the files.
    Files(TlsFiles),
    /// By a certificate of this server's own CA.
    Own(Own),
}

pub async fn start(listen: SocketAddr, security: Security, fleet: FleetId, ingest: Arc<dyn Ingest>) -> anyhow::Result<Embedded> {
    let plain = matches!(security, Security::Loopback);
    ensure!(!plain || listen.ip().is_loopback(), "plain MQTT on {listen}: without TLS only a loopback address can be listened on");
    // The check for a busy host would refuse devices because of other programs' load.
    let context =
        ServerContext::new().node_id(1).busy_check_enable(false).mqtt_max_sessions(MAX_SESSIONS).task_exec_workers(64).build().await;
    *context.extends.retain_mut().await = Box::new(retain::Bounded::default());
    let in_process = Arc::new(InProcess { context: context.clone(), fleet: fleet.clone() });
    let (tls, revoked) = match security {
        Security::Loopback => (None, None),
        Security::Files(files) => (Some(Arc::new(front::configuration(&files)?)), None),
        Security::Own(own) => (Some(own.listener), Some(own.revoked)),
    };
    let (listener, front) = match tls {
        None => (limits(Builder::new()).laddr(listen).bind()?.tcp()?, None),
        Some(tls) => {
            let inner = limits(Builder::new()).laddr((Ipv4Addr::LOCALHOST, 0).into()).bind()?.tcp()?;
            let front = front::bind(listen, tls, inner.local_addr()?).await?;
            (inner, Some(front))
        }
    };
    let gate = Arc::new(Gate::new(fleet, ingest, in_process.clone(), front.as_ref().map(front::Front::subjects), revoked));
    hooks::register(&context, &gate).await;

    let inner = listener.local_addr()?;
    let mut address = inner;
    let mut accepting = vec![accept(context.clone(), listener)];
    if let Some(front) = front {
        address = front.address();
        accepting.push(tokio::spawn(front.run()));
    }
    Ok(Embedded {
        address,
        #[cfg(test)]
        inner,
        context,
        gate,
        in_process,
        accepting,
    })
}

fn accept(context: ServerContext, listener: Listener) -> JoinHandle<()> {
    let server = MqttServer::new(context).listener_by_id(listener, 1).build();
    // Not `start()`: that ends the process when it fails.
    tokio::spawn(async move {
        if let Err(error) = server.run().await {
            tracing::error!(%error, "the embedded broker has ended");
        }
    })
}

/// The limits of every listener. Anonymous clients are not allowed so that the authentication hook always runs.
fn limits(builder: Builder) -> Builder {
    builder
        .name("devices")
        .nodelay(true)
        .reuseaddr(Some(true))
        .allow_anonymous(false)
        .max_connections(MAX_CONNECTIONS)
        .max_handshaking_limit(MAX_HANDSHAKES)
        .handshake_timeout(HANDSHAKE)
        .max_packet_size(u32::try_from(MAX_PACKET).expect("the packet limit is below 4 GiB"))
        .max_inflight(MAX_INFLIGHT)
        .max_mqueue_len(MAX_QUEUE)
        .max_clientid_len(64)
        .max_qos_allowed(QoS::AtLeastOnce)
        .max_topic_levels(8)
        .max_topic_aliases(0)
        .max_subscriptions(MAX_SUBSCRIPTIONS)
        .min_keepalive(5)
        .max_keepalive(120)
        .allow_zero_keepalive(false)
        .max_session_expiry_interval(MAX_SESSION_EXPIRY)
        // A publish is sent again when the device reconnects, as MQTT 5 wants it, never on a timer.
        .message_retry_interval(Duration::ZERO)
}

impl Embedded {
    pub fn downlink(&self) -> Arc<dyn Downlink> {
        self.in_process.clone()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn send_for(&self, device: &DeviceId, down: Down, bytes: Vec<u8>, lifetime: Duration) -> anyhow::Result<()> {
        self.in_process.publish(device, down, bytes, false, lifetime).await
    }

    /// Bars the door for this device, then throws it out.
    pub async fn revoke(&self, device: &DeviceId) -> anyhow::Result<()> {
        self.gate.revoke(device);
        self.in_process.kick(device).await
    }

    pub async fn stop(self) {
        self.gate.close();
        for task in &self.accepting {
            task.abort();
        }
        let ids: Vec<Id> = self.context.extends.shared().await.iter().map(|entry| entry.id()).collect();
        let gone = async {
            self.gate.drained().await;
            futures_util::future::join_all(ids.into_iter().map(|id| end_session(&self.context, id))).await;
        };
        if tokio::time::timeout(DRAIN, gone).await.is_err() {
            tracing::warn!("the embedded broker stopped with publishes still being taken");
        }
    }
}

async fn end_session(context: &ServerContext, id: Id) -> anyhow::Result<()> {
    let entry = context.extends.shared().await.entry(id);
    entry.try_lock().await?.kick(true, true, true).await?;
    Ok(())
}

#[async_trait]
impl Downlink for InProcess {
    async fn send(&self, device: &DeviceId, down: Down, bytes: Vec<u8>, retain: bool) -> anyhow::Result<()> {
        self.publish(device, down, bytes, retain, lifetime(down)).await
    }

    async fn kick(&self, device: &DeviceId) -> anyhow::Result<()> {
        let id = Id::from(self.context.node.id(), device.to_string().into());
        end_session(&self.context, id).await
    }
}

impl InProcess {
    async fn publish(&self, device: &DeviceId, down: Down, bytes: Vec<u8>, retain: bool, lifetime: Duration) -> anyhow::Result<()> {
        check_length(device, &bytes)?;
        let topic = Topic::Down(self.fleet.clone(), device.clone(), down).to_string();
        let seconds = u32::try_from(lifetime.as_secs()).ok().and_then(NonZeroU32::new);
        let packet = CodecPublish {
            dup: false,
            retain,
            qos: QoS::AtLeastOnce,
            topic: topic.into(),
            packet_id: None,
            payload: bytes.into(),
            properties: Some(PublishProperties { message_expiry_interval: seconds, ..Default::default() }),
        };
        // Without a creation time it would never expire.
        let publish = Publish::from(packet).create_time(timestamp_millis());
        let from = From::from_system(Id::from(self.context.node.id(), "server".into()));
        SessionState::forwards(&self.context, from, publish, false, Some(lifetime)).await.context("publishing to a device")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rumqttc::v5::mqttbytes::v5::{Connect, ConnectReturnCode, Packet};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use wayside_common::topic::Up;

    use super::*;
    use crate::broker::Taken;

    struct Nobody;

    #[async_trait]
    impl Ingest for Nobody {
        async fn take(&self, _: &DeviceId, _: Up, _: &[u8]) -> Taken {
            Taken::Committed(Vec::new())
        }
        async fn connected(&self, _: &DeviceId) {}
        async fn disconnected(&self, _: &DeviceId) {}
    }

    /// A server certificate, valid for anything; the CA is itself.
    fn files(folder: &Path) -> TlsFiles {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let files = TlsFiles { ca: folder.join("cert.pem"), cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        std::fs::write(&files.cert, certified.cert.pem()).unwrap();
        std::fs::write(&files.key, certified.signing_key.serialize_pem()).unwrap();
        files
    }

    #[tokio::test]
    async fn behind_the_tls_front_a_local_program_has_no_identity() {
        let folder = crate::scratch::Scratch::new();
        let fleet: FleetId = "plant".parse().unwrap();
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let embedded = start(listen, Security::Files(files(folder.path())), fleet, Arc::new(Nobody)).await.unwrap();
        assert_ne!(embedded.inner, embedded.address());
        let mut program = tokio::net::TcpStream::connect(embedded.inner).await.unwrap();
        let connect = Connect { keep_alive: 30, client_id: "cam-1".into(), clean_start: true, properties: None };
        let mut bytes = Default::default();
        Packet::Connect(connect, None, None).write(&mut bytes, None).unwrap();
        program.write_all(&bytes).await.unwrap();
        bytes.clear();
        while Packet::read(&mut bytes.clone(), None).is_err() {
            assert_ne!(program.read_buf(&mut bytes).await.unwrap(), 0, "the broker says why");
        }
        let Ok(Packet::ConnAck(ack)) = Packet::read(&mut bytes, None) else { panic!("not a CONNACK") };
        assert_eq!(ack.code, ConnectReturnCode::NotAuthorized);
        embedded.stop().await;
    }
}

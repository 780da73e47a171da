//! A device as bytes: TLS, and one MQTT 5 packet after the other, so that it can also do what a well-behaved client cannot.
//!
//! Invariant: every wait has a deadline, and the end of the connection is told apart from silence. Not here: expectations.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::{
    Error, QoS,
    v5::{
        Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Filter, LastWill, Login, Packet, PingReq, PubAck,
        PubAckReason, Publish, Subscribe, SubscribeReasonCode,
    },
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::pki::Identity;

pub const DEADLINE: Duration = Duration::from_secs(20);

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// How a device reaches the broker.
#[derive(Clone)]
pub struct Way {
    pub address: SocketAddr,
    /// The CA whose brokers are believed, and the certificate that is shown; plain MQTT without.
    pub tls: Option<(String, Option<Identity>, &'static SupportedProtocolVersion)>,
}

/// What CONNECT says.
#[derive(Clone)]
pub struct Greeting {
    pub client_id: String,
    pub clean_start: bool,
    pub session_expiry: u32,
    pub will: Option<LastWill>,
    pub user: Option<String>,
}

impl Greeting {
    pub fn new(client_id: &str) -> Self {
        Self { client_id: client_id.into(), clean_start: true, session_expiry: 0, will: None, user: None }
    }

    /// A session that outlives the connection.
    pub fn lasting(client_id: &str) -> Self {
        Self { clean_start: false, session_expiry: 3600, ..Self::new(client_id) }
    }
}

/// Where a connection was refused.
#[derive(Debug, PartialEq)]
pub enum Refused {
    Tls,
    Code(ConnectReturnCode),
    Closed,
}

pub struct Device {
    io: Box<dyn Io>,
    read: BytesMut,
    /// Publishes that came while something else was waited for.
    came: VecDeque<Publish>,
    next: u16,
    pub session_present: bool,
}

impl Device {
    pub async fn connect(way: &Way, greeting: Greeting) -> Result<Self, Refused> {
        let tcp = TcpStream::connect(way.address).await.map_err(|_| Refused::Closed)?;
        tcp.set_nodelay(true).map_err(|_| Refused::Closed)?;
        let io: Box<dyn Io> = match &way.tls {
            None => Box::new(tcp),
            Some((ca, identity, version)) => {
                let connector = TlsConnector::from(Arc::new(configuration(ca, identity.as_ref(), version)));
                let name = ServerName::IpAddress(way.address.ip().into());
                Box::new(timeout(DEADLINE, connector.connect(name, tcp)).await.unwrap().map_err(|_| Refused::Tls)?)
            }
        };
        let mut device = Self { io, read: BytesMut::new(), came: VecDeque::new(), next: 0, session_present: false };
        let properties = ConnectProperties { session_expiry_interval: Some(greeting.session_expiry), ..ConnectProperties::new() };
        let connect =
            Connect { keep_alive: 30, client_id: greeting.client_id, clean_start: greeting.clean_start, properties: Some(properties) };
        let login = greeting.user.map(|user| Login::new(user, ""));
        if device.write(&Packet::Connect(connect, greeting.will, login)).await.is_err() {
            return Err(Refused::Closed);
        }
        match device.packet().await {
            Some(Packet::ConnAck(ack)) if ack.code == ConnectReturnCode::Success => {
                device.session_present = ack.session_present;
                Ok(device)
            }
            Some(Packet::ConnAck(ack)) => Err(Refused::Code(ack.code)),
            _ => Err(Refused::Closed),
        }
    }

    pub async fn write(&mut self, packet: &Packet) -> std::io::Result<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).expect("the packet can be encoded");
        self.io.write_all(&bytes).await?;
        self.io.flush().await
    }

    /// The next packet, or `None` when the connection has ended.
    async fn packet(&mut self) -> Option<Packet> {
        timeout(DEADLINE, self.any_packet()).await.expect("the broker answers before the deadline")
    }

    async fn any_packet(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.read, None) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => {}
                // A DISCONNECT without a reason; the codec wants one.
                Err(_) => return None,
            }
            if !matches!(self.io.read_buf(&mut self.read).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// QoS 1. The broker's answer, or `None` when it ended the connection.
    pub async fn publish(&mut self, publish: Publish) -> Option<PubAckReason> {
        let id = self.send(publish).await?;
        self.acknowledged(id).await
    }

    /// A QoS 1 publish on its way; its packet id.
    pub async fn send(&mut self, mut publish: Publish) -> Option<u16> {
        self.next += 1;
        publish.pkid = self.next;
        publish.qos = QoS::AtLeastOnce;
        self.write(&Packet::Publish(publish)).await.ok()?;
        Some(self.next)
    }

    pub async fn acknowledged(&mut self, id: u16) -> Option<PubAckReason> {
        loop {
            match self.packet().await? {
                Packet::PubAck(ack) => {
                    assert_eq!(ack.pkid, id);
                    return Some(ack.reason);
                }
                Packet::Publish(publish) => self.keep(publish).await,
                Packet::Disconnect(_) => return None,
                other => panic!("not an answer to a publish: {other:?}"),
            }
        }
    }

    /// The broker's answer, or `None` when it ended the connection.
    pub async fn subscribe(&mut self, filter: &str, qos: QoS) -> Option<SubscribeReasonCode> {
        self.next += 1;
        let mut subscribe = Subscribe::new(Filter::new(filter, qos), None);
        subscribe.pkid = self.next;
        self.write(&Packet::Subscribe(subscribe)).await.ok()?;
        loop {
            match self.packet().await? {
                Packet::SubAck(ack) => return ack.return_codes.first().copied(),
                Packet::Publish(publish) => self.keep(publish).await,
                Packet::Disconnect(_) => return None,
                other => panic!("not an answer to a subscription: {other:?}"),
            }
        }
    }

    async fn keep(&mut self, publish: Publish) {
        if publish.qos == QoS::AtLeastOnce {
            let _ = self.write(&Packet::PubAck(PubAck::new(publish.pkid, None))).await;
        }
        self.came.push_back(publish);
    }

    /// The next publish, acknowledged; `None` when the connection has ended.
    pub async fn receive(&mut self) -> Option<Publish> {
        loop {
            if let Some(publish) = self.came.pop_front() {
                return Some(publish);
            }
            match self.packet().await? {
                Packet::Publish(publish) => self.keep(publish).await,
                Packet::Disconnect(_) => return None,
                _ => {}
            }
        }
    }

    /// Everything up to and including the publish with this payload.
    pub async fn receive_until(&mut self, payload: &[u8]) -> Vec<Publish> {
        let mut all = Vec::new();
        loop {
            all.push(self.receive().await.expect("the connection holds until the awaited publish"));
            if all.last().is_some_and(|publish| publish.payload == payload) {
                return all;
            }
        }
    }

    /// Whether the broker stays silent for so long. A publish that breaks the silence is the next one to be received.
    pub async fn silent_for(&mut self, span: Duration) -> bool {
        if !self.came.is_empty() {
            return false;
        }
        match timeout(span, self.any_packet()).await {
            Err(_) => true,
            Ok(Some(Packet::Publish(publish))) => {
                self.keep(publish).await;
                false
            }
            Ok(_) => false,
        }
    }

    /// Returns when the broker has ended the connection.
    pub async fn ended(&mut self) {
        while let Some(packet) = self.packet().await {
            if matches!(packet, Packet::Disconnect(_)) {
                return;
            }
        }
    }

    pub async fn answers_a_ping(&mut self) -> bool {
        if self.write(&Packet::PingReq(PingReq)).await.is_err() {
            return false;
        }
        loop {
            match self.packet().await {
                Some(Packet::PingResp(_)) => return true,
                Some(Packet::Publish(publish)) => self.keep(publish).await,
                _ => return false,
            }
        }
    }

    /// A farewell: no will. Returns when the broker has closed, so that the session is known to be offline.
    pub async fn leave(mut self) {
        let _ = self.write(&Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection))).await;
        let _ = self.io.shutdown().await;
        self.ended().await;
    }
}

fn configuration(ca: &str, identity: Option<&Identity>, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let cert = CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    }
}

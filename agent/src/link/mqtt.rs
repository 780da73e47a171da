//! The link over MQTT 5, with rumqttc.
//!
//! Invariant: every connection has a client of its own, so nothing of a dead connection is sent on the next one; what is in
//! RAM is bounded by the limits below, both ways. A connection whose broker the device could not date stands only when the time was
//! answered. Not here: deciding that a link is wedged (`uplink`), whom to believe (`secured`).

pub mod address;
pub mod secured;

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use rumqttc::v5::{
    AsyncClient, Event, EventLoop, MqttOptions,
    mqttbytes::{
        QoS,
        v5::{Filter, LastWill, LastWillProperties, Packet, SubAck, SubscribeReasonCode},
    },
};
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use wayside_common::{
    backoff::full_jitter,
    id::{DeviceId, FleetId},
    topic::{self, Topic, Up},
    wire::{self, FromDevice, MAX_PACKET, ToDevice},
};

use self::{
    address::BrokerUrl,
    secured::{Answered, Secured},
};
use super::{Care, Link, LinkEvent};
use crate::enroll::verifier::Accepted;

/// `[link]` of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Absent: as the enrolment said.
    pub broker: Option<BrokerUrl>,
}

const KEEP_ALIVE: Duration = Duration::from_secs(15);
const CONNECT_WITHIN_SECONDS: u64 = 5;
/// How long the broker keeps what it has for an absent device.
const SESSION_EXPIRY_SECONDS: u32 = 3_600;
/// A device that comes back sooner was never gone.
const WILL_DELAY_SECONDS: u32 = 5;
/// Unacknowledged publishes of the client; its default would allocate 18 MB.
const IN_FLIGHT: u16 = 32;
/// Unacknowledged publishes of the broker.
const RECEIVE_MAXIMUM: u16 = 16;
/// Packets between the uplink and the client.
const QUEUE: usize = 64;
/// What topic and header of a packet need at most.
const OVERHEAD: usize = 512;
const BACKOFF_BASE: Duration = Duration::from_millis(200);
const BACKOFF_CAP: Duration = Duration::from_secs(3);
/// A connection that stood so long is a good one; before, the waits between tries go on growing.
const STEADY: Duration = Duration::from_secs(30);
/// From CONNACK to SUBACK.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(10);
/// From SUBACK to the answer for the time.
const TIME_WITHIN: Duration = Duration::from_secs(10);
/// What comes before that answer is kept back; more than this is dropped, and comes again.
const KEPT_BACK: usize = 64;
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// See the module.
pub struct Mqtt {
    driver: Driver,
    client: Option<AsyncClient>,
    happened: mpsc::Receiver<Happened>,
    task: JoinHandle<()>,
}

/// What the driver tells; the first half of a connection's life comes with its client.
enum Happened {
    Up(AsyncClient),
    Down(String),
    Received { topic: Topic, bytes: Vec<u8> },
}

impl Mqtt {
    /// Starts to connect at once; with TLS where it is `secured`.
    pub fn start(broker: &BrokerUrl, secured: Option<Secured>, fleet: &FleetId, device: &DeviceId) -> Self {
        let driver = Driver {
            broker: broker.clone(),
            secured,
            fleet: fleet.clone(),
            device: device.clone(),
            subscribe_within: SUBSCRIBE_WITHIN,
            tries: Arc::default(),
        };
        let (task, happened) = driver.clone().spawn();
        Self { driver, client: None, happened, task }
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[async_trait]
impl Link for Mqtt {
    async fn next(&mut self) -> LinkEvent {
        match self.happened.recv().await {
            Some(Happened::Up(client)) => {
                self.client = Some(client);
                LinkEvent::Up
            }
            Some(Happened::Down(reason)) => {
                self.client = None;
                LinkEvent::Down(reason)
            }
            Some(Happened::Received { topic, bytes }) => LinkEvent::Received { topic, bytes },
            None => {
                self.rebuild();
                LinkEvent::Down("the client ended".into())
            }
        }
    }

    fn publish(&mut self, up: Up, bytes: Vec<u8>, care: Care) -> bool {
        if bytes.len() + OVERHEAD > MAX_PACKET {
            tracing::error!(bytes = bytes.len(), "a packet is too long to be sent");
            return false;
        }
        let Some(client) = &self.client else { return false };
        let topic = Topic::Up(self.driver.fleet.clone(), self.driver.device.clone(), up).to_string();
        let qos = match care {
            Care::Lossy => QoS::AtMostOnce,
            Care::Acked => QoS::AtLeastOnce,
        };
        client.try_publish(topic, qos, false, bytes).is_ok()
    }

    fn rebuild(&mut self) {
        self.task.abort();
        self.client = None;
        (self.task, self.happened) = self.driver.clone().spawn();
    }

    async fn close(&mut self) {
        let Some(client) = self.client.take() else { return };
        if client.disconnect().await.is_ok() {
            let gone = async { while !matches!(self.happened.recv().await, None | Some(Happened::Down(_))) {} };
            let _ = timeout(CLOSE_WITHIN, gone).await;
        }
    }
}

/// Connects, drives one client at a time, and starts over.
#[derive(Clone)]
struct Driver {
    broker: BrokerUrl,
    secured: Option<Secured>,
    fleet: FleetId,
    device: DeviceId,
    subscribe_within: Duration,
    /// Tries since the last good connection; a new client goes on counting.
    tries: Arc<AtomicU32>,
}

impl Driver {
    fn spawn(self) -> (JoinHandle<()>, mpsc::Receiver<Happened>) {
        let (tell, happened) = mpsc::channel(QUEUE);
        (tokio::spawn(self.run(tell)), happened)
    }

    async fn run(self, tell: mpsc::Sender<Happened>) {
        loop {
            let tries = self.tries.fetch_add(1, Relaxed);
            if tries > 0 {
                let random = getrandom::u64().unwrap_or(u64::MAX);
                tokio::time::sleep(full_jitter(BACKOFF_BASE, BACKOFF_CAP, tries - 1, random)).await;
            }
            let accepted = Accepted::default();
            let reason = match self.options(&accepted) {
                Ok(options) => {
                    let (client, events) = AsyncClient::new(options, QUEUE);
                    self.drive(client, events, &accepted, &tell).await
                }
                Err(error) => format!("{error:#}"),
            };
            if tell.send(Happened::Down(reason)).await.is_err() {
                return;
            }
        }
    }

    /// Until the connection ends; gives why it ended.
    async fn drive(&self, client: AsyncClient, mut events: EventLoop, accepted: &Accepted, tell: &mpsc::Sender<Happened>) -> String {
        let mut stage = Stage::Greeting;
        loop {
            let polled = match stage.deadline() {
                None => events.poll().await,
                Some((by, reason)) => match timeout_at(by, events.poll()).await {
                    Ok(polled) => polled,
                    Err(_) => return reason.into(),
                },
            };
            // The next wait is then a short one; it is one, because others lost their connection at the same time.
            if matches!(stage, Stage::Standing { since } if since.elapsed() >= STEADY) {
                self.tries.store(1, Relaxed);
            }
            let happened = match polled {
                Ok(Event::Incoming(packet)) => match self.packet(packet, &mut stage, &client, accepted) {
                    Ok(happened) => happened,
                    Err(reason) => return reason,
                },
                Ok(_) => continue,
                Err(error) => {
                    if let (Some(secured), Stage::Greeting) = (&self.secured, &stage) {
                        secured.note_end(&error, accepted);
                    }
                    return error.to_string();
                }
            };
            for happened in happened {
                if tell.send(happened).await.is_err() {
                    return "nobody listens".into();
                }
            }
        }
    }

    /// What to tell of a packet; an error ends the connection.
    fn packet(&self, packet: Packet, stage: &mut Stage, client: &AsyncClient, accepted: &Accepted) -> Result<Vec<Happened>, String> {
        match packet {
            Packet::ConnAck(_) => {
                if client.try_subscribe_many(self.filters()).is_err() {
                    return Err("no room to subscribe".into());
                }
                *stage = Stage::Subscribing { by: Instant::now() + self.subscribe_within };
                Ok(Vec::new())
            }
            // Only now do answers find their way; so nothing is said before.
            Packet::SubAck(ack) => {
                if let Some(reason) = refusal(&ack) {
                    return Err(reason);
                }
                let Some(nonce) = self.secured.as_ref().and_then(Secured::question) else {
                    *stage = Stage::Standing { since: Instant::now() };
                    return Ok(vec![Happened::Up(client.clone())]);
                };
                let topic = Topic::Up(self.fleet.clone(), self.device.clone(), Up::Trust).to_string();
                let question = wire::encode(&FromDevice::TimeRequest { nonce });
                if client.try_publish(topic, QoS::AtLeastOnce, false, question).is_err() {
                    return Err("no room to ask for the time".into());
                }
                *stage = Stage::Asking { by: Instant::now() + TIME_WITHIN, kept_back: Vec::new() };
                Ok(Vec::new())
            }
            Packet::Publish(publish) => {
                let Ok(Ok(topic)) = std::str::from_utf8(&publish.topic).map(Topic::from_str) else {
                    tracing::warn!("a packet came on a topic that is not ours");
                    return Ok(Vec::new());
                };
                self.received(topic, publish.payload.to_vec(), stage, client, accepted)
            }
            _ => Ok(Vec::new()),
        }
    }

    fn received(
        &self,
        topic: Topic,
        bytes: Vec<u8>,
        stage: &mut Stage,
        client: &AsyncClient,
        accepted: &Accepted,
    ) -> Result<Vec<Happened>, String> {
        let (Stage::Asking { kept_back, .. }, Some(secured)) = (&mut *stage, &self.secured) else {
            return Ok(vec![Happened::Received { topic, bytes }]);
        };
        let answer = match wire::decode(&bytes) {
            Ok(ToDevice::Time(document)) => secured.answered(&document, accepted),
            _ => Answered::Ignored,
        };
        match answer {
            Answered::Ignored => {
                if kept_back.len() < KEPT_BACK {
                    kept_back.push(Happened::Received { topic, bytes });
                }
                Ok(Vec::new())
            }
            Answered::CertificateIsNot => Err("the broker's certificate is not good at the time that its server tells".into()),
            Answered::Good => {
                let kept_back = std::mem::take(kept_back);
                *stage = Stage::Standing { since: Instant::now() };
                Ok(std::iter::once(Happened::Up(client.clone())).chain(kept_back).collect())
            }
        }
    }

    fn filters(&self) -> Vec<Filter> {
        [topic::own_down(&self.fleet, &self.device), Topic::AllTrust(self.fleet.clone()).to_string()]
            .map(|filter| Filter::new(filter, QoS::AtLeastOnce))
            .to_vec()
    }

    fn options(&self, accepted: &Accepted) -> anyhow::Result<MqttOptions> {
        let mut options = MqttOptions::new(self.device.as_str(), &self.broker.host, self.broker.port);
        options
            .set_keep_alive(KEEP_ALIVE)
            .set_connection_timeout(CONNECT_WITHIN_SECONDS)
            .set_clean_start(false)
            .set_session_expiry_interval(Some(SESSION_EXPIRY_SECONDS))
            .set_receive_maximum(Some(RECEIVE_MAXIMUM))
            .set_max_packet_size(Some(MAX_PACKET as u32))
            .set_outgoing_inflight_upper_limit(IN_FLIGHT);
        let state = Topic::Up(self.fleet.clone(), self.device.clone(), Up::State).to_string();
        let delay = LastWillProperties {
            delay_interval: Some(WILL_DELAY_SECONDS),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        options.set_last_will(LastWill::new(state, wire::encode(&FromDevice::Gone), QoS::AtLeastOnce, false, Some(delay)));
        match &self.secured {
            Some(secured) => _ = options.set_transport(secured.transport(accepted)?),
            None => anyhow::ensure!(!self.broker.secure, "this device has no identity: wayside-agent enroll URL --token TOKEN"),
        }
        Ok(options)
    }
}

/// How far a connection is.
enum Stage {
    Greeting,
    Subscribing {
        by: Instant,
    },
    /// The device does not know the time, and believes nothing until it does.
    Asking {
        by: Instant,
        kept_back: Vec<Happened>,
    },
    Standing {
        since: Instant,
    },
}

impl Stage {
    fn deadline(&self) -> Option<(Instant, &'static str)> {
        match self {
            // The client has a deadline of its own.
            Self::Greeting | Self::Standing { .. } => None,
            Self::Subscribing { by } => Some((*by, "the broker does not answer the subscription")),
            Self::Asking { by, .. } => Some((*by, "this device does not know the time, and the server does not tell it")),
        }
    }
}

/// Why the broker refuses a subscription, if it does.
fn refusal(ack: &SubAck) -> Option<String> {
    let refused = ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)))?;
    Some(format!("the broker refuses the subscription: {refused:?}"))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::Notify,
    };

    use super::*;

    const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];

    /// A client whose broker answers its first packet with CONNACK and its second with `suback`, and ends each connection when told.
    async fn connect(suback: Option<&'static [u8]>) -> (Mqtt, Arc<Notify>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let driver = Driver {
            broker: BrokerUrl { secure: false, host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() },
            secured: None,
            fleet: "demo".parse().unwrap(),
            device: "cam-1".parse().unwrap(),
            // Short only where nothing comes: a slow machine is not a silent broker.
            subscribe_within: if suback.is_some() { SUBSCRIBE_WITHIN } else { Duration::from_millis(50) },
            tries: Arc::default(),
        };
        let end = Arc::new(Notify::new());
        let told = Arc::clone(&end);
        tokio::spawn(async move {
            let mut bytes = [0; 1024];
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.read(&mut bytes).await;
                let _ = socket.write_all(CONNACK).await;
                let _ = socket.read(&mut bytes).await;
                if let Some(suback) = suback {
                    let _ = socket.write_all(suback).await;
                }
                told.notified().await;
            }
        });
        let (task, happened) = driver.clone().spawn();
        (Mqtt { driver, client: None, happened, task }, end)
    }

    #[tokio::test]
    async fn a_session_stands_only_when_the_broker_takes_the_subscription() {
        struct Case {
            suback: Option<&'static [u8]>,
            says: Option<&'static str>,
        }
        let cases = [
            Case { suback: Some(&[0x90, 5, 0, 1, 0, 1, 1]), says: None },
            Case { suback: Some(&[0x90, 5, 0, 1, 0, 1, 0x87]), says: Some("refuses") },
            Case { suback: None, says: Some("does not answer") },
        ];
        for Case { suback, says } in cases {
            let (mut link, _) = connect(suback).await;
            match (link.next().await, says) {
                (LinkEvent::Up, None) => {}
                (LinkEvent::Down(reason), Some(says)) => assert!(reason.contains(says), "{reason}"),
                (other, _) => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_soon_does_not_end_the_growth_of_the_waits() {
        let (mut link, end) = connect(Some(&[0x90, 5, 0, 1, 0, 1, 1])).await;
        for _ in 0..2 {
            assert_eq!(link.next().await, LinkEvent::Up);
            end.notify_one();
            assert!(matches!(link.next().await, LinkEvent::Down(_)));
        }
        assert_eq!(link.next().await, LinkEvent::Up);
        link.rebuild();
        end.notify_one();
        assert_eq!(link.next().await, LinkEvent::Up);
        assert_eq!(link.driver.tries.load(Relaxed), 4);
    }
}

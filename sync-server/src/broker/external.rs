//! An external MQTT 5 broker: this process is one more client of it, that reads every device's `up` topics and acks by hand.
//!
//! Invariant: the broker gets its PUBACK for a publish only after `Ingest::take` committed (or refused) it; what is not acked comes
//! again with the next connection, because the session outlives it. rumqttc is a lossy pipe: after a jam or a broken connection
//! the client is rebuilt, never repaired. Not here: access rules (`mosquitto` writes them for the broker), the end of a connection
//! (`kick`: a client cannot end another's).

mod lanes;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use async_trait::async_trait;
use rumqttc::{
    TlsConfiguration, Transport,
    v5::{
        AsyncClient, Event, EventLoop, Incoming, MqttOptions,
        mqttbytes::{QoS, v5::PublishProperties},
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use wayside_common::{
    id::{DeviceId, FleetId},
    topic::{self, Down, Topic},
    wire::MAX_PACKET,
};

use super::{Downlink, Ingest, TlsFiles, check_length, lifetime, mosquitto};
use lanes::Lanes;

/// Publishes of devices that the broker may have under way to us.
const RECEIVE_MAX: u16 = 256;
/// The broker keeps what devices send while this server is away for so long.
const SESSION_EXPIRY: u32 = 7 * 24 * 3600;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(20);
/// How long a publish to a device may wait for room in rumqttc, and a stop for publishes that are being taken.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct External {
    downlink: Arc<Client>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// The client of the connection that is up, or was last.
struct Client {
    fleet: FleetId,
    current: Mutex<AsyncClient>,
}

pub async fn start(url: &str, tls: Option<Arc<ClientConfig>>, fleet: FleetId, ingest: Arc<dyn Ingest>) -> anyhow::Result<External> {
    let options = options(url, tls)?;
    let (client, eventloop) = AsyncClient::new(options.clone(), usize::from(RECEIVE_MAX));
    let downlink = Arc::new(Client { fleet, current: Mutex::new(client) });
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(stay_connected(options, eventloop, downlink.clone(), ingest, stopped));
    Ok(External { downlink, stop, task })
}

impl External {
    pub fn downlink(&self) -> Arc<dyn Downlink> {
        self.downlink.clone()
    }

    pub async fn send_for(&self, device: &DeviceId, down: Down, bytes: Vec<u8>, lifetime: Duration) -> anyhow::Result<()> {
        self.downlink.publish(device, down, bytes, false, lifetime).await
    }

    pub async fn stop(self) {
        // Without a receiver the task has ended already.
        let _ = self.stop.send(true);
        if timeout(PATIENCE, self.task).await.is_err() {
            tracing::warn!("the connection to the broker stopped with publishes still being taken");
        }
    }
}

fn options(url: &str, tls: Option<Arc<ClientConfig>>) -> anyhow::Result<MqttOptions> {
    let (scheme, address) = url.split_once("://").with_context(|| format!("{url:?} is not mqtt://HOST:PORT or mqtts://HOST:PORT"))?;
    let (host, port) = address.trim_end_matches('/').rsplit_once(':').with_context(|| format!("{url:?} has no port"))?;
    let port: u16 = port.parse().with_context(|| format!("the port of {url:?}"))?;
    let mut options = MqttOptions::new(mosquitto::SERVER, host.trim_matches(['[', ']']), port);
    match (scheme, tls) {
        ("mqtts", Some(tls)) => {
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls)));
        }
        ("mqtts", None) => bail!("{url}: mqtts needs `tls`"),
        ("mqtt", None) => {
            let loopback = host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
            ensure!(loopback, "{url}: plain MQTT is only for a broker on this machine");
            // The user to which the generated rules of the loopback broker give the server's rights.
            options.set_credentials(mosquitto::SERVER, "");
        }
        ("mqtt", Some(_)) => bail!("{url}: `tls` is for mqtts"),
        _ => bail!("{url:?} is not mqtt://HOST:PORT or mqtts://HOST:PORT"),
    }
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(false)
        .set_manual_acks(true)
        .set_session_expiry_interval(Some(SESSION_EXPIRY))
        .set_receive_maximum(Some(RECEIVE_MAX))
        .set_max_packet_size(Some(u32::try_from(MAX_PACKET).expect("the packet limit is below 4 GiB")))
        // The default allocates 18 MB.
        .set_outgoing_inflight_upper_limit(RECEIVE_MAX);
    Ok(options)
}

pub fn configuration(files: &TlsFiles) -> anyhow::Result<ClientConfig> {
    let read = |path: &std::path::Path| -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        certificates.with_context(|| format!("reading certificates from {}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in read(&files.ca)? {
        roots.add(certificate)?;
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).with_context(|| format!("reading the key {}", files.key.display()))?;
    Ok(ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(read(&files.cert)?, key)?)
}

/// Why a connection is given up.
enum End {
    Stopped,
    /// The connection broke, or jammed.
    Again(String),
}

/// Connection after connection, until it is told to stop.
async fn stay_connected(
    options: MqttOptions,
    mut eventloop: EventLoop,
    client: Arc<Client>,
    ingest: Arc<dyn Ingest>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut backoff = BACKOFF_FIRST;
    loop {
        let mut lanes = Lanes::start(&client.fleet, client.current(), ingest.clone());
        let began = tokio::time::Instant::now();
        let end = connection(&mut eventloop, &client, &mut lanes, &mut stopped).await;
        lanes.finish(PATIENCE).await;
        match end {
            End::Stopped => return farewell(&client, &mut eventloop).await,
            End::Again(reason) => tracing::warn!(reason, retry_in = ?backoff, "the connection to the broker is given up"),
        }
        if began.elapsed() > BACKOFF_MOST {
            backoff = BACKOFF_FIRST;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            _ = stopped.changed() => return,
        }
        backoff = (backoff * 2).min(BACKOFF_MOST);
        let (fresh, next) = AsyncClient::new(options.clone(), usize::from(RECEIVE_MAX));
        *client.current.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        eventloop = next;
    }
}

async fn connection(eventloop: &mut EventLoop, client: &Client, lanes: &mut Lanes, stopped: &mut watch::Receiver<bool>) -> End {
    loop {
        let event = tokio::select! {
            event = eventloop.poll() => event,
            reason = lanes.gave_up() => return End::Again(reason),
            _ = stopped.changed() => return End::Stopped,
        };
        match event {
            Err(error) => return End::Again(error.to_string()),
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                tracing::info!("connected to the broker");
                if client.current().try_subscribe(topic::all_up(&client.fleet), QoS::AtLeastOnce).is_err() {
                    return End::Again("no room for the subscription".into());
                }
            }
            Ok(Event::Incoming(Incoming::Publish(publish))) => {
                if let Err(reason) = lanes.offer(publish) {
                    return End::Again(reason);
                }
            }
            Ok(Event::Incoming(Incoming::Disconnect(disconnect))) => return End::Again(format!("{:?}", disconnect.reason_code)),
            Ok(_) => {}
        }
    }
}

/// The last acks are in rumqttc's queue: they leave before the DISCONNECT.
async fn farewell(client: &Client, eventloop: &mut EventLoop) {
    if client.current().try_disconnect().is_err() {
        return;
    }
    let gone = async { while eventloop.poll().await.is_ok() {} };
    // Nothing is lost when it takes longer: what was not acked comes again.
    let _ = timeout(PATIENCE, gone).await;
}

/// The MQTT property of a publish that is worthless after `lifetime`.
fn expires(lifetime: Duration) -> PublishProperties {
    PublishProperties { message_expiry_interval: u32::try_from(lifetime.as_secs()).ok(), ..Default::default() }
}

impl Client {
    async fn publish(&self, device: &DeviceId, down: Down, bytes: Vec<u8>, retain: bool, lifetime: Duration) -> anyhow::Result<()> {
        check_length(device, &bytes)?;
        let topic = Topic::Down(self.fleet.clone(), device.clone(), down).to_string();
        let client = self.current();
        let publish = client.publish_with_properties(topic, QoS::AtLeastOnce, retain, bytes, expires(lifetime));
        timeout(PATIENCE, publish).await.context("the broker takes nothing")?.context("publishing to a device")
    }

    fn current(&self) -> AsyncClient {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Downlink for Client {
    async fn send(&self, device: &DeviceId, down: Down, bytes: Vec<u8>, retain: bool) -> anyhow::Result<()> {
        self.publish(device, down, bytes, retain, lifetime(down)).await
    }

    async fn kick(&self, device: &DeviceId) -> anyhow::Result<()> {
        bail!("{device} stays connected: an external broker ends connections itself, by its revocation list")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_mqtt_is_only_for_this_machine() {
        for (url, good) in [
            ("mqtt://127.0.0.1:1883", true),
            ("mqtt://localhost:1883", true),
            ("mqtt://[::1]:1883", true),
            ("mqtt://10.0.0.1:1883", false),
            ("mqtt://broker.example:1883", false),
            ("mqtt://127.0.0.1", false),
            ("mqtts://127.0.0.1:8883", false),
            ("http://127.0.0.1:1883", false),
            ("127.0.0.1:1883", false),
        ] {
            assert_eq!(options(url, None).is_ok(), good, "{url}");
        }
    }
}

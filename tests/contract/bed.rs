//! One broker under test, with the server attached to it: embedded rmqtt, or Mosquitto as a child process with the configuration
//! that Wayside writes for it.
//!
//! Invariant: each bed has its own ports, folder, CA and child, and leaves none behind. Not here: cases.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{ConnectReturnCode, PubAckReason, Publish},
};
use rustls::version::TLS13;
use tokio::{net::TcpStream, time::timeout};
use wayside_common::{
    id::{DeviceId, FleetId},
    topic::{Down, Topic, Up},
};
use wayside_sync_server::broker::{self, Broker, Config, Tls, TlsFiles, mosquitto};

use crate::{
    device::{DEADLINE, Device, Greeting, Refused, Way},
    pki::{Authority, Identity},
    witness::Witness,
};

pub const FLEET: &str = "plant";

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Embedded,
    Mosquitto,
}

pub struct Bed {
    pub kind: Kind,
    pub address: SocketAddr,
    pub authority: Authority,
    pub witness: Arc<Witness>,
    pub broker: Option<Broker>,
    mosquitto: Option<Process>,
    folder: Folder,
}

/// Removed when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Killed when it is dropped.
struct Process(Child);

impl Process {
    /// Mosquitto saves its sessions when it is told to end, not when it is killed.
    fn end(mut self) {
        let told = Command::new("kill").arg("-TERM").arg(self.0.id().to_string()).status().unwrap();
        assert!(told.success());
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn device_id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn fleet() -> FleetId {
    FLEET.parse().unwrap()
}

pub fn up(device: &str, up: Up) -> String {
    Topic::Up(fleet(), device_id(device), up).to_string()
}

pub fn down(device: &str, down: Down) -> String {
    Topic::Down(fleet(), device_id(device), down).to_string()
}

pub fn all_down(device: &str) -> String {
    wayside_common::topic::own_down(&fleet(), &device_id(device))
}

pub fn publish(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Publish {
    Publish::new(topic, QoS::AtLeastOnce, payload.into(), None)
}

/// Where the program is, if it is installed.
pub fn mosquitto_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).map(|folder| folder.join("mosquitto")).find(|file| file.is_file())
}

impl Bed {
    /// `None`: this broker is not installed here, and it need not be.
    pub async fn start(kind: Kind) -> Option<Self> {
        if kind == Kind::Mosquitto && mosquitto_program().is_none() {
            assert!(std::env::var_os("WAYSIDE_REQUIRE_MOSQUITTO").is_none(), "mosquitto is not installed, and this run requires it");
            println!("SKIPPED: mosquitto is not installed");
            return None;
        }
        let folder = folder();
        let authority = Authority::new("fleet CA");
        let server = write(&folder.0, "server", &authority, &authority.server());
        let bed = Self {
            kind,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            authority,
            witness: Arc::new(Witness::new()),
            broker: None,
            mosquitto: None,
            folder,
        };
        Some(match kind {
            Kind::Embedded => bed.embedded(server).await,
            Kind::Mosquitto => bed.mosquitto(server).await,
        })
    }

    async fn embedded(mut self, files: TlsFiles) -> Self {
        let config = Config::Embedded { listen: self.address, tls: Some(Tls::Files(files)) };
        let broker = broker::start(config, None, fleet(), self.witness.clone()).await.unwrap();
        self.address = broker.address().unwrap();
        self.broker = Some(broker);
        self
    }

    async fn mosquitto(mut self, files: TlsFiles) -> Self {
        self.address = free_address();
        self.write_configuration(&files, None);
        self.run_mosquitto().await;
        self.attach_server().await;
        self.until_subscribed(&self.way("probe")).await;
        self
    }

    /// The server as a client of Mosquitto.
    pub async fn attach_server(&mut self) {
        let bridge = write(&self.folder.0, "bridge", &self.authority, &self.authority.client(mosquitto::SERVER, FLEET));
        let config = Config::External { url: format!("mqtts://{}", self.address), tls: Some(Tls::Files(bridge)) };
        self.broker = Some(broker::start(config, None, fleet(), self.witness.clone()).await.unwrap());
    }

    pub async fn stop_server(&mut self) {
        self.broker.take().expect("this bed has a server").stop().await;
    }

    fn write_configuration(&self, files: &TlsFiles, revoked: Option<&Path>) {
        let listener = mosquitto::Listener::Tls { address: self.address, files, revoked };
        write_mosquitto(&self.folder.0, &listener);
    }

    async fn run_mosquitto(&mut self) {
        self.mosquitto = Some(spawn_mosquitto(&self.folder.0, self.address).await);
    }

    /// Mosquitto reads its list of revoked certificates when it starts.
    pub async fn restart_with_revoked(&mut self, revoked: &Identity) {
        let list = self.folder.0.join("revoked.pem");
        fs::write(&list, self.authority.revoke(&[revoked])).unwrap();
        self.write_configuration(&files(&self.folder.0, "server"), Some(&list));
        self.mosquitto.take().expect("this bed has a Mosquitto").end();
        self.run_mosquitto().await;
    }

    /// The broker has told that somebody reads the topic.
    async fn until_subscribed(&self, way: &Way) {
        let mut probe = Device::connect(way, Greeting::new("probe")).await.unwrap();
        let subscribed = async { while probe.publish(publish(up("probe", Up::Cmd), "probe")).await != Some(PubAckReason::Success) {} };
        timeout(DEADLINE, subscribed).await.expect("the server subscribes before the deadline");
        self.witness.until_taken("probe", b"probe").await;
        probe.leave().await;
    }

    pub fn identity(&self, device: &str) -> Identity {
        self.authority.client(device, FLEET)
    }

    pub fn way(&self, device: &str) -> Way {
        self.way_with(Some(self.identity(device)))
    }

    pub fn way_with(&self, identity: Option<Identity>) -> Way {
        Way { address: self.address, tls: Some((self.authority.pem.clone(), identity, &TLS13)) }
    }

    pub async fn device(&self, device: &str) -> Device {
        self.device_with(device, Greeting::new(device)).await
    }

    pub async fn device_with(&self, device: &str, greeting: Greeting) -> Device {
        let way = self.way(device);
        let connected = async {
            loop {
                match Device::connect(&way, greeting.clone()).await {
                    // rmqtt says so to a device that comes back in the moment in which its broken connection is cleared away.
                    Err(Refused::Code(ConnectReturnCode::ServerUnavailable)) => {}
                    connected => return connected.unwrap(),
                }
            }
        };
        timeout(DEADLINE, connected).await.expect("the broker lets the device in before the deadline")
    }

    /// A device that hears everything that is for it.
    pub async fn listening(&self, device: &str) -> Device {
        let mut listening = self.device(device).await;
        assert_success(listening.subscribe(&all_down(device), QoS::AtLeastOnce).await);
        listening
    }

    pub async fn send(&self, device: &str, to: Down, payload: &str, retain: bool) {
        let downlink = self.broker.as_ref().unwrap().downlink();
        downlink.send(&device_id(device), to, payload.into(), retain).await.unwrap();
    }

    /// The broker still serves: a good device comes in and is heard.
    pub async fn serves(&self) {
        let mut device = self.device("witness-device").await;
        let payload = format!("alive {}", fastrand::u64(..));
        assert_eq!(device.publish(publish(up("witness-device", Up::State), payload.clone())).await, Some(PubAckReason::Success));
        self.witness.until_taken("witness-device", payload.as_bytes()).await;
        device.leave().await;
    }

    pub async fn refused(&self, way: &Way, greeting: Greeting) -> Refused {
        match Device::connect(way, greeting).await {
            Err(refused) => refused,
            Ok(_) => panic!("the broker let it in"),
        }
    }

    pub async fn stop(mut self) {
        if let Some(broker) = self.broker.take() {
            broker.stop().await;
        }
    }
}

pub fn assert_success(answer: Option<rumqttc::v5::mqttbytes::v5::SubscribeReasonCode>) {
    assert_eq!(answer, Some(rumqttc::v5::mqttbytes::v5::SubscribeReasonCode::Success(QoS::AtLeastOnce)));
}

fn folder() -> Folder {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("wayside-contract-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    fs::create_dir_all(path.join("store")).unwrap();
    Folder(path)
}

fn files(folder: &Path, name: &str) -> TlsFiles {
    TlsFiles { ca: folder.join("ca.pem"), cert: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
}

fn write(folder: &Path, name: &str, authority: &Authority, identity: &Identity) -> TlsFiles {
    let files = files(folder, name);
    fs::write(&files.ca, &authority.pem).unwrap();
    fs::write(&files.cert, &identity.cert).unwrap();
    fs::write(&files.key, &identity.key).unwrap();
    files
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn write_mosquitto(folder: &Path, listener: &mosquitto::Listener<'_>) {
    let rendered = mosquitto::render(&fleet(), listener, &folder.join("acl"), &folder.join("store"));
    // Started by root, Mosquitto would become another user, to whom this folder is closed.
    fs::write(folder.join("mosquitto.conf"), format!("{}user root\n", rendered.configuration)).unwrap();
    fs::write(folder.join("acl"), rendered.access).unwrap();
}

async fn spawn_mosquitto(folder: &Path, address: SocketAddr) -> Process {
    let program = mosquitto_program().expect("it was found when the bed was made");
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new(program);
    command.arg("-c").arg(folder.join("mosquitto.conf")).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut process = Process(command.spawn().unwrap());
    let listening = async {
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = process.0.try_wait().unwrap() {
                panic!("mosquitto ended with {status}: {}", fs::read_to_string(folder.join("log")).unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, listening).await.expect("mosquitto listens before the deadline");
    process
}

/// Mosquitto's plain variant, with the server attached.
pub async fn plain_mosquitto(witness: Arc<Witness>) -> Option<(Broker, SocketAddr, impl Drop)> {
    mosquitto_program()?;
    let (folder, address) = (folder(), free_address());
    write_mosquitto(&folder.0, &mosquitto::Listener::Loopback { port: address.port() });
    let process = spawn_mosquitto(&folder.0, address).await;
    let config = Config::External { url: format!("mqtt://{address}"), tls: None };
    let broker = broker::start(config, None, fleet(), witness).await.unwrap();
    Some((broker, address, Kept(process, folder)))
}

/// Fields are dropped in this order: the process before its folder.
struct Kept(#[allow(dead_code, reason = "kept for its drop")] Process, #[allow(dead_code, reason = "kept for its drop")] Folder);

impl Drop for Kept {
    fn drop(&mut self) {}
}

pub async fn plain_embedded(listen: SocketAddr, witness: Arc<Witness>) -> anyhow::Result<Broker> {
    broker::start(Config::Embedded { listen, tls: None }, None, fleet(), witness).await
}

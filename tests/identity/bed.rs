//! A server with a CA of its own, and devices beside it.
//!
//! Invariant: each bed has its own folder and ports, and leaves no process behind. Not here: expectations.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use wayside_agent::{enroll::identity::Identity, state::State};
use wayside_common::{enrolment::Token, id::Digest, time::Wall};
use wayside_sync_server::{
    db::{
        self,
        identity::{Granting, Identity as _},
        sqlite::Sqlite,
    },
    pki::{self, Pki, request::PublicKey},
};
use wayside_tests::demo::{
    api::Api,
    binaries::Binaries,
    fleet::wall_now,
    folder::Folder,
    process::{Launch, Process},
    wait::{Look, wait_for},
};

pub const FLEET: &str = "plant";
const LIMIT: Duration = Duration::from_secs(60);

pub struct Bed {
    // Fields are dropped in this order: the process before its folder.
    server: Option<Process>,
    mosquitto: Option<Process>,
    api: Option<Api>,
    pub enroll_url: String,
    binaries: Binaries,
    ports: [u16; 3],
    folder: Folder,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Bed {
    /// Devices' certificates last for `lifetime`.
    pub fn start(lifetime: &str) -> Self {
        let mut bed = Self::stage();
        bed.start_server(lifetime);
        bed
    }

    fn stage() -> Self {
        let binaries = Binaries::for_tests().unwrap();
        let ports = [free_port(), free_port(), free_port()];
        let bed = Self {
            server: None,
            mosquitto: None,
            api: None,
            enroll_url: String::new(),
            binaries,
            ports,
            folder: Folder::make(false).unwrap(),
        };
        let (operator, keys) = (bed.path("operator"), bed.path("keys"));
        bed.wayside(&["key", "init", "--dir", &operator, "--server-dir", &keys]).unwrap();
        bed
    }

    /// With Mosquitto as the broker; `None`: it is not installed here, and it need not be.
    pub fn with_mosquitto() -> Option<Self> {
        if mosquitto().is_none() {
            assert!(std::env::var_os("WAYSIDE_REQUIRE_MOSQUITTO").is_none(), "mosquitto is not installed, and this run requires it");
            println!("SKIPPED: mosquitto is not installed");
            return None;
        }
        let mut bed = Self::stage();
        let broker = bed.ports[1];
        bed.serve(&format!("kind = \"external\"\nurl = \"mqtts://127.0.0.1:{broker}\"\ntls = \"own\""), "90d", None);
        let (listen, folder, data) = (format!("127.0.0.1:{broker}"), bed.path("mosquitto"), bed.data().display().to_string());
        let args = ["broker", "mosquitto-config", "--fleet", FLEET, "--dir", &folder, "--listen", &listen, "--data-dir", &data];
        bed.wayside(&args).unwrap();
        // Started by root, Mosquitto would become another user, to whom this folder is closed.
        let config = format!("{folder}/mosquitto.conf");
        fs::write(&config, fs::read_to_string(&config).unwrap() + "user root\n").unwrap();
        bed.restart_mosquitto();
        Some(bed)
    }

    pub fn restart_mosquitto(&mut self) {
        if let Some(mut process) = self.mosquitto.take() {
            assert!(process.stop(Duration::from_secs(20)).unwrap());
        }
        let args = vec!["-c".into(), self.path("mosquitto/mosquitto.conf")];
        let log = self.path("mosquitto.log").into();
        let program = mosquitto().expect("it was found when the bed was made");
        self.mosquitto = Some(Process::start(&Launch { name: "mosquitto".into(), program, args, log }).unwrap());
    }

    pub fn until_log_says(&self, log: &str, what: &str) {
        let look = || match fs::read_to_string(self.path(log))?.contains(what) {
            true => Ok(Look::Found(())),
            false => Ok(Look::NotYet("it does not".into())),
        };
        wait_for(what, LIMIT, look).unwrap();
    }

    pub fn start_server(&mut self, lifetime: &str) {
        let broker = self.ports[1];
        let listen = format!("kind = \"embedded\"\nlisten = \"127.0.0.1:{broker}\"\ntls = \"own\"");
        self.serve(&listen, lifetime, Some(&format!("127.0.0.1:{broker}")));
    }

    fn serve(&mut self, broker: &str, lifetime: &str, listens: Option<&str>) {
        let [api, _, enroll] = self.ports;
        let config = self.path("server.toml");
        let text = format!(
            "data_dir = \"server\"\nfleet = \"{FLEET}\"\n[api]\nlisten = \"127.0.0.1:{api}\"\n[broker]\n{broker}\n\
             [enroll]\nlisten = \"127.0.0.1:{enroll}\"\n[pki]\ndevice_lifetime = \"{lifetime}\"\n\
             [trust]\ndir = \"keys\"\n"
        );
        fs::write(&config, text).unwrap();
        let args = vec!["serve".into(), "--config".into(), config];
        let launch = Launch { name: "server".into(), program: self.binaries.wayside.clone(), args, log: self.path("server.log").into() };
        let mut server = Process::start(&launch).unwrap();
        let address = server.line("api ", LIMIT).unwrap();
        if let Some(listens) = listens {
            assert_eq!(server.line("mqtts ", LIMIT).unwrap(), listens);
        }
        self.enroll_url = server.line("enroll ", LIMIT).unwrap();
        let token = server.line("token ", LIMIT).unwrap();
        self.api = Some(Api::new(address, token));
        self.server = Some(server);
    }

    pub fn rotate(&self) {
        assert!(self.server.is_none(), "the server reads its CA when it starts");
        self.wayside(&["key", "rotate-ca", "--config", &self.path("server.toml")]).unwrap();
    }

    pub fn stop_server(&mut self) {
        assert!(self.server.take().unwrap().stop(Duration::from_secs(20)).unwrap());
    }

    pub fn stop(&mut self) {
        self.stop_server();
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    fn api(&self) -> &Api {
        self.api.as_ref().expect("the server has started")
    }

    /// The operator's command line.
    pub fn wayside(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.binaries.wayside);
        command.args(args);
        if let Some(api) = &self.api {
            command.args(["--server", &api.address, "--token", &api.token]);
        }
        said(command)
    }

    /// The device's command line.
    pub fn agent(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.binaries.agent);
        command.args(args);
        said(command)
    }

    /// What `wayside device add` prints: one line.
    pub fn add(&self, device: &str) -> String {
        let printed = self.wayside(&["device", "add", device, "--class", "imu"]).unwrap();
        assert_eq!(printed.lines().count(), 1, "{printed}");
        printed.trim().to_owned()
    }

    /// A token of this server, for asking another one.
    pub fn line_for(&mut self, other: &str, device: &str) -> String {
        let line = self.add(device);
        assert!(!line.contains(other));
        self.stop();
        let token: Token = line.split_whitespace().last().unwrap().parse().unwrap();
        token.to_string()
    }

    /// The configuration of a device; its path.
    pub fn config(&self, device: &str) -> String {
        let path = self.path(&format!("{device}.toml"));
        if !Path::new(&path).exists() {
            let data = self.path(device);
            let text = format!(
                "data_dir = \"{data}\"\n[device]\nid = \"{device}\"\nfleet = \"{FLEET}\"\nclass = \"imu\"\n[[source]]\nname = \"imu0\"\n\
                 kind = \"sim-imu\"\nperiod = \"20ms\"\n"
            );
            fs::write(&path, text).unwrap();
        }
        path
    }

    pub fn enroll(&self, device: &str) {
        let line = self.add(device);
        let words: Vec<&str> = line.split_whitespace().skip(2).collect();
        self.agent(&[&words[..], &["--config", &self.config(device)]].concat()).unwrap();
    }

    /// The agent as a process.
    pub fn run(&self, device: &str) -> Process {
        let args = vec!["run".into(), "--config".into(), self.config(device)];
        let log = self.path(&format!("{device}.log")).into();
        let mut process = Process::start(&Launch { name: device.into(), program: self.binaries.agent.clone(), args, log }).unwrap();
        process.line("ready ", LIMIT).unwrap();
        process
    }

    fn identity(&self, device: &str) -> Identity {
        Identity::load(Path::new(&self.path(device))).unwrap().expect("the device is enrolled")
    }

    /// Of the device's certificate: its text stands for it.
    pub fn serial(&self, device: &str) -> String {
        self.identity(device).certificate
    }

    /// Gives a device the certificate that it would have if it had been enrolled then. The server must be stopped.
    pub fn issued_at(&self, device: &str, then: Wall) -> String {
        assert!(self.server.is_none());
        let mut identity = self.identity(device);
        let csr = CertificateParams::default().serialize_request(&KeyPair::from_pem(&identity.key).unwrap()).unwrap().pem().unwrap();
        let key = PublicKey::of_request(&csr).unwrap();
        let pki = Pki::open(&self.data().join("pki"), &identity.fleet, pki::Config::default(), true, wall_now()).unwrap();
        let issued = pki.issue(&identity.device, &key, then).unwrap();
        let (device, class, digest) = (identity.device.clone(), identity.class.clone(), Digest::of(device.as_bytes()));
        let token = db::identity::Token { digest, device: device.clone(), class: class.clone(), expires: wall_now() };
        let row = db::identity::Certificate { serial: issued.serial, device, class, issued: then, expires: issued.expires };
        let store = Sqlite::open(&self.data().join("wayside.db")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(store.keep_token(token, then)).unwrap();
        assert_eq!(runtime.block_on(store.redeem(digest, row)).unwrap(), Granting::Done);
        identity.certificate = issued.pem.clone();
        identity.save(Path::new(&self.path(identity.device.as_str()))).unwrap();
        issued.pem
    }

    pub fn authorities(&self, device: &str) -> String {
        self.identity(device).authorities
    }

    pub fn until_serial_is_not(&self, device: &str, old: &str) -> String {
        let look = || match self.serial(device) {
            same if same == old => Ok(Look::NotYet("the same".into())),
            new => Ok(Look::Found(new)),
        };
        wait_for("another certificate", LIMIT, look).unwrap()
    }

    pub fn until_expired(&self, device: &str) {
        let until = self.identity(device).validity().unwrap().until;
        let look = || Ok(if wall_now().0 > until.0 + 1_000 { Look::Found(()) } else { Look::NotYet("not yet".into()) });
        wait_for("the end of a certificate", LIMIT, look).unwrap();
    }

    pub fn until_online(&self, device: &str, online: bool) {
        let look = || {
            let row = self.api().devices()?.into_iter().find(|row| row.id == device);
            Ok(match row {
                Some(row) if row.online == online => Look::Found(()),
                Some(_) => Look::NotYet("it is not".into()),
                None => Look::NotYet("the server does not know it".into()),
            })
        };
        wait_for(&format!("{device} being online: {online}"), LIMIT, look).unwrap();
    }

    pub fn records(&self, device: &str) -> u64 {
        self.api().streams(device).map_or(0, |streams| streams.iter().map(|s| s.records).sum())
    }

    /// What the stopped agent has kept of the time.
    pub fn signed_time(&self, device: &str) -> Option<Wall> {
        State::open(Path::new(&self.path(device))).unwrap().signed_time().unwrap()
    }

    pub fn until_records(&self, device: &str) {
        let look = || Ok(if self.records(device) > 0 { Look::Found(()) } else { Look::NotYet("none".into()) });
        wait_for("records", LIMIT, look).unwrap();
    }
}

fn mosquitto() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).map(|folder| folder.join("mosquitto")).find(|file| file.is_file())
}

fn said(mut command: Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

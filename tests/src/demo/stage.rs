//! Sets the stage: keys, configuration files, the server and the five agents as processes of their own.
//!
//! Invariant: everything listens on loopback alone, on ports that were free. Not here: what happens then (`story`).

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use wayside_common::time::Wall;

use super::{
    api::Api,
    binaries::{Binaries, workspace},
    fleet::{Fleet, wall_now},
    folder::Folder,
    interrupt,
    options::Options,
    pictures::{Album, Hand},
    plan::{self, CameraModels, Device},
    process::{Launch, Process, tail},
    timeline::Timeline,
};

const READY: Duration = Duration::from_secs(60);
/// Agents get this long before their first item is due.
const LEAD: Duration = Duration::from_secs(10);

pub struct Stage {
    // Fields are dropped in this order: processes before the folder in which they write.
    pub fleet: Fleet,
    pub folder: Folder,
    pub api: Api,
    pub devices: Vec<Device>,
    pub models: CameraModels,
    pub anchor: Wall,
    pub timeline: Arc<Timeline>,
    pub binaries: Binaries,
}

impl Stage {
    /// Builds, starts everything and waits until it is up. `feed` is how long the sensors have items.
    pub fn set(options: &Options, feed: Option<Duration>, timeline: Arc<Timeline>) -> anyhow::Result<Self> {
        if !options.no_build {
            timeline.tell("building the server and the agent");
        }
        let binaries = Binaries::make(options.no_build)?;
        interrupt::check()?;
        let folder = Folder::make(options.keep)?;
        let zoo = workspace().join("models/zoo");
        let models = CameraModels::find(&zoo, options.images.is_some())?;
        let hands = options.images.as_deref().map(|album| deal(album, &models, options.seed, folder.path())).transpose()?;
        if let Some([hand, _]) = &hands {
            timeline.tell(format!("each camera was dealt {} pictures under opaque names", hand.truth.len()));
        }
        let devices = plan::devices(&zoo, &models, options.seed, feed, hands);
        let addresses = [free_port()?, free_port()?, free_port()?];
        make_keys(&binaries, folder.path())?;
        let fleet = Fleet::new(Arc::clone(&timeline));
        let api = start_server(&fleet, &binaries, folder.path(), &models, &addresses)?;
        timeline.tell(format!("the server is up: {}", api.address));
        for device in &devices {
            enroll(&binaries, folder.path(), &api, device)?;
        }
        timeline.tell(format!("{} devices are enrolled; from here on mutual TLS", devices.len()));
        let anchor = wall_now().plus(LEAD);
        for device in &devices {
            start_agent(&fleet, &binaries, folder.path(), device, anchor)?;
        }
        ensure!(wall_now() < anchor, "the agents were not ready before their first item was due; is this machine overloaded?");
        timeline.tell(format!("{} agents are up; their sensors start in a moment", devices.len()));
        Ok(Self { fleet, folder, api, devices, models, anchor, timeline, binaries })
    }

    /// Runs one command of the operator's command line and gives its stdout.
    pub fn wayside(&self, args: &[&str], limit: Duration) -> anyhow::Result<String> {
        let mut all: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        all.extend(["--server".into(), self.api.address.clone(), "--token".into(), self.api.token.clone()]);
        // Waits for a server that somebody has killed, and that is being started again.
        self.api.devices()?;
        command(&self.binaries.wayside, all, self.folder.path(), limit)
    }

    pub fn keys(&self) -> PathBuf {
        self.folder.path().join("operator-keys")
    }

    pub fn server_config(&self) -> PathBuf {
        self.folder.path().join("server.toml")
    }
}

fn deal(album: &Path, models: &CameraModels, seed: u64, folder: &Path) -> anyhow::Result<[Hand; 2]> {
    let album = Album::open(album, &models.labels)?;
    Ok([album.deal(seed, 0, &folder.join("pictures/0"))?, album.deal(seed, 1, &folder.join("pictures/1"))?])
}

fn free_port() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no loopback port is free")?.local_addr()?.to_string())
}

/// The operator's keys, and a copy of what the server may have of them.
fn make_keys(binaries: &Binaries, folder: &Path) -> anyhow::Result<()> {
    let (operator, server) = (folder.join("operator-keys").display().to_string(), folder.join("server-keys").display().to_string());
    let args = ["key", "init", "--dir", &operator, "--server-dir", &server].map(str::to_owned);
    command(&binaries.wayside, args.to_vec(), folder, READY).map(|_| ())
}

fn start_server(fleet: &Fleet, binaries: &Binaries, folder: &Path, models: &CameraModels, addresses: &[String; 3]) -> anyhow::Result<Api> {
    let config = folder.join("server.toml");
    fs::write(&config, plan::server_config(folder, addresses, &binaries.wayside, models))?;
    let launch = Launch {
        name: "server".into(),
        program: binaries.wayside.clone(),
        args: vec!["serve".into(), "--config".into(), config.display().to_string()],
        log: folder.join("server.log"),
    };
    let lines = fleet.start(launch, &["api ", "token "], READY)?;
    let [address, token] = <[String; 2]>::try_from(lines).expect("two lines were asked for");
    Ok(Api::new(address, token))
}

/// As a person does it: the server prints a line, which is run on the device.
fn enroll(binaries: &Binaries, folder: &Path, api: &Api, device: &Device) -> anyhow::Result<()> {
    let add = ["device", "add", device.id, "--class", device.kind.as_str(), "--server", &api.address, "--token", &api.token];
    let line = command(&binaries.wayside, add.map(str::to_owned).to_vec(), folder, READY)?;
    let words =
        line.lines().find_map(|line| line.strip_prefix("sudo wayside-agent ")).context("`wayside device add` printed no command")?;
    let (config, data) = (folder.join(format!("{}.toml", device.id)), folder.join(device.id));
    let places = ["--config".to_owned(), config.display().to_string(), "--data-dir".to_owned(), data.display().to_string()];
    let args = words.split_whitespace().map(str::to_owned).chain(places).collect();
    command(&binaries.agent, args, folder, READY).map(|_| ())
}

fn start_agent(fleet: &Fleet, binaries: &Binaries, folder: &Path, device: &Device, anchor: Wall) -> anyhow::Result<()> {
    let config = folder.join(format!("{}.toml", device.id));
    fs::write(&config, device.config(folder, anchor))?;
    let launch = Launch {
        name: device.id.into(),
        program: binaries.agent.clone(),
        args: vec!["run".into(), "--config".into(), config.display().to_string()],
        log: folder.join(format!("{}.log", device.id)),
    };
    // The agent's one line says that it is up, whatever its words are.
    fleet.start(launch, &[""], READY).map(|_| ())
}

/// Runs a program to its end.
fn command(program: &Path, args: Vec<String>, folder: &Path, limit: Duration) -> anyhow::Result<String> {
    // An address is no part of a file's name.
    let name = args.iter().take(2).filter(|arg| !arg.contains('/')).cloned().collect::<Vec<_>>().join("-");
    let log = folder.join(format!("command-{name}-{:08x}.log", fastrand::u32(..)));
    let mut process = Process::start(&Launch { name: name.clone(), program: program.to_path_buf(), args, log: log.clone() })?;
    let status = process.wait(limit).with_context(|| format!("`wayside {}`", name.replace('-', " ")))?;
    ensure!(status.success(), "`wayside {}` failed ({status}):\n{}", name.replace('-', " "), tail(&log));
    Ok(fs::read_to_string(&log)?)
}

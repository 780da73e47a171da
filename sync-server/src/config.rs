//! The server's configuration file, and the few environment variables of the command line.
//!
//! Invariant: unknown keys and bad values are refused with line and column; every module owns its own part. Paths in the file are
//! relative to the file's folder. Not here: what the settings do.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Deserializer, de::Error as _};
use wayside_common::id::FleetId;

use crate::{api, broker, pipeline::trainer::Folders, pki, retention};

/// See `docs/reference/server-config.md`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The database, blobs and the token.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// `postgres://USER@HOST/DATABASE` instead of a file in `data_dir`.
    pub db: Option<String>,
    #[serde(default = "default_fleet")]
    pub fleet: FleetId,
    #[serde(default)]
    pub api: api::Config,
    #[serde(default = "default_broker")]
    pub broker: broker::Config,
    /// Where devices enrol and renew; without it none can.
    pub enroll: Option<pki::Enroll>,
    #[serde(default)]
    pub pki: pki::Config,
    #[serde(default)]
    pub trust: Trust,
    /// Folders of packages that devices come with: their drift reference is known from the start.
    #[serde(default)]
    pub packages: Vec<PathBuf>,
    #[serde(default)]
    pub retention: retention::Config,
    /// Retraining jobs; a request can name one, never its command.
    #[serde(default, rename = "job")]
    pub jobs: Vec<Job>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// Holds `root.json`, `targets.json` and `assign.key`.
    #[serde(default = "default_trust_dir")]
    pub dir: PathBuf,
}

impl Default for Trust {
    fn default() -> Self {
        Self { dir: default_trust_dir() }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    pub name: String,
    /// Whose candidates it makes.
    pub model: wayside_common::id::ModelName,
    /// Program and arguments; no shell is between.
    pub command: Vec<String>,
    #[serde(default = "default_job_timeout")]
    pub timeout: Span,
    /// Folder of the package that a run starts from while no released version has proved itself.
    pub base: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: default_data_dir(),
            db: None,
            fleet: default_fleet(),
            api: api::Config::default(),
            broker: default_broker(),
            enroll: None,
            pki: pki::Config::default(),
            trust: Trust::default(),
            packages: Vec::new(),
            retention: retention::Config::default(),
            jobs: Vec::new(),
        }
    }
}

impl Config {
    /// Reads the file; without one, everything has its default.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        let config: Self = toml::from_str(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
        Ok(config.relative_to(path.parent().unwrap_or(Path::new("."))))
    }

    fn relative_to(mut self, folder: &Path) -> Self {
        let bases = self.jobs.iter_mut().filter_map(|job| job.base.as_mut());
        for path in [&mut self.data_dir, &mut self.trust.dir].into_iter().chain(&mut self.packages).chain(bases) {
            *path = folder.join(&*path);
        }
        let (broker::Config::Embedded { tls, .. } | broker::Config::External { tls, .. }) = &mut self.broker;
        if let Some(broker::Tls::Files(files)) = tls {
            for path in [&mut files.ca, &mut files.cert, &mut files.key] {
                *path = folder.join(&*path);
            }
        }
        self
    }
}

fn default_data_dir() -> PathBuf {
    "server-data".into()
}

fn default_fleet() -> FleetId {
    "demo".parse().expect("a constant that is a fleet id")
}

fn default_trust_dir() -> PathBuf {
    "keys".into()
}

fn default_broker() -> broker::Config {
    broker::Config::Embedded { listen: ([127, 0, 0, 1], 1883).into(), tls: None }
}

fn default_job_timeout() -> Span {
    Span(Duration::from_secs(3600))
}

/// A length of time as the file has it.
///
/// ```
/// use wayside_sync_server::config::Span;
/// let span: Span = "10m".parse().unwrap();
/// assert_eq!(span.0.as_secs(), 600);
/// assert_eq!(span.to_string(), "10m");
/// assert!("10".parse::<Span>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let each = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| ms);
        match (number.parse::<u64>(), each) {
            (Ok(number), Some(ms)) => Ok(Self(Duration::from_millis(number.saturating_mul(*ms)))),
            _ => Err(format!("{text:?} is not a length of time such as \"500ms\", \"10s\", \"5m\", \"1h\" or \"90d\"")),
        }
    }
}
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis() as u64;
        let (unit, each) = UNITS.into_iter().find(|(_, each)| ms.is_multiple_of(*each)).expect("every number is a multiple of one");
        write!(f, "{}{unit}", ms / each)
    }
}
impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Which log lines are written: `WAYSIDE_LOG`, as `tracing`'s filters are written. `NO_COLOR` is obeyed by the writer itself.
pub fn log() -> String {
    env::var("WAYSIDE_LOG").unwrap_or_else(|_| "info,rmqtt=warn".into())
}

/// `WAYSIDE_REQUIRE_POSTGRES`: a test that cannot run on PostgreSQL fails, where it would be skipped.
#[cfg(test)]
pub fn postgres_is_required() -> bool {
    env::var_os("WAYSIDE_REQUIRE_POSTGRES").is_some()
}

/// Where the command line finds its server.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub server: String,
    pub token: Option<String>,
}

/// Flag before environment before default.
pub fn client(server: Option<String>, token: Option<String>) -> ClientConfig {
    ClientConfig {
        server: server.or_else(|| env::var("WAYSIDE_SERVER").ok()).unwrap_or_else(|| "http://127.0.0.1:8080".into()),
        token: token.or_else(|| env::var("WAYSIDE_TOKEN").ok()),
    }
}

/// What the pipeline tells `wayside retrain head`.
pub fn trainer_folders() -> anyhow::Result<Folders> {
    let variable = |name: &str| env::var(name).with_context(|| format!("{name} is not set; a retraining job sets it"));
    let version = variable("WAYSIDE_VERSION")?;
    Ok(Folders {
        dataset: variable("WAYSIDE_DATASET")?.into(),
        base: variable("WAYSIDE_BASE")?.into(),
        output: variable("WAYSIDE_OUTPUT")?.into(),
        version: version.parse().with_context(|| format!("WAYSIDE_VERSION is {version:?}, not a version"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_file_is_a_server_on_loopback() {
        let config = parse("").expect("defaults");
        assert!(config.api.listen.ip().is_loopback());
        assert!(matches!(config.broker, broker::Config::Embedded { listen, .. } if listen.ip().is_loopback()));
    }

    #[test]
    fn a_full_file_is_read() {
        let text = r#"
            data_dir = "d"
            fleet = "plant"
            [api]
            listen = "127.0.0.1:0"
            [retention]
            age = "720h"
            bytes = 1000000
            [broker]
            kind = "external"
            url = "mqtt://127.0.0.1:1884"
            [trust]
            dir = "k"
            [[job]]
            name = "head"
            model = "vehicles-sim"
            command = ["wayside", "retrain", "head"]
            timeout = "10m"
        "#;
        let config = parse(text).expect("valid").relative_to(Path::new("/etc/wayside"));
        assert_eq!(config.data_dir, Path::new("/etc/wayside/d"));
        assert_eq!(config.jobs[0].timeout, Span(Duration::from_secs(600)));
        assert_eq!((config.retention.age, config.retention.bytes), (Some(Span(Duration::from_secs(720 * 3600))), Some(1_000_000)));
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_line() {
        struct Case {
            text: &'static str,
            says: &'static [&'static str],
        }
        let cases = [
            Case { text: "data_dir = \"d\"\nfleeet = \"x\"", says: &["line 2", "fleeet"] },
            Case { text: "[api]\nport = 1", says: &["line 2", "port"] },
            Case { text: "fleet = \"a/b\"", says: &["line 1", "a/b"] },
            Case { text: "[[job]]\nname = \"x\"\nmodel = \"m\"\ncommand = []\ntimeout = \"10\"", says: &["line 5", "length of time"] },
        ];
        for case in cases {
            let error = parse(case.text).expect_err(case.text);
            assert!(case.says.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}

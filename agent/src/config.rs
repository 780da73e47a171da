//! The configuration file: the sum of the modules' own configurations, read once.
//!
//! Invariant: an unknown key, a value of the wrong kind and a name that refers to nothing are refused with line and column, or
//! with the name. What holds a `Config` hands its parts out; nobody keeps the whole. Not here: what a setting does.

pub mod duration;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Deserialize;
use wayside_common::id::{DeviceClass, DeviceId, FleetId, SlotName, SourceName};

use crate::{drift, link, sampling, source::SourceConfig, spool, state::reports_stream};

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Everything that the agent writes lies below.
    pub data_dir: PathBuf,
    pub device: DeviceConfig,
    #[serde(default)]
    pub link: link::mqtt::Config,
    #[serde(default)]
    pub trust: TrustConfig,
    #[serde(default, rename = "source")]
    pub sources: Vec<SourceConfig>,
    #[serde(default, rename = "slot")]
    pub slots: Vec<SlotConfig>,
    #[serde(default)]
    pub samples: sampling::Config,
    #[serde(default)]
    pub drift: drift::Config,
    #[serde(default)]
    pub spool: spool::Config,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    pub id: DeviceId,
    pub fleet: FleetId,
    pub class: DeviceClass,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustConfig {
    /// The TUF root document that came with the device; absent: the one that came with its enrolment.
    pub root: Option<PathBuf>,
}

/// `[[slot]]`: a place for one model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotConfig {
    pub name: SlotName,
    pub source: SourceName,
    /// Folder of the model that the device ships with.
    pub package: PathBuf,
}

impl Config {
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not a configuration of the agent", path.display()))
    }

    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        let mut sources = BTreeSet::new();
        for source in &config.sources {
            anyhow::ensure!(source.name != reports_stream().source, "no source can be named {}", source.name);
            anyhow::ensure!(sources.insert(&source.name), "two sources are named {}", source.name);
        }
        let mut slots = BTreeSet::new();
        for slot in &config.slots {
            anyhow::ensure!(slots.insert(&slot.name), "two slots are named {}", slot.name);
            anyhow::ensure!(sources.contains(&slot.source), "slot {} refers to source {}, which does not exist", slot.name, slot.source);
        }
        Ok(config)
    }
}

/// Logs to stderr what `WAYSIDE_LOG` asks for; without it the agent's own events from `info` up.
pub fn log_to_stderr() {
    let filter = std::env::var("WAYSIDE_LOG").unwrap_or_else(|_| "warn,wayside_agent=info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
data_dir = "agent-data"
[device]
id = "cam-1"
fleet = "demo"
class = "camera"
[link]
broker = "mqtt://127.0.0.1:1883"
[trust]
root = "root.json"
[[source]]
name = "cam0"
kind = "sim-camera"
seed = 7
period = "500ms"
[[slot]]
name = "vehicles"
source = "cam0"
package = "models/zoo/vehicles-sim"
[samples]
margin_below = 0.2
[drift]
window = "10s"
"#;

    #[test]
    fn a_configuration_is_read_with_defaults() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!(config.spool, spool::Config::default());
        assert_eq!((config.samples.margin_below, config.samples.bytes_per_hour), (0.2, 2_000_000));
        assert_eq!((config.sources.len(), config.slots[0].name.as_str()), (1, "vehicles"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        struct Case(&'static str, &'static str, &'static [&'static str]);
        let cases = [
            Case("[drift]", "[drift]\ncolour = 1", &["line 23", "column 1", "colour"]),
            Case("seed = 7", "sead = 7", &["line 14", "sead"]),
            Case("id = \"cam-1\"", "id = \"cam/1\"", &["line 4", "device id"]),
            Case("broker = \"mqtt://127.0.0.1:1883\"", "broker = \"127.0.0.1\"", &["line 8", "mqtt://HOST:PORT"]),
            Case("period = \"500ms\"", "period = \"fast\"", &["line 15", "duration"]),
            Case("source = \"cam0\"", "source = \"cam1\"", &["slot vehicles", "cam1"]),
            Case("name = \"cam0\"", "name = \"agent\"", &["agent"]),
            Case("broker = \"mqtt://127.0.0.1:1883\"", "broker = \"mqtt://10.0.0.1:1883\"", &["line 8", "mqtts://"]),
            Case("[device]", "[device_]", &["device_"]),
        ];
        for Case(from, to, expected) in cases {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            let error = format!("{:#}", Config::parse(&text).unwrap_err());
            for part in expected {
                assert!(error.contains(part), "{error}\nlacks {part:?}");
            }
        }
    }
}

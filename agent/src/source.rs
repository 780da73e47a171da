//! Where readings and frames come from: one trait, its configuration, and the one place that opens a source.
//!
//! Invariant: an item is asked for by its position, so that a restarted agent goes on at the position now due and can name
//! what it missed. Not here: waiting for a position to be due (`sense`), and any picture decoding.

pub mod i2c;
pub mod images;
pub mod replay;
pub mod sim;

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use wayside_common::{
    id::SourceName,
    reading::Column,
    record::Roi,
    schedule::{Position, Schedule},
    time::Wall,
};

use crate::config::duration::{DurationText, InstantText};

/// What stands at one position.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// One value per column of the source.
    Reading(Vec<Option<i32>>),
    Frame {
        jpeg: Vec<u8>,
        roi: Option<Roi>,
        /// What the source calls it; empty where it has no name.
        item: String,
    },
}

/// When positions are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Timed(Schedule),
    /// As fast as the worker takes them.
    AsTaken {
        count: Option<u64>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Camera,
    Columns(Vec<Column>),
}

/// Why there is no item at a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The source has no such position, nor any later one.
    #[error("the source has ended")]
    Ended,
    /// This position could not be read; a later one may be.
    #[error("{0}")]
    Fault(String),
}

pub trait Source: Send {
    fn shape(&self) -> Shape;
    fn pace(&self) -> Pace;
    /// Blocking; called in order of position, on the source's own thread. Positions may be left out.
    fn read(&mut self, position: Position) -> Result<Item, SourceError>;
}

/// One `[[source]]` of the configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct SourceConfig {
    pub name: SourceName,
    /// When position 0 is due; absent: when the agent started.
    pub anchor: Option<Wall>,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Images(images::Config),
    Replay(replay::Config),
    SimCamera(sim::scene::Config),
    SimImu(sim::imu::Config),
    SimClimate(sim::climate::Config),
    I2cBme280(i2c::bme280::Config),
}

/// Opens what `config` names. `started` is the anchor of a source that has none of its own.
pub fn open(config: &SourceConfig, started: Wall) -> Result<Box<dyn Source>, SourceError> {
    let anchor = config.anchor.unwrap_or(started);
    Ok(match &config.kind {
        Kind::Images(kind) => Box::new(images::Images::open(kind, anchor)?),
        Kind::Replay(kind) => Box::new(replay::Replay::open(kind, anchor)?),
        Kind::SimCamera(kind) => Box::new(sim::scene::SimCamera::new(kind.clone(), anchor)),
        Kind::SimImu(kind) => Box::new(sim::imu::SimImu::new(kind.clone(), anchor)),
        Kind::SimClimate(kind) => Box::new(sim::climate::SimClimate::new(kind.clone(), anchor)),
        Kind::I2cBme280(kind) => Box::new(i2c::bme280::open(kind, anchor)),
    })
}

/// Every key of every kind, flat: so the parser itself says line and column of a key that no kind has. Which keys
/// belong to which kind is decided after the whole table is read, because TOML does not order keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    name: SourceName,
    kind: KindName,
    anchor: Option<InstantText>,
    path: Option<PathBuf>,
    period: Option<DurationText>,
    passes: Option<u64>,
    columns: Option<Vec<replay::ColumnConfig>>,
    time_column: Option<String>,
    speed: Option<f64>,
    seed: Option<u64>,
    count: Option<u64>,
    light: Option<sim::scene::Light>,
    weather: Option<sim::scene::Weather>,
    faults: Option<Vec<sim::Fault>>,
    address: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KindName {
    Images,
    Replay,
    SimCamera,
    SimImu,
    SimClimate,
    I2cBme280,
}

impl TryFrom<Keys> for SourceConfig {
    type Error = String;

    fn try_from(mut keys: Keys) -> Result<Self, String> {
        let kind = match keys.kind {
            KindName::Images => Kind::Images(images::Config {
                path: need("path", keys.path.take())?,
                period: keys.period.take().map(positive).transpose()?,
                passes: keys.passes.take(),
            }),
            KindName::Replay => Kind::Replay(replay::Config {
                path: need("path", keys.path.take())?,
                columns: need("columns", keys.columns.take())?,
                pace: keys.replay_pace()?,
                passes: keys.passes.take(),
            }),
            KindName::SimCamera => Kind::SimCamera(sim::scene::Config {
                seed: keys.seed.take().unwrap_or_default(),
                period: keys.period(sim::scene::PERIOD)?,
                count: keys.count.take(),
                light: keys.light.take().unwrap_or(sim::scene::Light::Day),
                weather: keys.weather.take().unwrap_or(sim::scene::Weather::Clear),
            }),
            KindName::SimImu => Kind::SimImu(sim::imu::Config {
                seed: keys.seed.take().unwrap_or_default(),
                period: keys.period(sim::imu::PERIOD)?,
                count: keys.count.take(),
                faults: sim::check(keys.faults.take().unwrap_or_default(), &sim::imu::columns())?,
            }),
            KindName::SimClimate => Kind::SimClimate(sim::climate::Config {
                seed: keys.seed.take().unwrap_or_default(),
                period: keys.period(sim::climate::PERIOD)?,
                count: keys.count.take(),
                faults: sim::check(keys.faults.take().unwrap_or_default(), &sim::climate::columns())?,
            }),
            KindName::I2cBme280 => Kind::I2cBme280(i2c::bme280::Config {
                path: need("path", keys.path.take())?,
                address: keys.address.take().unwrap_or(i2c::bme280::ADDRESS),
                period: keys.period(i2c::bme280::PERIOD)?,
            }),
        };
        keys.refuse_the_rest()?;
        Ok(Self { name: keys.name, anchor: keys.anchor.map(|anchor| anchor.0), kind })
    }
}

impl Keys {
    fn period(&mut self, default: Duration) -> Result<Duration, String> {
        self.period.take().map_or(Ok(default), positive)
    }

    fn replay_pace(&mut self) -> Result<replay::ReplayPace, String> {
        let speed = self.speed.take().unwrap_or(1.0);
        if !(speed.is_finite() && speed > 0.0) {
            return Err(format!("speed = {speed} is not a number above zero"));
        }
        match (self.period.take(), self.time_column.take()) {
            (Some(period), None) if speed == 1.0 => Ok(replay::ReplayPace::Every(positive(period)?)),
            (None, Some(column)) => Ok(replay::ReplayPace::Recorded { column, speed }),
            _ => Err("a replay needs either `period`, or `time_column` and perhaps `speed`".into()),
        }
    }

    /// What a kind did not take does not belong to it.
    fn refuse_the_rest(&self) -> Result<(), String> {
        let left = [
            ("path", self.path.is_some()),
            ("period", self.period.is_some()),
            ("passes", self.passes.is_some()),
            ("columns", self.columns.is_some()),
            ("time_column", self.time_column.is_some()),
            ("speed", self.speed.is_some()),
            ("seed", self.seed.is_some()),
            ("count", self.count.is_some()),
            ("light", self.light.is_some()),
            ("weather", self.weather.is_some()),
            ("faults", self.faults.is_some()),
            ("address", self.address.is_some()),
        ];
        match left.iter().find(|(_, present)| *present) {
            Some((key, _)) => Err(format!("source {}: a source of this kind has no key `{key}`", self.name)),
            None => Ok(()),
        }
    }
}

fn need<T>(key: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("a source of this kind needs the key `{key}`"))
}

fn positive(period: DurationText) -> Result<Duration, String> {
    if period.0.is_zero() { Err("period is zero".into()) } else { Ok(period.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sources {
        source: Vec<SourceConfig>,
    }

    #[test]
    fn every_kind_is_configured_by_its_own_keys() {
        let text = r#"
            source = [
                { name = "cam0", kind = "images", path = "photos", passes = 1, anchor = "2026-11-23T12:00:00Z" },
                { name = "imu0", kind = "replay", path = "a.csv", time_column = "t_ms", speed = 2.0,
                  columns = [{ name = "ax", unit = "m/s2", lsb = 0.0047884 }] },
                { name = "cam1", kind = "sim-camera", seed = 7, light = "night", weather = "fog", period = "250ms" },
                { name = "imu1", kind = "sim-imu", anchor = 12, faults = [{ kind = "stuck", from = 3, to = 9, column = "ax" }] },
                { name = "room", kind = "sim-climate", count = 90 },
                { name = "room2", kind = "i2c-bme280", path = "/dev/i2c-1", address = 0x77 },
            ]"#;
        let sources = toml::from_str::<Sources>(text).unwrap().source;
        assert_eq!(sources.len(), 6);
        assert_eq!(sources[0].anchor, Wall::from_rfc3339("2026-11-23T12:00:00Z"));
        assert_eq!(sources[3].anchor, Some(Wall(12)));
        let Kind::SimCamera(camera) = &sources[2].kind else { panic!("{:?}", sources[2]) };
        assert_eq!((camera.seed, camera.period), (7, Duration::from_millis(250)));
        for source in &sources[2..] {
            assert!(open(source, Wall(5)).is_ok(), "{source:?}");
        }
        assert!(open(&sources[0], Wall(5)).is_err());
    }

    #[test]
    fn what_does_not_belong_is_refused_with_its_place() {
        struct Case {
            keys: &'static str,
            says: &'static str,
        }
        for case in [
            Case { keys: "kind = 'images'\npath = 'a'\nperod = '1s'", says: "line 5, column 1" },
            Case { keys: "kind = 'images'\npath = 'a'\nseed = 7", says: "`seed`" },
            Case { keys: "kind = 'images'", says: "`path`" },
            Case { keys: "kind = 'sim-camera'\nperiod = '0s'", says: "zero" },
            Case { keys: "kind = 'sim-camera'\nperiod = 'soon'", says: "line 4, column 10" },
            Case { keys: "kind = 'replay'\npath = 'a'\ncolumns = []", says: "`time_column`" },
            Case { keys: "kind = 'sim-imu'\nfaults = [{ kind = 'stuck', from = 1, to = 2, column = 'nose' }]", says: "\"nose\"" },
            Case { keys: "kind = 'sim-climate'\nfaults = [{ kind = 'magnet', from = 1, to = 2 }]", says: "magnet" },
            Case { keys: "kind = 'telepathy'", says: "line 3, column 8" },
        ] {
            let text = format!("[[source]]\nname = 'x'\n{}\n", case.keys);
            let error = toml::from_str::<Sources>(&text).unwrap_err().to_string();
            assert!(error.contains(case.says), "{}: {error}", case.keys);
        }
    }
}

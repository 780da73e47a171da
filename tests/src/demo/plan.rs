//! The five devices of the demo: what each senses, which model it ships with, and its configuration file.
//!
//! Invariant: with the anchor, everything that will be due in a run follows from the scenario alone. Not here: processes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use wayside_common::{schedule::Schedule, time::Wall};
use wayside_models::package::Package;

use super::pictures::Hand;

pub const FLEET: &str = "demo";
pub const CAMERA_SLOT: &str = "vehicles";

/// Between two frames of a simulated camera.
const CAMERA_PERIOD: Duration = Duration::from_millis(500);
/// 95.2 readings a second.
const IMU_PERIOD: Duration = wayside_agent::source::sim::imu::PERIOD;
/// The room lives a minute in half a second, so that its windows fill while one watches.
const CLIMATE_PERIOD: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Camera,
    Imu,
    Climate,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Camera => "camera",
            Self::Imu => "imu",
            Self::Climate => "climate",
        }
    }

    /// The stream in which each position of the source is one record.
    pub fn main_stream(self, source: &str) -> String {
        match self {
            Self::Camera => format!("{source}.frames"),
            Self::Imu | Self::Climate => format!("{source}.readings"),
        }
    }
}

/// Where a device's items come from.
#[derive(Clone, Debug)]
pub enum Input {
    Sim { seed: u64, period: Duration, count: Option<u64> },
    Pictures(Hand),
}

#[derive(Clone, Debug)]
pub struct Device {
    pub id: &'static str,
    pub kind: Kind,
    pub source: &'static str,
    pub slot: &'static str,
    /// Folder of the model that the device ships with.
    pub package: PathBuf,
    pub input: Input,
}

/// With fewer pictures each is a sample.
const FEW_PICTURES: usize = 300;

impl Device {
    pub fn stream(&self) -> String {
        self.kind.main_stream(self.source)
    }

    /// How many positions are due in the whole run; `None` for a run without end.
    pub fn produced(&self) -> Option<u64> {
        match &self.input {
            Input::Sim { count, .. } => *count,
            Input::Pictures(hand) => Some(hand.truth.len() as u64),
        }
    }

    /// When they are due; `None` where the worker sets the pace.
    pub fn schedule(&self, anchor: Wall) -> Option<Schedule> {
        match &self.input {
            Input::Sim { period, count, .. } => Some(Schedule { anchor, period: *period, count: *count }),
            Input::Pictures(_) => None,
        }
    }

    /// The agent's configuration file.
    /// Where the server is, its enrolment says.
    pub fn config(&self, folder: &Path, anchor: Wall) -> String {
        let Self { id, source, slot, package, .. } = self;
        let class = self.kind.as_str();
        let (data_dir, package) = (quoted(&folder.join(id)), quoted(package));
        // The scenes' own model is nearly always sure of them; of photos it is often not.
        let margin_below = match &self.input {
            Input::Sim { .. } => 0.995,
            // Of a few pictures all are worth a label, or too few would be for a head to be trained.
            Input::Pictures(hand) if hand.truth.len() < FEW_PICTURES => 1.01,
            Input::Pictures(_) => 0.8,
        };
        let input = match &self.input {
            Input::Sim { seed, period, count } => {
                let count = count.map_or_else(String::new, |count| format!("count = {count}\n"));
                format!("kind = \"sim-{class}\"\nseed = {seed}\nperiod = \"{}us\"\nanchor = {}\n{count}", period.as_micros(), anchor.0)
            }
            Input::Pictures(hand) => format!("kind = \"images\"\npath = {}\npasses = 1\n", quoted(&hand.folder)),
        };
        format!(
            "data_dir = {data_dir}\n\n[device]\nid = \"{id}\"\nfleet = \"{FLEET}\"\nclass = \"{class}\"\n\n[[source]]\nname = \"{source}\"\n{input}\n\
             [[slot]]\nname = \"{slot}\"\nsource = \"{source}\"\npackage = {package}\n\n[samples]\nmargin_below = {margin_below}\nbytes_per_hour = 8000000\n\n[drift]\nwindow = \"5s\"\n"
        )
    }
}

/// The packages that the story is about.
#[derive(Clone, Debug)]
pub struct CameraModels {
    pub first: PathBuf,
    /// The same network with another head, one version higher.
    pub second: PathBuf,
    /// The name that both have in their manifest.
    pub name: String,
    pub second_version: u32,
    /// The classes that it knows.
    pub labels: Vec<String>,
}

impl CameraModels {
    /// `vehicles` for photos; drawn scenes have a model of their own.
    pub fn find(zoo: &Path, photos: bool) -> anyhow::Result<Self> {
        let family = if photos { "vehicles" } else { "vehicles-sim" };
        let (first, second) = (zoo.join(family), zoo.join(format!("{family}-refit")));
        let open = |folder: &Path| Package::open(folder).with_context(|| format!("the model in {} cannot be read", folder.display()));
        let (shipped, refitted) = (open(&first)?, open(&second)?);
        let (shipped, refitted) = (shipped.manifest(), refitted.manifest());
        ensure!(
            shipped.name == refitted.name && shipped.version < refitted.version,
            "{} is no later version of {}",
            second.display(),
            first.display()
        );
        let (name, labels) = (refitted.name.to_string(), refitted.answer().1.to_vec());
        Ok(Self { name, second_version: refitted.version, labels, first, second })
    }
}

/// The devices of a run. `feed` is how long the sensors have items; without it they have them for ever. `hands` are the pictures of the
/// two cameras, where there are any.
pub fn devices(zoo: &Path, cameras: &CameraModels, seed: u64, feed: Option<Duration>, hands: Option<[Hand; 2]>) -> Vec<Device> {
    let sim = |number: u64, period: Duration| {
        let count = feed.map(|feed| u64::try_from(feed.as_micros() / period.as_micros()).unwrap_or(u64::MAX));
        // TOML numbers are signed, and two devices must not see the same.
        Input::Sim { seed: (seed.wrapping_mul(31).wrapping_add(number)) & 0x7fff_ffff_ffff_ffff, period, count }
    };
    let cameras_see: [Input; 2] = match hands {
        Some(hands) => hands.map(Input::Pictures),
        None => [sim(1, CAMERA_PERIOD), sim(2, CAMERA_PERIOD)],
    };
    let [one, two] = cameras_see;
    let camera = |id, input| Device { id, kind: Kind::Camera, source: "cam0", slot: CAMERA_SLOT, package: cameras.first.clone(), input };
    let imu = |id, input| Device { id, kind: Kind::Imu, source: "imu0", slot: "motion", package: zoo.join("motion"), input };
    vec![
        camera("cam-1", one),
        camera("cam-2", two),
        imu("imu-1", sim(3, IMU_PERIOD)),
        imu("imu-2", sim(4, IMU_PERIOD)),
        Device {
            id: "climate-1",
            kind: Kind::Climate,
            source: "room0",
            slot: "room",
            package: zoo.join("room-th"),
            input: sim(5, CLIMATE_PERIOD),
        },
    ]
}

/// The server's configuration file. `wayside` is the program that its retraining job runs.
pub fn server_config(folder: &Path, [api, broker, enroll]: &[String; 3], wayside: &Path, cameras: &CameraModels) -> String {
    let (data, keys, program) = (quoted(&folder.join("server")), quoted(&folder.join("server-keys")), quoted(wayside));
    // The server has the drift reference of what devices come with only if it knows the packages.
    let zoo = cameras.first.parent().unwrap_or(Path::new("."));
    let shipped = [cameras.first.clone(), zoo.join("motion"), zoo.join("room-th")];
    let shipped: Vec<String> = shipped.iter().map(|package| quoted(package)).collect();
    format!(
        "data_dir = {data}\nfleet = \"{FLEET}\"\npackages = [{}]\n\n[api]\nlisten = \"{api}\"\n\n[broker]\nkind = \"embedded\"\nlisten = \"{broker}\"\ntls = \"own\"\n\n\
         [enroll]\nlisten = \"{enroll}\"\n\n[trust]\ndir = {keys}\n\n[[job]]\nname = \"head\"\nmodel = \"{}\"\ncommand = [{program}, \"retrain\", \"head\"]\ntimeout = \"2m\"\n",
        shipped.join(", "),
        cameras.name
    )
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.to_string_lossy().into_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(feed: Option<Duration>) -> Vec<Device> {
        let cameras = CameraModels {
            first: "/zoo/a".into(),
            second: "/zoo/b".into(),
            name: "vehicles".into(),
            second_version: 2,
            labels: Vec::new(),
        };
        devices(Path::new("/zoo"), &cameras, 42, feed, None)
    }

    #[test]
    fn what_is_due_follows_from_the_scenario() {
        let devices = plan(Some(Duration::from_secs(60)));
        let produced: Vec<Option<u64>> = devices.iter().map(Device::produced).collect();
        assert_eq!(produced, [Some(120), Some(120), Some(5_712), Some(5_712), Some(120)]);
        assert!(plan(None).iter().all(|device| device.produced().is_none()));
    }

    #[test]
    fn configurations_are_toml_whatever_the_paths_are() {
        let folder = Path::new("/tmp/a \"quoted\" folder\\with 'signs");
        for device in plan(Some(Duration::from_secs(60))) {
            let text = device.config(folder, Wall(1_000));
            let table: toml::Table = toml::from_str(&text).unwrap();
            assert_eq!(table["data_dir"].as_str(), folder.join(device.id).to_str());
            wayside_agent::config::Config::parse(&text).unwrap();
        }
    }

    #[test]
    fn devices_differ_and_the_seed_decides() {
        let seeds = |devices: Vec<Device>| -> Vec<u64> {
            devices
                .iter()
                .filter_map(|d| match &d.input {
                    Input::Sim { seed, .. } => Some(*seed),
                    Input::Pictures(_) => None,
                })
                .collect()
        };
        let mut first = seeds(plan(None));
        assert_eq!(first, seeds(plan(None)));
        first.dedup();
        assert_eq!(first.len(), 5);
    }
}

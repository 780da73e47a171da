//! A simulated office room, one position a minute: temperature, humidity, light and carbon dioxide, and who sits in it.
//!
//! Invariant: position 0 is a Monday, 06:00; a position is computed from noon of the day before on, by which time an earlier
//! state has faded, so that no history is kept. Not here: the truth's use; a model is trained on a real room.

use std::{f64::consts::TAU, time::Duration};

use wayside_common::{
    reading::Column,
    schedule::{Position, Schedule},
    time::Wall,
};

use crate::source::{
    Item, Pace, Shape, Source, SourceError,
    sim::{Channel, Fault, draws, normal, sense, uniform},
};

/// One position is one simulated minute, however fast it is played.
pub const PERIOD: Duration = Duration::from_secs(60);

const DAY: u64 = 1440;
/// Position 0, in minutes since a Monday's midnight; a whole week is added, so that the day before always exists.
const START: u64 = 7 * DAY + 6 * 60;

const CHANNELS: [Channel; 4] = [
    Channel { name: "temperature", unit: "degC", lsb: 0.01, range: 85.0 },
    Channel { name: "humidity", unit: "%RH", lsb: 0.01, range: 100.0 },
    Channel { name: "light", unit: "lux", lsb: 0.5, range: 10_000.0 },
    Channel { name: "co2", unit: "ppm", lsb: 0.25, range: 5_000.0 },
];

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub seed: u64,
    pub period: Duration,
    /// Absent: for ever.
    pub count: Option<u64>,
    pub faults: Vec<Fault>,
}

pub struct SimClimate {
    config: Config,
    anchor: Wall,
}

impl SimClimate {
    pub fn new(config: Config, anchor: Wall) -> Self {
        Self { config, anchor }
    }
}

pub fn columns() -> Vec<Column> {
    CHANNELS.iter().map(Channel::column).collect()
}

impl Source for SimClimate {
    fn shape(&self) -> Shape {
        Shape::Columns(columns())
    }

    fn pace(&self) -> Pace {
        Pace::Timed(Schedule { anchor: self.anchor, period: self.config.period, count: self.config.count })
    }

    fn read(&mut self, position: Position) -> Result<Item, SourceError> {
        if self.config.count.is_some_and(|count| position.0 >= count) {
            return Err(SourceError::Ended);
        }
        let Config { seed, faults, .. } = &self.config;
        Ok(Item::Reading(sense(&CHANNELS, faults, position.0, &mut |p| values(*seed, p))))
    }
}

/// The truth at a position: how many people are in the room.
pub fn people(seed: u64, position: Position) -> u32 {
    let minute = minute(position.0);
    Day::draw(seed, minute / DAY).people(minute % DAY)
}

/// Since a Monday's midnight.
fn minute(position: u64) -> u64 {
    position.saturating_add(START)
}

/// The timetable and the weather of one day.
struct Day {
    /// Minutes of the day at which each one comes, goes to lunch, comes back and leaves.
    stays: Vec<[f64; 4]>,
    outdoor: f64,
    /// Share of the sky that is free.
    clear: f64,
}

impl Day {
    fn draw(seed: u64, day: u64) -> Self {
        let mut rng = draws(seed, "climate day", day);
        let seats = if day % 7 < 5 { rng.usize(1..4) } else { 0 };
        let stay = |rng: &mut fastrand::Rng| {
            let lunch = uniform(rng, 710.0, 750.0);
            [uniform(rng, 480.0, 560.0), lunch, lunch + uniform(rng, 30.0, 60.0), uniform(rng, 970.0, 1_090.0)]
        };
        Self {
            stays: (0..seats).map(|_| stay(&mut rng)).collect(),
            outdoor: uniform(&mut rng, 2.0, 12.0),
            clear: uniform(&mut rng, 0.2, 1.0),
        }
    }

    fn people(&self, minute: u64) -> u32 {
        let now = minute as f64;
        let inside = |s: &&[f64; 4]| (s[0]..s[1]).contains(&now) || (s[2]..s[3]).contains(&now);
        self.stays.iter().filter(inside).count() as u32
    }

    /// 0 at night, 1 under a clear sky at noon.
    fn sun(&self, minute: u64) -> f64 {
        self.clear * (TAU * (minute as f64 - 360.0) / DAY as f64).sin().max(0.0)
    }

    fn outdoor(&self, minute: u64) -> f64 {
        self.outdoor + 4.0 * (TAU * (minute as f64 - 540.0) / DAY as f64).sin()
    }
}

/// The air of the room.
struct Air {
    celsius: f64,
    /// Grams of water in a kilogram of air.
    moisture: f64,
    co2: f64,
}

impl Air {
    /// One minute of heating, people and an air change each 75 minutes.
    fn step(&mut self, day: &Day, minute: u64) {
        const AIR_CHANGE: f64 = 75.0;
        let people = f64::from(day.people(minute));
        let working_day = if day.stays.is_empty() { 17.5 } else { 21.0 };
        let thermostat = if (330..1_110).contains(&minute) { working_day } else { 18.0 };
        let outdoor = day.outdoor(minute);
        self.celsius += (thermostat - self.celsius) / 50.0 + (outdoor - self.celsius) / 1_500.0;
        self.celsius += 0.016 * people + 0.03 * day.sun(minute);
        self.moisture += (4.2 + 0.08 * outdoor - self.moisture) / AIR_CHANGE + 0.0085 * people;
        self.co2 += (425.0 - self.co2) / AIR_CHANGE + 3.1 * people;
    }

    /// Magnus' formula for the pressure of saturated vapour, at 1013.25 hPa.
    fn humidity(&self) -> f64 {
        let saturated = 6.112 * (17.62 * self.celsius / (243.12 + self.celsius)).exp();
        let ratio = self.moisture / 1_000.0;
        100.0 * (1_013.25 * ratio / (0.622 + ratio)) / saturated
    }
}

fn values(seed: u64, position: u64) -> [f64; 4] {
    let now = minute(position);
    let today = now / DAY;
    let days = [Day::draw(seed, today - 1), Day::draw(seed, today)];
    let mut air = Air { celsius: 20.0, moisture: 5.0, co2: 450.0 };
    for minute in DAY / 2..=DAY + now % DAY {
        air.step(&days[(minute / DAY) as usize], minute % DAY);
    }
    let mut rng = draws(seed, "climate noise", position);
    let mut noisy = |value: f64, deviation: f64| value + deviation * normal(&mut rng);
    let lamps = if days[1].people(now % DAY) > 0 { 405.0 } else { 0.0 };
    let light = lamps + 190.0 * days[1].sun(now % DAY);
    [noisy(air.celsius, 0.02), noisy(air.humidity(), 0.05), noisy(light, 0.008 * light).max(0.0), noisy(air.co2, 2.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_depends_on_seed_and_position_alone() {
        let mut source = SimClimate::new(Config { seed: 3, period: PERIOD, count: Some(9_000), faults: vec![] }, Wall(0));
        let first = source.read(Position(5_000));
        for p in [0, 1_079, 1_080, 8_999] {
            assert!(matches!(source.read(Position(p)), Ok(Item::Reading(values)) if values.iter().all(Option::is_some)));
        }
        assert_eq!(source.read(Position(5_000)), first);
        assert_eq!(source.read(Position(9_000)), Err(SourceError::Ended));
        assert!(values(3, u64::MAX).iter().all(|v| v.is_finite()));
    }

    #[test]
    fn midnight_leaves_no_step_in_the_air() {
        for day in 1..14 {
            let midnight = day * DAY - 6 * 60;
            let (before, after) = (values(3, midnight - 1), values(3, midnight));
            assert!((before[0] - after[0]).abs() < 0.3, "{before:?} {after:?}");
            assert!((before[3] - after[3]).abs() < 20.0, "{before:?} {after:?}");
        }
    }

    #[test]
    fn people_light_the_lamps_and_breathe() {
        let monday = |hour: u64, minute: u64| hour * 60 + minute - 6 * 60;
        for seed in 0..20 {
            assert_eq!(people(seed, Position(monday(7, 30))), 0);
            assert!(people(seed, Position(monday(11, 0))) > 0);
            let (empty, full) = (values(seed, monday(7, 30)), values(seed, monday(11, 30)));
            assert!(full[2] > 365.0 && empty[2] < 200.0);
            assert!(full[3] > empty[3] + 100.0, "{empty:?} {full:?}");
            assert!((10.0..80.0).contains(&full[1]) && (15.0..30.0).contains(&full[0]), "{full:?}");
            assert_eq!(people(seed, Position(5 * DAY + monday(11, 0))), 0);
        }
    }
}

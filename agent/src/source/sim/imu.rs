//! A simulated IMU in somebody's hand: it rests, is turned about, is moved along; 95.2 readings a second.
//!
//! Invariant: the motion is given in closed form (angles and accelerations as functions of time), so that any position can be
//! computed alone; the configured period sets the pace only. Not here: what a model makes of it.

use std::{f64::consts::TAU, time::Duration};

use wayside_common::{
    reading::Column,
    schedule::{Position, Schedule},
    time::Wall,
};

use crate::source::{
    Item, Pace, Shape, Source, SourceError,
    sim::{Channel, Fault, FaultKind, draws, normal, sense, uniform},
};

/// 95.2 Hz.
pub const PERIOD: Duration = Duration::from_micros(10_504);
/// Readings of one phase of motion: 8 s.
pub const PHASE: u64 = 762;

const GRAVITY: f64 = 9.81;
const RAMP_S: f64 = 0.6;
/// The earth's field in the room, µT.
const FIELD: [f64; 3] = [19.0, 2.0, -41.0];

const CHANNELS: [Channel; 9] = [
    channel("ax", "m/s2", 0.0047884, 16.0 * GRAVITY),
    channel("ay", "m/s2", 0.0047884, 16.0 * GRAVITY),
    channel("az", "m/s2", 0.0047884, 16.0 * GRAVITY),
    channel("gx", "rad/s", 0.0010653, 34.9),
    channel("gy", "rad/s", 0.0010653, 34.9),
    channel("gz", "rad/s", 0.0010653, 34.9),
    channel("mx", "uT", 0.15, 4_900.0),
    channel("my", "uT", 0.15, 4_900.0),
    channel("mz", "uT", 0.15, 4_900.0),
];

const fn channel(name: &'static str, unit: &'static str, lsb: f64, range: f64) -> Channel {
    Channel { name, unit, lsb, range }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub seed: u64,
    pub period: Duration,
    /// Absent: for ever.
    pub count: Option<u64>,
    pub faults: Vec<Fault>,
}

pub struct SimImu {
    config: Config,
    anchor: Wall,
}

impl SimImu {
    pub fn new(config: Config, anchor: Wall) -> Self {
        Self { config, anchor }
    }
}

pub fn columns() -> Vec<Column> {
    CHANNELS.iter().map(Channel::column).collect()
}

impl Source for SimImu {
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
        let magnet = |p: u64| faults.iter().any(|f| f.kind == FaultKind::Magnet && (f.from..=f.to).contains(&p));
        Ok(Item::Reading(sense(&CHANNELS, faults, position.0, &mut |p| values(*seed, p, magnet(p)))))
    }
}

/// What the hand does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    Rest,
    Rotation,
    Translation,
}

/// The truth at a position.
pub fn motion(seed: u64, position: Position) -> Motion {
    match draws(seed, "imu phase", position.0 / PHASE).u8(0..3) {
        0 => Motion::Rest,
        1 => Motion::Rotation,
        _ => Motion::Translation,
    }
}

/// One swing: amplitude, angular frequency and phase of a sine.
#[derive(Clone, Copy)]
struct Swing {
    amplitude: f64,
    omega: f64,
    phase: f64,
}

impl Swing {
    fn draw(rng: &mut fastrand::Rng, amplitude: (f64, f64), hertz: (f64, f64)) -> Self {
        Self {
            amplitude: uniform(rng, amplitude.0, amplitude.1),
            omega: TAU * uniform(rng, hertz.0, hertz.1),
            phase: uniform(rng, 0.0, TAU),
        }
    }

    fn at(self, time: f64) -> f64 {
        self.amplitude * (self.omega * time + self.phase).sin()
    }
}

/// One phase of motion. Angles are roll, pitch and yaw against the resting pose.
struct Phase {
    angles: [Swing; 3],
    accelerations: [Swing; 3],
    heading: f64,
}

impl Phase {
    fn draw(seed: u64, position: u64) -> Self {
        let mut rng = draws(seed, "imu motion", position / PHASE);
        let (angle, acceleration, hertz) = match motion(seed, Position(position)) {
            Motion::Rest => ((0.0, 0.0), (0.0, 0.0), (0.2, 0.4)),
            Motion::Rotation => ((0.6, 1.3), (0.05, 0.4), (0.2, 0.9)),
            Motion::Translation => ((0.02, 0.08), (1.5, 4.5), (0.4, 1.4)),
        };
        Self {
            angles: std::array::from_fn(|_| Swing::draw(&mut rng, angle, hertz)),
            accelerations: std::array::from_fn(|_| Swing::draw(&mut rng, acceleration, hertz)),
            heading: uniform(&mut draws(seed, "imu heading", 0), 0.0, TAU),
        }
    }

    /// A motion swells and fades, so that one phase joins the next.
    fn envelope(time: f64) -> f64 {
        let length = PHASE as f64 * PERIOD.as_secs_f64();
        let smooth = |x: f64| x.clamp(0.0, 1.0).powi(2) * (3.0 - 2.0 * x.clamp(0.0, 1.0));
        smooth(time / RAMP_S) * smooth((length - time) / RAMP_S)
    }

    fn angles(&self, time: f64) -> [f64; 3] {
        let [roll, pitch, yaw] = self.angles.map(|swing| Self::envelope(time) * swing.at(time));
        [roll, pitch, yaw + self.heading]
    }

    /// Turning rates about the body's axes, from the rates of the angles (yaw, then pitch, then roll).
    fn rates(&self, time: f64) -> [f64; 3] {
        const STEP: f64 = 1e-4;
        let (before, after) = (self.angles(time - STEP), self.angles(time + STEP));
        let [roll_rate, pitch_rate, yaw_rate] = std::array::from_fn(|i| (after[i] - before[i]) / (2.0 * STEP));
        let [roll, pitch, _] = self.angles(time);
        [
            roll_rate - yaw_rate * pitch.sin(),
            pitch_rate * roll.cos() + yaw_rate * roll.sin() * pitch.cos(),
            -pitch_rate * roll.sin() + yaw_rate * roll.cos() * pitch.cos(),
        ]
    }

    /// A vector of the room as the body sees it.
    fn to_body(&self, time: f64, [x, y, z]: [f64; 3]) -> [f64; 3] {
        let [roll, pitch, yaw] = self.angles(time);
        let (x, y) = (x * yaw.cos() + y * yaw.sin(), -x * yaw.sin() + y * yaw.cos());
        let (x, z) = (x * pitch.cos() - z * pitch.sin(), x * pitch.sin() + z * pitch.cos());
        [x, y * roll.cos() + z * roll.sin(), -y * roll.sin() + z * roll.cos()]
    }
}

fn values(seed: u64, position: u64, magnet: bool) -> [f64; 9] {
    let phase = Phase::draw(seed, position);
    let time = (position % PHASE) as f64 * PERIOD.as_secs_f64();
    let [ax, ay, az] = phase.accelerations.map(|swing| Phase::envelope(time) * swing.at(time));
    // An accelerometer at rest feels the table push up.
    let force = phase.to_body(time, [ax, ay, az + GRAVITY]);
    let rates = phase.rates(time);
    let mut field = phase.to_body(time, FIELD);
    if magnet {
        // It is attached to the body, so it does not turn with the room.
        for (axis, pull) in field.iter_mut().zip([55.0, -28.0, 34.0]) {
            *axis += pull;
        }
    }
    let mut rng = draws(seed, "imu noise", position);
    let mut noisy = |value: f64, deviation: f64| value + deviation * normal(&mut rng);
    std::array::from_fn(|i| match i {
        0..3 => noisy(force[i], 0.02),
        3..6 => noisy(rates[i - 3], 0.002),
        _ => noisy(field[i - 6], 0.35),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(faults: Vec<Fault>) -> SimImu {
        SimImu::new(Config { seed: 7, period: PERIOD, count: None, faults }, Wall(0))
    }

    fn row(source: &mut SimImu, position: u64) -> Vec<Option<i32>> {
        match source.read(Position(position)) {
            Ok(Item::Reading(values)) => values,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reading_depends_on_seed_and_position_alone() {
        let (mut one, mut other) = (source(vec![]), source(vec![]));
        let forward: Vec<_> = (0..2_000).map(|p| row(&mut one, p)).collect();
        for p in (0..2_000).rev().step_by(37) {
            assert_eq!(row(&mut other, p), forward[p as usize]);
        }
        assert!(one.read(Position(u64::MAX)).is_ok());
    }

    #[test]
    fn each_motion_shows_where_physics_says() {
        for position in (0..40 * PHASE).step_by(PHASE as usize).map(|start| start + PHASE / 2) {
            let window: Vec<[f64; 9]> = (position - 95..position + 95).map(|p| values(7, p, false)).collect();
            let deviation = |range: std::ops::Range<usize>| {
                let norm = |v: &[f64; 9]| range.clone().map(|i| v[i] * v[i]).sum::<f64>().sqrt();
                let mean = window.iter().map(norm).sum::<f64>() / 190.0;
                (window.iter().map(|v| (norm(v) - mean).powi(2)).sum::<f64>() / 190.0).sqrt()
            };
            let turning = window.iter().map(|v| (3..6).map(|i| v[i] * v[i]).sum::<f64>().sqrt()).sum::<f64>() / 190.0;
            match motion(7, Position(position)) {
                Motion::Rest => assert!(turning < 0.02 && deviation(0..3) < 0.1),
                Motion::Rotation => assert!(turning > 0.4, "{turning}"),
                Motion::Translation => assert!(turning < 0.6 && deviation(0..3) > 0.3, "{turning}"),
            }
            // Turning a field does not change its strength.
            assert!(deviation(6..9) < 1.0);
        }
    }

    #[test]
    fn faults_do_what_they_are_named_after() {
        let fault = |kind, column: Option<&str>| vec![Fault { kind, from: 10, to: 20, column: column.map(Into::into) }];
        let honest: Vec<_> = (0..30).map(|p| row(&mut source(vec![]), p)).collect();
        struct Case {
            faults: Vec<Fault>,
            column: usize,
            expected: Option<i32>,
        }
        for case in [
            Case { faults: fault(FaultKind::Stuck, Some("az")), column: 2, expected: honest[9][2] },
            Case { faults: fault(FaultKind::Dropout, None), column: 5, expected: None },
            Case { faults: fault(FaultKind::Saturated, Some("ax")), column: 0, expected: Some(32_779) },
        ] {
            let mut source = source(case.faults);
            assert_eq!(row(&mut source, 9), honest[9]);
            assert_eq!(row(&mut source, 15)[case.column], case.expected);
            assert_eq!(row(&mut source, 21), honest[21]);
        }
        let magnet = row(&mut source(fault(FaultKind::Magnet, None)), 15);
        assert_eq!(magnet[..6], honest[15][..6]);
        assert!(magnet[6].unwrap() - honest[15][6].unwrap() > 300);
    }
}

//! Sources that need no hardware: a camera, an IMU and a room, each a physical model and nothing else.
//!
//! Invariant: an item is a function of (seed, position); the demo derives the truth from the same two numbers. Not here:
//! judging a model; drawn scenes test the plumbing and drift.

pub mod climate;
pub mod imu;
pub mod scene;

use serde::Deserialize;
use wayside_common::reading::Column;

/// Something wrong with a simulated sensor, at the positions `from` to `to` inclusive.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub kind: FaultKind,
    pub from: u64,
    pub to: u64,
    /// Absent: all columns.
    pub column: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The value of the position before `from`, again and again.
    Stuck,
    /// No value.
    Dropout,
    /// The end of the sensor's range.
    Saturated,
    /// A magnet beside the IMU; moves the `m` columns alone.
    Magnet,
}

/// Refuses a fault on a column that the source does not have.
pub(super) fn check(faults: Vec<Fault>, columns: &[Column]) -> Result<Vec<Fault>, String> {
    for fault in &faults {
        if let Some(name) = &fault.column
            && !columns.iter().any(|column| column.name == *name)
        {
            return Err(format!("a fault names the column {name:?}, which this source does not have"));
        }
        if fault.kind == FaultKind::Magnet && !columns.iter().any(|column| column.name == "mx") {
            return Err("a magnet disturbs only an IMU".into());
        }
    }
    Ok(faults)
}

/// A column of a simulated sensor with the largest absolute value that it can tell.
struct Channel {
    name: &'static str,
    unit: &'static str,
    lsb: f64,
    range: f64,
}

impl Channel {
    fn column(&self) -> Column {
        Column { name: self.name.into(), unit: self.unit.into(), offset: 0.0, lsb: self.lsb }
    }
}

/// The raw reading at a position, with the faults that cover it. `values` is the physical model.
fn sense<const N: usize>(
    channels: &[Channel; N],
    faults: &[Fault],
    position: u64,
    values: &mut dyn FnMut(u64) -> [f64; N],
) -> Vec<Option<i32>> {
    let honest = values(position);
    let raw = |channel: usize, value: f64| {
        let channel = &channels[channel];
        channel.column().quantise(value.clamp(-channel.range, channel.range))
    };
    let mut reading: Vec<Option<i32>> = (0..N).map(|i| raw(i, honest[i])).collect();
    for fault in faults.iter().filter(|fault| (fault.from..=fault.to).contains(&position)) {
        for (i, channel) in channels.iter().enumerate() {
            if fault.column.as_deref().is_some_and(|name| name != channel.name) {
                continue;
            }
            match fault.kind {
                FaultKind::Stuck => reading[i] = raw(i, values(fault.from.saturating_sub(1))[i]),
                FaultKind::Dropout => reading[i] = None,
                FaultKind::Saturated => reading[i] = raw(i, channel.range),
                FaultKind::Magnet => {} // part of the physical model
            }
        }
    }
    reading
}

/// Numbers that depend on the seed, a purpose and an index, and on nothing else.
fn draws(seed: u64, purpose: &str, index: u64) -> fastrand::Rng {
    let mut hash = seed ^ 0x9e37_79b9_7f4a_7c15;
    for byte in purpose.bytes().map(u64::from).chain([index & 0xffff_ffff, index >> 32]) {
        // The finaliser of splitmix64: neighbouring seeds and indices must give unrelated numbers.
        hash = (hash ^ byte).wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
    }
    fastrand::Rng::with_seed(hash)
}

/// Uniform in `low .. high`.
fn uniform(rng: &mut fastrand::Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.f64()
}

/// Normal with mean 0 and deviation 1: the sum of twelve uniform numbers, which is near enough for noise.
fn normal(rng: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
}

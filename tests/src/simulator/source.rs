//! A simulated device's source, and the task that reads it in place of a thread.
//!
//! Invariant: what is read at a position is a function of (seed, position), so the oracle knows it without remembering. Not here: the
//! pipeline, which is the agent's own.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, time::sleep_until};
use wayside_agent::{
    clock::Clock,
    sense::Timetable,
    sensed::Sensed,
    source::{Item, Pace, Shape, Source, SourceError},
};
use wayside_common::{
    id::Epoch,
    reading::Column,
    schedule::{Position, Schedule},
    time::Wall,
};

/// Two numbers every 36 seconds: 650 positions in a run.
pub const PERIOD: Duration = Duration::from_secs(36);

#[derive(Clone, Debug)]
pub struct SimSource {
    pub seed: u64,
    pub camera: bool,
    pub anchor: Wall,
}

impl SimSource {
    pub fn schedule(&self) -> Schedule {
        Schedule { anchor: self.anchor, period: PERIOD, count: None }
    }

    pub fn values(&self, position: Position) -> Vec<Option<i32>> {
        let mixed = (self.seed ^ position.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        vec![Some(position.0 as i32), (!mixed.is_multiple_of(11)).then_some((mixed >> 40) as i32)]
    }

    /// What a camera calls an item.
    pub fn item(&self, position: Position) -> String {
        format!("{}-{}", self.seed, position.0)
    }
}

impl Source for SimSource {
    fn shape(&self) -> Shape {
        if self.camera {
            return Shape::Camera;
        }
        Shape::Columns(["a", "b"].map(|name| Column { name: name.into(), unit: "1".into(), offset: 0.0, lsb: 1.0 }).to_vec())
    }

    fn pace(&self) -> Pace {
        Pace::Timed(self.schedule())
    }

    fn read(&mut self, position: Position) -> Result<Item, SourceError> {
        Ok(if self.camera {
            Item::Frame { jpeg: vec![0xff, 0xd8], roi: None, item: self.item(position) }
        } else {
            Item::Reading(self.values(position))
        })
    }
}

/// What a source has handed on, per epoch, in the order of its seqs.
pub type Handed = Arc<Mutex<Vec<(Epoch, Vec<Position>)>>>;

/// Reads each position at its time, for as long as somebody listens.
pub async fn sense(
    mut source: SimSource,
    timetable: Timetable,
    first: Position,
    clock: Clock,
    sensed: mpsc::Sender<Sensed>,
    handed: Handed,
) {
    for position in (first.0..).map(Position) {
        sleep_until(clock.instant(timetable.mono(position))).await;
        let (mono, wall) = timetable.times(position, &clock.stamp());
        let item = source.read(position).map_err(|error| error.to_string());
        if let Some((_, positions)) = handed.lock().unwrap_or_else(PoisonError::into_inner).last_mut() {
            positions.push(position);
        }
        if sensed.send(Sensed { position, mono, wall, item }).await.is_err() {
            return;
        }
    }
}

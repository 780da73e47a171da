//! Sensing: one thread per source waits until a position is due, reads it, and hands it on.
//!
//! Invariant: every position from the first on is handed on, in order; a late one is read late, never left out; a fault of
//! the source is an item too. Not here: what becomes of an item (`pipeline`).

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use tokio::sync::mpsc;
use wayside_common::{
    id::SourceName,
    schedule::{Position, Schedule},
    time::{Mono, Wall},
};

use crate::{
    clock::{Clock, mono_at},
    sensed::Sensed,
    source::{Pace, Source, SourceError},
};

/// A reading is stamped with its due time as long as it was taken this close to it.
const TOLERANCE: Duration = Duration::from_secs(1);

/// The wall clock is looked at again at least this often, in case it jumps.
const NAP: Duration = Duration::from_secs(1);

/// Dropping it ends the thread, at the latest after the read that it is in.
#[derive(Debug)]
pub struct Sensing {
    _stop: std::sync::mpsc::Sender<()>,
}

/// Starts the source's thread at position `first`. It ends with the source, with `Sensing`, or when nobody listens.
pub fn start(
    name: &SourceName,
    source: Box<dyn Source>,
    first: Position,
    clock: Clock,
    sensed: mpsc::Sender<Sensed>,
) -> std::io::Result<Sensing> {
    let (stop, stopped) = channel();
    let pace = source.pace();
    let senses = Senses { source, clock, sensed, stopped };
    thread::Builder::new().name(format!("sense {name}")).spawn(move || senses.run(pace, first))?;
    Ok(Sensing { _stop: stop })
}

struct Senses {
    source: Box<dyn Source>,
    clock: Clock,
    sensed: mpsc::Sender<Sensed>,
    stopped: Receiver<()>,
}

/// The thread is to end.
struct Over;

impl Senses {
    fn run(mut self, pace: Pace, first: Position) {
        let count = match pace {
            Pace::Timed(schedule) => schedule.count,
            Pace::AsTaken { count } => count,
        };
        for position in (first.0..count.unwrap_or(u64::MAX)).map(Position) {
            let step = match pace {
                Pace::Timed(schedule) => self.at_its_time(&schedule, position),
                Pace::AsTaken { .. } => self.as_taken(position),
            };
            if step.is_err() {
                return;
            }
        }
    }

    fn at_its_time(&mut self, schedule: &Schedule, position: Position) -> Result<(), Over> {
        let due = schedule.due(position);
        loop {
            let early = due.0.saturating_sub(self.clock.wall().0);
            if early <= 0 {
                break;
            }
            self.nap(Duration::from_millis(early.unsigned_abs()).min(NAP))?;
        }
        let stamp = self.clock.stamp();
        let late = stamp.wall.0.saturating_sub(due.0);
        let mono = if late < TOLERANCE.as_millis() as i64 { mono_at(&stamp, due) } else { stamp.mono };
        self.hand_on(position, mono, due)
    }

    fn as_taken(&mut self, position: Position) -> Result<(), Over> {
        self.nap(Duration::ZERO)?;
        let stamp = self.clock.stamp();
        self.hand_on(position, stamp.mono, stamp.wall)
    }

    fn hand_on(&mut self, position: Position, mono: Mono, wall: Wall) -> Result<(), Over> {
        let item = match self.source.read(position) {
            Ok(item) => Ok(item),
            Err(SourceError::Fault(reason)) => Err(reason),
            Err(SourceError::Ended) => return Err(Over),
        };
        self.sensed.blocking_send(Sensed { position, mono, wall, item }).map_err(|_| Over)
    }

    /// Waits, unless the agent stops meanwhile.
    fn nap(&self, length: Duration) -> Result<(), Over> {
        match self.stopped.recv_timeout(length) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Over),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Item, Shape};

    struct Fake(Pace);

    impl Source for Fake {
        fn shape(&self) -> Shape {
            Shape::Columns(Vec::new())
        }
        fn pace(&self) -> Pace {
            self.0
        }
        fn read(&mut self, position: Position) -> Result<Item, SourceError> {
            if position.0 == 7 { Err(SourceError::Fault("seven".into())) } else { Ok(Item::Reading(Vec::new())) }
        }
    }

    fn sensed(pace: Pace, first: u64) -> Vec<Sensed> {
        let (sender, mut receiver) = mpsc::channel(100);
        let name = "imu0".parse().unwrap();
        let _sensing = start(&name, Box::new(Fake(pace)), Position(first), Clock::start(), sender).unwrap();
        std::iter::from_fn(|| receiver.blocking_recv()).collect()
    }

    #[test]
    fn late_positions_are_read_late_and_faults_are_handed_on() {
        let anchor = Clock::start().wall().minus(Duration::from_millis(50));
        let schedule = Schedule { anchor, period: Duration::from_millis(10), count: Some(12) };
        let sensed = sensed(Pace::Timed(schedule), 3);
        assert_eq!(sensed.iter().map(|s| s.position.0).collect::<Vec<_>>(), (3..12).collect::<Vec<_>>());
        assert!(sensed.iter().all(|s| s.wall == schedule.due(s.position)));
        assert_eq!(sensed[4].item, Err("seven".into()));
        assert!(sensed.windows(2).all(|pair| pair[0].mono <= pair[1].mono));
    }

    #[test]
    fn a_source_without_timetable_goes_on_where_it_was() {
        let sensed = sensed(Pace::AsTaken { count: Some(6) }, 4);
        assert_eq!(sensed.iter().map(|s| s.position.0).collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn dropping_the_handle_ends_the_thread() {
        let (sender, mut receiver) = mpsc::channel(1);
        let far = Schedule { anchor: Wall(i64::MAX / 2), period: Duration::from_secs(1), count: None };
        let name = "imu0".parse().unwrap();
        drop(start(&name, Box::new(Fake(Pace::Timed(far))), Position(0), Clock::start(), sender).unwrap());
        assert_eq!(receiver.blocking_recv(), None);
    }
}

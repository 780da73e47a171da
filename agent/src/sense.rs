//! Sensing: one thread per source waits until a position is due, reads it, and hands it on.
//!
//! Invariant: every position from the first on is handed on, in order; a late one is read late, never left out; a fault of
//! the source is an item too. From its start on a source goes by the clock that does not jump. Not here: what becomes of an item
//! (`pipeline`).

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use tokio::sync::mpsc;
use wayside_common::{
    id::SourceName,
    schedule::{Position, Schedule},
    time::{ClockStamp, Mono, Wall},
};

use crate::{
    clock::{Clock, mono_at},
    sensed::Sensed,
    source::{Pace, Source, SourceError},
};

/// A reading is stamped with its due time as long as it was taken this close to it.
const TOLERANCE: Duration = Duration::from_secs(1);

/// A reading whose due time is further than this from what the wall clock says carries the latter: the clock has jumped.
const JUMP: Duration = Duration::from_secs(3_600);

/// When the positions of one run of a timed source are due by the clock that does not jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timetable {
    schedule: Schedule,
    first: Position,
    begins: Mono,
}

impl Timetable {
    /// The run begins `at`, with `first`. Where the clock was put back, the first position is due long after it by the schedule;
    /// then its number goes on and its time is that of the next one due.
    pub fn new(schedule: Schedule, first: Position, at: &ClockStamp) -> Self {
        let next = Position(schedule.due_by(at.wall)).min(first);
        Self { schedule, first, begins: mono_at(at, schedule.due(next)) }
    }

    pub fn mono(&self, position: Position) -> Mono {
        let micros = u128::from(position.0.saturating_sub(self.first.0)) * self.schedule.period.as_micros().max(1);
        Mono(self.begins.0.saturating_add(u64::try_from(micros).unwrap_or(u64::MAX)))
    }

    /// The times to write on a position that is read at `now`.
    pub fn times(&self, position: Position, now: &ClockStamp) -> (Mono, Wall) {
        let due = self.schedule.due(position);
        let wall = if due.0.abs_diff(now.wall.0) < JUMP.as_millis() as u64 { due } else { now.wall };
        let mono = self.mono(position);
        let late = now.mono.saturating_since(mono) >= TOLERANCE;
        (if late { now.mono } else { mono }, wall)
    }
}

/// Dropping it ends the thread, at the latest after the read that it is in.
#[derive(Debug)]
pub struct Sensing {
    _stop: std::sync::mpsc::Sender<()>,
}

/// Starts the source's thread at position `first` of an epoch that began `at`. It ends with the source, with `Sensing`, or when
/// nobody listens.
pub fn start(
    name: &SourceName,
    source: Box<dyn Source>,
    first: Position,
    at: ClockStamp,
    clock: Clock,
    sensed: mpsc::Sender<Sensed>,
) -> std::io::Result<Sensing> {
    let (stop, stopped) = channel();
    let pace = source.pace();
    let senses = Senses { source, clock, sensed, stopped };
    thread::Builder::new().name(format!("sense {name}")).spawn(move || senses.run(pace, first, at))?;
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
    fn run(mut self, pace: Pace, first: Position, at: ClockStamp) {
        let (timetable, count) = match pace {
            Pace::Timed(schedule) => (Some(Timetable::new(schedule, first, &at)), schedule.count),
            Pace::AsTaken { count } => (None, count),
        };
        for position in (first.0..count.unwrap_or(u64::MAX)).map(Position) {
            let step = match &timetable {
                Some(timetable) => self.at_its_time(timetable, position),
                None => self.as_taken(position),
            };
            if step.is_err() {
                return;
            }
        }
    }

    fn at_its_time(&mut self, timetable: &Timetable, position: Position) -> Result<(), Over> {
        self.nap(timetable.mono(position).saturating_since(self.clock.mono()))?;
        let (mono, wall) = timetable.times(position, &self.clock.stamp());
        self.hand_on(position, mono, wall)
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
    use wayside_common::time::WallQuality;

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
        let clock = Clock::start();
        let _sensing = start(&name, Box::new(Fake(pace)), Position(first), clock.stamp(), clock, sender).unwrap();
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
    fn a_run_keeps_its_pace_whatever_the_wall_clock_does() {
        let schedule = Schedule { anchor: Wall(100_000), period: Duration::from_secs(10), count: None };
        let stamp = |mono: u64, wall| ClockStamp { mono: Mono(mono * 1_000_000), wall: Wall(wall), quality: WallQuality::Plausible };
        struct Case {
            what: &'static str,
            began: ClockStamp,
            first: u64,
            monos: [u64; 2],
        }
        let cases = [
            Case { what: "in step with the schedule", began: stamp(2, 125_000), first: 3, monos: [7, 17] },
            Case { what: "before the anchor", began: stamp(0, 70_000), first: 0, monos: [30, 40] },
            Case { what: "late from the start", began: stamp(20, 125_000), first: 2, monos: [15, 25] },
            Case { what: "the clock was put back by years", began: stamp(2, 125_000), first: 9_000_000, monos: [7, 17] },
        ];
        for Case { what, began, first, monos } in cases {
            let timetable = Timetable::new(schedule, Position(first), &began);
            let found = [0, 1].map(|i| timetable.mono(Position(first + i)).0 / 1_000_000);
            assert_eq!(found, monos, "{what}");
        }
        let timetable = Timetable::new(schedule, Position(3), &stamp(2, 125_000));
        let jumped = stamp(7, 4_000_000_000_000);
        assert_eq!(timetable.times(Position(3), &stamp(7, 130_400)), (Mono(7_000_000), Wall(130_000)));
        assert_eq!(timetable.times(Position(3), &jumped), (Mono(7_000_000), jumped.wall));
        assert_eq!(timetable.times(Position(3), &stamp(30, 153_000)), (Mono(30_000_000), Wall(130_000)));
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
        let clock = Clock::start();
        drop(start(&name, Box::new(Fake(Pace::Timed(far))), Position(0), clock.stamp(), clock, sender).unwrap());
        assert_eq!(receiver.blocking_recv(), None);
    }
}

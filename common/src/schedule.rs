//! When the items of a paced source are due: a plain function of the anchor and the period.
//!
//! Invariant: position p is due at `anchor + p * period`, whether or not the agent was running; so a restarted agent goes on
//! at the position now due, and what it missed can be named. Not here: waiting.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Wall;

/// The ordinal of an item of a source: a row, a tick, or pass * files + file. It is the source's own count, not a seq.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position(pub u64);

/// A paced source's timetable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// When position 0 is due.
    pub anchor: Wall,
    /// Between two positions; zero is treated as one microsecond.
    pub period: Duration,
    /// How many positions there are; `None` for a source without end.
    pub count: Option<u64>,
}

impl Schedule {
    fn period_us(&self) -> u128 {
        self.period.as_micros().max(1)
    }

    /// When `position` is due.
    pub fn due(&self, position: Position) -> Wall {
        let offset_ms = u128::from(position.0) * self.period_us() / 1000;
        Wall(self.anchor.0.saturating_add(i64::try_from(offset_ms).unwrap_or(i64::MAX)))
    }

    /// How many positions are due at or before `now`: the positions 0 .. n.
    pub fn due_by(&self, now: Wall) -> u64 {
        let Ok(elapsed_ms) = u128::try_from(i128::from(now.0) - i128::from(self.anchor.0)) else { return 0 };
        let due = (elapsed_ms * 1000) / self.period_us() + 1;
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        self.count.map_or(due, |count| due.min(count))
    }

    /// The first position due after `now`: where a source that starts now begins. `None`: there is none any more.
    pub fn next_after(&self, now: Wall) -> Option<Position> {
        let next = self.due_by(now);
        match self.count {
            Some(count) if next >= count => None,
            _ => Some(Position(next)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_and_positions_invert() {
        struct Case {
            period_us: u64,
            position: u64,
            due_ms: i64,
        }
        let cases = [
            Case { period_us: 10_504, position: 0, due_ms: 5_000 },
            Case { period_us: 10_504, position: 1_000, due_ms: 15_504 },
            Case { period_us: 500_000, position: 7, due_ms: 8_500 },
        ];
        for case in cases {
            let schedule = Schedule { anchor: Wall(5_000), period: Duration::from_micros(case.period_us), count: None };
            assert_eq!(schedule.due(Position(case.position)), Wall(case.due_ms));
            assert_eq!(schedule.due_by(Wall(case.due_ms)), case.position + 1);
        }
    }

    #[test]
    fn nothing_is_due_before_the_anchor_or_after_the_end() {
        let schedule = Schedule { anchor: Wall(1_000), period: Duration::from_secs(1), count: Some(3) };
        assert_eq!(schedule.due_by(Wall(999)), 0);
        assert_eq!(schedule.next_after(Wall(999)), Some(Position(0)));
        assert_eq!(schedule.next_after(Wall(2_500)), Some(Position(2)));
        assert_eq!(schedule.next_after(Wall(3_000)), None);
        assert_eq!(schedule.due_by(Wall(i64::MAX)), 3);
    }
}

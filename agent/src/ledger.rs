//! What a restart has to enter into the gap ledger: a plain function of what is durable and of the time of the restart.
//!
//! Invariant: an entry begins after the last durable record and ends at the restart; the positions of all entries of a stream
//! follow the last durable one without hole or overlap, up to the first one that the new epoch produces. Not here: the ledger's
//! table (`state`), and entries for records that were given up (`keeper`).

use std::time::Duration;

use wayside_common::{
    gap::{Extent, Gap, Reason},
    id::{Class, Epoch, StreamId},
    schedule::{Position, Schedule},
    time::Wall,
};

/// Between a record's time and its commit at most this much passes; what was due later in a dead epoch was not running.
pub fn commit_within(class: Class) -> Duration {
    Duration::from_secs(if class == Class::Bulk { 5 } else { 1 })
}

/// What is known of one stream when the agent starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub stream: StreamId,
    /// The epoch in which the stretch begins: the last one before this start; the new one where there was none.
    pub epoch: Epoch,
    /// Last durable seq of the stream in `epoch`.
    pub after_seq: Option<u64>,
    pub timetable: Timetable,
}

/// Does the stream number its items by due time?
#[derive(Clone, Debug, PartialEq)]
pub enum Timetable {
    /// Position p has the due time that the schedule says; `accounted` is the last one stored or already in the ledger.
    Timed { schedule: Schedule, accounted: Option<Position> },
    /// It has records only while the agent runs; `last` is the wall time of the last durable one.
    Untimed { last: Wall },
}

/// How the epoch before ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// There was none.
    First,
    Clean,
    /// The agent was last known to be alive at this time.
    Unclean {
        alive: Wall,
    },
}

/// The first position that an epoch which starts at `restart` produces: the first one not yet due.
pub fn first_position(schedule: &Schedule, restart: Wall) -> Position {
    Position(schedule.due_by(restart))
}

/// The entries for all streams, for an agent that starts at `restart`.
pub fn entries(standings: &[Standing], ending: Ending, restart: Wall) -> Vec<Gap> {
    standings.iter().flat_map(|standing| entries_of(standing, ending, restart)).collect()
}

fn entries_of(standing: &Standing, ending: Ending, restart: Wall) -> Vec<Gap> {
    match (&standing.timetable, ending) {
        (Timetable::Timed { schedule, accounted }, _) => timed(standing, schedule, *accounted, ending, restart),
        (Timetable::Untimed { last }, Ending::Unclean { alive }) => {
            let from = last.plus(Duration::from_millis(1));
            let to = alive.max(*last).plus(commit_within(standing.stream.kind.class())).min(restart);
            // After a clock that was put back nobody knows when it was, but still that it was.
            vec![gap(standing, None, (from.min(to), from.max(to)), Reason::Crash)]
        }
        (Timetable::Untimed { .. }, Ending::First | Ending::Clean) => Vec::new(),
    }
}

fn timed(standing: &Standing, schedule: &Schedule, accounted: Option<Position>, ending: Ending, restart: Wall) -> Vec<Gap> {
    let first = accounted.map_or(0, |p| p.0 + 1);
    let next = first_position(schedule, restart).0;
    if first >= next {
        return Vec::new();
    }
    // A due time is whole milliseconds, so "after the last one" is one millisecond later, and the stretch ends before the
    // due time of the first position that the new epoch produces.
    let begin = accounted.map_or(schedule.anchor, |p| schedule.due(p).plus(Duration::from_millis(1)));
    let end = restart.min(schedule.due(Position(next - 1)).max(schedule.due(Position(next)).minus(Duration::from_millis(1))));
    let died = match ending {
        Ending::First | Ending::Clean => None,
        Ending::Unclean { alive } => {
            let last = accounted.map_or(schedule.anchor, |p| schedule.due(p));
            Some(alive.max(last).plus(commit_within(standing.stream.kind.class())).min(end))
        }
    };
    let Some(died) = died else {
        return vec![gap(standing, Some((first, next - 1)), (begin, end), Reason::NotRunning)];
    };
    // Split by due time: the first position due after the death belongs to the time in which nothing ran.
    let split = first_due_after(schedule, first, next, died);
    let mut entries = Vec::new();
    if split > first {
        entries.push(gap(standing, Some((first, split - 1)), (begin, died), Reason::Crash));
    }
    if split < next {
        let begin = if split > first { died.plus(Duration::from_millis(1)) } else { begin };
        entries.push(gap(standing, Some((split, next - 1)), (begin, end), Reason::NotRunning));
    }
    entries
}

/// Two exact ranges of one reason that touch are one.
pub fn merged(earlier: &Gap, later: &Gap) -> Option<Gap> {
    let (Extent::Exact { first_seq, last_seq }, Extent::Exact { first_seq: next, last_seq: end }) = (earlier.extent, later.extent) else {
        return None;
    };
    let positions = match (earlier.positions, later.positions) {
        (Some((from, last)), Some((next, to))) if last.0.checked_add(1) == Some(next.0) => Some((from, to)),
        (None, None) => None,
        _ => return None,
    };
    let same = earlier.epoch == later.epoch && earlier.stream == later.stream && earlier.reason == later.reason;
    (same && last_seq.checked_add(1) == Some(next)).then(|| Gap {
        extent: Extent::Exact { first_seq, last_seq: end },
        positions,
        span: (earlier.span.0.min(later.span.0), earlier.span.1.max(later.span.1)),
        ..earlier.clone()
    })
}

/// Adds an entry to a list that waits for its store, merged into the last one where they touch: so a disk that stays full
/// costs one entry per stream and reason, not one per batch.
pub fn push(waiting: &mut Vec<Gap>, gap: Gap) {
    let same_stream = waiting.iter_mut().rev().find(|earlier| earlier.stream == gap.stream && earlier.epoch == gap.epoch);
    match same_stream.and_then(|earlier| merged(earlier, &gap).map(|both| (earlier, both))) {
        Some((earlier, both)) => *earlier = both,
        None => waiting.push(gap),
    }
}

/// The first position of `from..to` that is due after `time`; `to` where none is. Due times never fall.
fn first_due_after(schedule: &Schedule, mut from: u64, mut to: u64, time: Wall) -> u64 {
    while from < to {
        let middle = from + (to - from) / 2;
        if schedule.due(Position(middle)) <= time { from = middle + 1 } else { to = middle }
    }
    from
}

fn gap(standing: &Standing, positions: Option<(u64, u64)>, span: (Wall, Wall), reason: Reason) -> Gap {
    Gap {
        epoch: standing.epoch,
        stream: standing.stream.clone(),
        extent: Extent::Unknown { after_seq: standing.after_seq },
        positions: positions.map(|(from, to)| (Position(from), Position(to))),
        span,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch { counter: 3, nonce: 7 };

    fn standing(period_us: u64, count: Option<u64>, accounted: Option<u64>) -> Standing {
        let schedule = Schedule { anchor: Wall(10_000), period: Duration::from_micros(period_us), count };
        Standing {
            stream: "cam0.frames".parse().unwrap(),
            epoch: EPOCH,
            after_seq: Some(41),
            timetable: Timetable::Timed { schedule, accounted: accounted.map(Position) },
        }
    }

    #[derive(Debug, PartialEq)]
    struct Entry(Reason, (u64, u64), (i64, i64));

    #[test]
    fn what_a_restart_missed_is_named_by_position() {
        use Reason::{Crash, NotRunning};
        struct Case {
            what: &'static str,
            standing: Standing,
            ending: Ending,
            restart: i64,
            entries: Vec<Entry>,
        }
        let alive = |ms| Ending::Unclean { alive: Wall(ms) };
        let cases = [
            Case {
                what: "the first start before the anchor misses nothing",
                standing: standing(100_000, None, None),
                ending: Ending::First,
                restart: 9_000,
                entries: vec![],
            },
            Case {
                what: "the first start after the anchor was not running before",
                standing: standing(100_000, None, None),
                ending: Ending::First,
                restart: 10_250,
                entries: vec![Entry(NotRunning, (0, 2), (10_000, 10_250))],
            },
            Case {
                what: "a crash is one commit interval long, then nothing ran",
                standing: standing(100_000, None, Some(50)),
                ending: alive(15_050),
                restart: 25_070,
                entries: vec![Entry(Crash, (51, 60), (15_001, 16_050)), Entry(NotRunning, (61, 150), (16_051, 25_070))],
            },
            Case {
                what: "a crash with a quick restart ends at the restart",
                standing: standing(100_000, None, Some(50)),
                ending: alive(15_050),
                restart: 15_450,
                entries: vec![Entry(Crash, (51, 54), (15_001, 15_450))],
            },
            Case {
                what: "a clean end is not a crash",
                standing: standing(100_000, None, Some(50)),
                ending: Ending::Clean,
                restart: 16_000,
                entries: vec![Entry(NotRunning, (51, 60), (15_001, 16_000))],
            },
            Case {
                what: "a restart before the next position is due misses nothing",
                standing: standing(100_000, None, Some(50)),
                ending: alive(15_000),
                restart: 15_099,
                entries: vec![],
            },
            Case {
                what: "a slow sensor between two readings loses none to the crash",
                standing: standing(30_000_000, None, Some(1)),
                ending: alive(40_000),
                restart: 75_000,
                entries: vec![Entry(NotRunning, (2, 2), (40_001, 75_000))],
            },
            Case {
                what: "an agent alive long after its last record crashed later",
                standing: standing(30_000_000, None, Some(1)),
                ending: alive(69_500),
                restart: 105_000,
                entries: vec![Entry(Crash, (2, 2), (40_001, 70_500)), Entry(NotRunning, (3, 3), (70_501, 105_000))],
            },
            Case {
                what: "a source that has ended misses only what it had",
                standing: standing(100_000, Some(53), Some(50)),
                ending: Ending::Clean,
                restart: 90_000,
                entries: vec![Entry(NotRunning, (51, 52), (15_001, 15_299))],
            },
            Case {
                what: "all is accounted for",
                standing: standing(100_000, Some(51), Some(50)),
                ending: alive(15_000),
                restart: 90_000,
                entries: vec![],
            },
        ];
        for case in cases {
            let found: Vec<Entry> = entries(&[case.standing], case.ending, Wall(case.restart))
                .into_iter()
                .map(|gap| {
                    assert_eq!(gap.extent, Extent::Unknown { after_seq: Some(41) });
                    let (from, to) = gap.positions.expect("a timed stream names positions");
                    Entry(gap.reason, (from.0, to.0), (gap.span.0.0, gap.span.1.0))
                })
                .collect();
            assert_eq!(found, case.entries, "{}", case.what);
        }
    }

    #[test]
    fn the_due_times_inside_a_span_are_the_positions_it_names() {
        for period_us in [1_000, 10_504, 33_333, 500_000] {
            for (last, restart) in [(0, 11_000), (17, 12_345), (93, 14_001), (93, 17_777)] {
                let standing = standing(period_us, None, Some(last));
                let Timetable::Timed { schedule, .. } = &standing.timetable else { unreachable!("it is timed") };
                let first_new = first_position(schedule, Wall(restart)).0;
                let found = entries(std::slice::from_ref(&standing), Ending::Unclean { alive: Wall(10_900) }, Wall(restart));
                let mut next = last + 1;
                for gap in &found {
                    let (from, to) = gap.positions.expect("a timed stream names positions");
                    assert_eq!(from.0, next, "period {period_us}, last {last}");
                    next = to.0 + 1;
                    for position in from.0.saturating_sub(2)..to.0 + 3 {
                        let inside = (gap.span.0..=gap.span.1).contains(&schedule.due(Position(position)));
                        assert_eq!(inside, (from.0..=to.0).contains(&position), "period {period_us} position {position} of {gap:?}");
                    }
                }
                assert_eq!(next, first_new.max(last + 1));
            }
        }
    }

    #[test]
    fn a_stream_without_timetable_is_named_only_after_a_crash() {
        let standing = Standing {
            stream: "imu0.predictions".parse().unwrap(),
            epoch: EPOCH,
            after_seq: Some(4),
            timetable: Timetable::Untimed { last: Wall(20_000) },
        };
        let standings = [standing];
        assert_eq!(entries(&standings, Ending::Clean, Wall(30_000)), vec![]);
        let found = entries(&standings, Ending::Unclean { alive: Wall(20_500) }, Wall(30_000));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].span, found[0].positions), ((Wall(20_001), Wall(21_500)), None));
    }
}

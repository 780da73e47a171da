//! Beginning an epoch: closes the one before, enters into the ledger what was missed, and says where each source goes on.
//!
//! Invariant: when [`begin`] returns, the new epoch and the entries for the old one are durable, in one transaction, and no record
//! of the new epoch exists yet. Not here: the arithmetic of the entries (`ledger`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Context;
use wayside_common::{
    gap::{Extent, Gap, Reason},
    id::{Epoch, SourceName, StreamId, StreamKind},
    schedule::Position,
    time::{ClockStamp, Wall},
};

use crate::{
    ledger::{self, Ending, Standing, Timetable},
    source::{self, Pace, Shape, Source, SourceConfig},
    spool::{Damage, Mark, Spool},
    state::{Anchor, PastEpoch, State},
};

/// Epochs whose marks stay although nothing of them is held, so that a hello can still close them.
const REMEMBERED: usize = 4;

/// A source, opened with the timetable that it had before.
pub struct Opened {
    pub name: SourceName,
    pub source: Box<dyn Source>,
}

impl Opened {
    /// The stream that carries the source's items.
    fn stream(&self) -> StreamId {
        let kind = match self.source.shape() {
            Shape::Camera => StreamKind::Frames,
            Shape::Columns(_) => StreamKind::Readings,
        };
        StreamId { source: self.name.clone(), kind }
    }
}

/// Opens a source. One without an anchor of its own keeps that of its first start, as long as its period is the same.
pub fn open(state: &mut State, config: &SourceConfig, started: Wall) -> anyhow::Result<Opened> {
    // A position that is due at the very start would count as missed.
    let soon = started.plus(Duration::from_millis(1));
    let open = |anchor| source::open(config, anchor).with_context(|| format!("source {} cannot be opened", config.name));
    let source = open(soon)?;
    let Pace::Timed(schedule) = source.pace() else {
        return Ok(Opened { name: config.name.clone(), source });
    };
    let proposed = Anchor { at: schedule.anchor, period: schedule.period };
    let anchor = state.anchor(&config.name, proposed, config.anchor.is_some())?;
    let source = if anchor.at == schedule.anchor { source } else { open(anchor.at)? };
    Ok(Opened { name: config.name.clone(), source })
}

/// What the start found and decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Begun {
    pub epoch: Epoch,
    pub at: ClockStamp,
    /// Where each source begins.
    pub first: BTreeMap<SourceName, Position>,
}

/// Lets a `state.db` that was lost take over what the spool remembers. Call it before the sources are opened.
pub fn recover(state: &mut State, spool: &Spool, now: Wall) -> anyhow::Result<()> {
    if state.take_over(&spool.memory()?, now)? {
        tracing::error!("the state store was lost; sensing goes on, updates wait for `wayside-agent spool repair`");
    }
    Ok(())
}

/// Begins an epoch. `damage`: what the spool has lost, if it has.
pub fn begin(
    state: &mut State,
    spool: &mut Spool,
    sources: &[Opened],
    nonce: u64,
    at: ClockStamp,
    damage: Option<&Damage>,
) -> anyhow::Result<Begun> {
    let now = at.wall;
    let past = state.past_epochs()?;
    let marks = spool.marks()?;
    let epoch = Epoch { counter: past.first().map_or(1, |last| last.epoch.counter + 1), nonce };
    // A spool that knows of no epoch although there were some is not the one of before.
    let unknown = damage.is_some_and(|damage| damage.unknown) || (!past.is_empty() && spool.memory()?.epochs.is_empty());
    let missing = match (past.first(), unknown) {
        (Some(last), true) => {
            let since = past.iter().map(|past| past.started).min().unwrap_or(last.started);
            sources.iter().map(|opened| lost(opened.stream(), last.epoch, (since.min(now), now))).collect()
        }
        (last, _) => ledger::entries(&standings(state, sources, &marks, last, epoch)?, ending(last, &marks), now),
    };
    let mut first = BTreeMap::new();
    for opened in sources {
        let next = accounted(state, &marks, &opened.stream())?.map_or(Position(0), |last| Position(last.0 + 1));
        let position = match opened.source.pace() {
            // After a clock that was put back, the positions that are there already are not produced again.
            Pace::Timed(schedule) => ledger::first_position(&schedule, now).max(next),
            Pace::AsTaken { .. } => next,
        };
        first.insert(opened.name.clone(), position);
    }
    let streams: BTreeSet<&StreamId> = marks.iter().map(|mark| &mark.stream).collect();
    let mut last_stored = Vec::new();
    for stream in streams {
        last_stored.extend(stored(state, &marks, stream)?.map(|last| (stream.clone(), last)));
    }
    state.begin_epoch(epoch, now, &missing, &last_stored)?;
    for gap in &missing {
        tracing::info!(stream = %gap.stream, reason = %gap.reason, positions = ?gap.positions, "the ledger has a new entry");
    }
    let remembered: Vec<Epoch> = past.iter().take(REMEMBERED).map(|past| past.epoch).collect();
    if unknown {
        spool.loss_entered()?;
    }
    // Neither is needed for what follows, and a disk that refuses both does not stop the sensing.
    if let Err(error) = spool.forget_marks(&remembered) {
        tracing::warn!(%error, "old marks stay in the spool");
    }
    if let Err(error) = spool.remember(&state.memory()?) {
        tracing::warn!(%error, "the spool cannot remember the epoch");
    }
    Ok(Begun { epoch, at, first })
}

fn ending(last: Option<&PastEpoch>, marks: &[Mark]) -> Ending {
    match last {
        None => Ending::First,
        Some(last) if last.clean => Ending::Clean,
        Some(last) => {
            let committed = marks.iter().filter(|mark| mark.epoch == last.epoch).map(|mark| mark.committed).max();
            Ending::Unclean { alive: committed.unwrap_or(last.started) }
        }
    }
}

fn standings(state: &State, sources: &[Opened], marks: &[Mark], last: Option<&PastEpoch>, present: Epoch) -> anyhow::Result<Vec<Standing>> {
    let epoch = last.map_or(present, |last| last.epoch);
    let mark_of = |stream: &StreamId| marks.iter().find(|mark| mark.epoch == epoch && mark.stream == *stream);
    let mut standings = Vec::new();
    for opened in sources {
        let Pace::Timed(schedule) = opened.source.pace() else { continue };
        let stream = opened.stream();
        let accounted = accounted(state, marks, &stream)?;
        let after_seq = mark_of(&stream).and_then(|mark| mark.next_seq.checked_sub(1));
        standings.push(Standing { stream, epoch, after_seq, timetable: Timetable::Timed { schedule, accounted } });
    }
    let derived = |kind| matches!(kind, StreamKind::Predictions | StreamKind::Sketches | StreamKind::Samples);
    for mark in marks.iter().filter(|mark| mark.epoch == epoch && derived(mark.stream.kind)) {
        let timetable = Timetable::Untimed { last: mark.last_wall };
        standings.push(Standing { stream: mark.stream.clone(), epoch, after_seq: mark.next_seq.checked_sub(1), timetable });
    }
    Ok(standings)
}

/// The last position that is stored, was stored, or stands in the ledger.
fn accounted(state: &State, marks: &[Mark], stream: &StreamId) -> anyhow::Result<Option<Position>> {
    Ok(stored(state, marks, stream)?.max(state.accounted(stream)?))
}

/// The last position of the present timetable that the marks know.
fn stored(state: &State, marks: &[Mark], stream: &StreamId) -> anyhow::Result<Option<Position>> {
    let since = state.timetable_since(&stream.source)?;
    let of_stream = marks.iter().filter(|mark| mark.stream == *stream && mark.epoch.counter >= since);
    Ok(of_stream.filter_map(|mark| mark.last_position).max())
}

/// Nobody knows how much of a destroyed spool the server has.
fn lost(stream: StreamId, epoch: Epoch, span: (Wall, Wall)) -> Gap {
    Gap { epoch, stream, extent: Extent::Unknown { after_seq: None }, positions: None, span, reason: Reason::SpoolLost }
}

#[cfg(test)]
mod tests {
    use wayside_common::{
        block::Block,
        reading::Reading,
        record::Body,
        time::{Mono, WallQuality},
    };

    use super::*;
    use crate::{config::Config, scratch::Scratch, spool::Cut};

    struct Device {
        dir: Scratch,
        period: &'static str,
    }

    impl Device {
        /// A start at `now`; then `commit` positions are stored, at their due times, and acked, and the agent ends.
        fn run(&self, now: i64, commit: u64, clean: bool) -> (Begun, Vec<Gap>) {
            let config = Config::parse(&format!(
                "data_dir = \"d\"\n[device]\nid = \"a\"\nfleet = \"f\"\nclass = \"c\"\n[link]\nbroker = \"mqtt://localhost:1\"\n[trust]\nroot = \"r\"\n\
                 [[source]]\nname = \"imu0\"\nkind = \"sim-imu\"\nperiod = \"{}\"\n",
                self.period
            ))
            .unwrap();
            let mut state = State::open(self.dir.path()).unwrap();
            let (mut spool, lost) = Spool::open(self.dir.path(), &config.spool).unwrap();
            let opened = open(&mut state, &config.sources[0], Wall(now)).unwrap();
            let Pace::Timed(schedule) = opened.source.pace() else { panic!("it is timed") };
            let at = ClockStamp { mono: Mono(0), wall: Wall(now), quality: WallQuality::Plausible };
            let known = state.ledger().unwrap().gaps.len();
            let begun = begin(&mut state, &mut spool, &[opened], 1, at, lost.as_ref()).unwrap();
            let gaps = state.ledger().unwrap().gaps.split_off(known);
            let first = begun.first[&"imu0".parse().unwrap()].0;
            if commit > 0 {
                let readings: Vec<Reading> =
                    (first..first + commit).map(|p| Reading { position: Position(p), mono: Mono(p), values: vec![] }).collect();
                let span = (schedule.due(Position(first)), schedule.due(Position(first + commit - 1)));
                let cut = Cut {
                    stream: "imu0.readings".parse().unwrap(),
                    first_seq: 0,
                    body: Body::Readings(Block::pack(&[], &readings).unwrap()),
                    positions: Some((Position(first), Position(first + commit - 1))),
                    span,
                };
                let clock = ClockStamp { mono: Mono(0), wall: span.1, quality: WallQuality::Plausible };
                let held = spool.append(begun.epoch, clock, &[cut]).unwrap();
                spool.delete(&[held[0].key.clone()]).unwrap();
            }
            if clean {
                state.end_epoch(begun.epoch).unwrap();
            }
            (begun, gaps)
        }
    }

    fn ranges(gaps: &[Gap]) -> Vec<(Reason, u64, u64)> {
        gaps.iter()
            .map(|gap| {
                let (from, to) = gap.positions.expect("a timed stream names positions");
                (gap.reason, from.0, to.0)
            })
            .collect()
    }

    #[test]
    fn over_many_starts_every_position_is_produced_or_in_the_ledger_once() {
        let device = Device { dir: Scratch::new(), period: "100ms" };
        let imu: SourceName = "imu0".parse().unwrap();
        let (begun, gaps) = device.run(100_000, 20, false);
        assert_eq!((begun.epoch.counter, begun.first[&imu], gaps), (1, Position(0), vec![]));
        // Anchor 100_001; positions 0..20 are stored, the last due at 101_901; down until 110_000.
        let (begun, gaps) = device.run(110_000, 0, false);
        assert_eq!(ranges(&gaps), [(Reason::Crash, 20, 69), (Reason::NotRunning, 70, 99)]);
        assert_eq!((begun.epoch.counter, begun.first[&imu]), (2, Position(100)));
        // Killed before anything was stored.
        let (begun, gaps) = device.run(110_500, 10, true);
        assert_eq!(ranges(&gaps), [(Reason::Crash, 100, 104)]);
        assert_eq!(begun.first[&imu], Position(105));
        // A clean end.
        let (begun, gaps) = device.run(112_001, 5, false);
        assert_eq!(ranges(&gaps), [(Reason::NotRunning, 115, 120)]);
        assert_eq!((begun.epoch.counter, begun.first[&imu]), (4, Position(121)));
    }

    #[test]
    fn what_was_stored_is_remembered_over_any_number_of_starts_without_a_record() {
        let device = Device { dir: Scratch::new(), period: "1h" };
        let imu: SourceName = "imu0".parse().unwrap();
        device.run(100_000, 1, true);
        for start in 1..=2 * REMEMBERED as i64 {
            let (begun, gaps) = device.run(100_000 + start * 1_000, 0, true);
            assert_eq!((begun.first[&imu], gaps), (Position(1), vec![]), "start {start}");
        }
        // Positions 1 to 3 were due meanwhile.
        let (begun, gaps) = device.run(11_000_000, 0, true);
        assert_eq!(ranges(&gaps), [(Reason::NotRunning, 1, 3)]);
        assert_eq!(begun.first[&imu], Position(4));
    }

    #[test]
    fn a_clock_that_was_put_back_makes_no_position_twice() {
        let device = Device { dir: Scratch::new(), period: "100ms" };
        device.run(100_000, 20, true);
        let (begun, gaps) = device.run(100_500, 0, true);
        assert_eq!((begun.first[&"imu0".parse().unwrap()], gaps), (Position(20), vec![]));
    }

    #[test]
    fn another_period_counts_its_positions_anew() {
        let mut device = Device { dir: Scratch::new(), period: "100ms" };
        let imu: SourceName = "imu0".parse().unwrap();
        device.run(100_000, 20, true);
        device.period = "1s";
        let (begun, gaps) = device.run(105_000, 0, true);
        assert_eq!((begun.first[&imu], gaps), (Position(0), vec![]));
        let (begun, gaps) = device.run(108_000, 0, true);
        assert_eq!(ranges(&gaps), [(Reason::NotRunning, 0, 2)]);
        assert_eq!(begun.first[&imu], Position(3));
    }
}

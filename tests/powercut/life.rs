//! A scripted life of a device's stores: three starts, and in each everything that the agent does with them.
//!
//! Invariant: it is the same in every run, and it is recorded step by step. Not here: the power cuts (`main`).

use std::{collections::BTreeSet, time::Duration};

use wayside_agent::{
    config::Config,
    epoch,
    spool::{self, Cut, SYNC_EVERY, Spool},
    state::{Ledger, SlotRow, State, Transition},
};
use wayside_common::{
    block::Block,
    fleet::{Generation, ModelRef},
    id::{Digest, Epoch},
    reading::{Column, Reading},
    record::{Body, Fact},
    schedule::Position,
    sync::sender::BatchKey,
    time::{ClockStamp, Mono, Wall, WallQuality},
};
use wayside_tests::simulator::disk::{Disk, Faults, Recording};

/// A call came back.
pub struct Returned {
    /// After so many steps of the disk.
    pub at: usize,
    /// Of the epochs that were begun by then.
    pub counters: BTreeSet<u32>,
    /// Over all starts.
    clock: Duration,
}

pub struct Life {
    pub recording: Recording,
    pub returned: Vec<Returned>,
    /// How often each thing was done that only happens under some condition.
    pub did: Vec<(&'static str, u64)>,
}

const STARTS: u64 = 3;
const STEPS: u64 = 14;

impl Life {
    pub fn lived(faults: Faults) -> Self {
        let disk = Disk::new();
        disk.set_faults(faults);
        disk.record();
        let mut script = Script { disk: &disk, returned: Vec::new(), counters: BTreeSet::new(), clock: Duration::ZERO, did: [0; 4] };
        for start in 0..STARTS {
            script.start(start);
        }
        let Script { returned, did, .. } = script;
        let did = ["degraded", "given up", "acked", "ledger acked"].into_iter().zip(did).collect();
        Self { recording: disk.recording().expect("it was recorded"), returned, did }
    }

    /// The boundary up to which everything must be synced when the power fails at `at`: what had returned [`SYNC_EVERY`] earlier, and
    /// one step of the script, because only a commit syncs those before it.
    pub fn synced_before(&self, at: usize) -> usize {
        let Some(last) = self.returned.iter().take_while(|returned| returned.at <= at).last() else { return 0 };
        let Some(until) = last.clock.checked_sub(SYNC_EVERY + Duration::from_secs(1)) else { return 0 };
        self.returned.iter().take_while(|returned| returned.clock <= until).last().map_or(0, |returned| returned.at)
    }
}

struct Script<'a> {
    disk: &'a Disk,
    returned: Vec<Returned>,
    counters: BTreeSet<u32>,
    clock: Duration,
    did: [u64; 4],
}

impl Script<'_> {
    fn returned(&mut self) {
        self.returned.push(Returned { at: self.disk.recorded(), counters: self.counters.clone(), clock: self.clock });
    }

    fn start(&mut self, start: u64) {
        let root = self.disk.root();
        let config = Config::parse(
            "data_dir = \"d\"\n[device]\nid = \"a\"\nfleet = \"f\"\nclass = \"c\"\n[link]\nbroker = \"mqtt://127.0.0.1:1\"\n[trust]\nroot = \"r\"\n\
             [[source]]\nname = \"imu0\"\nkind = \"sim-imu\"\nperiod = \"5ms\"\n",
        )
        .expect("it is a configuration");
        let now = Wall(1_000_000 + start as i64 * 100_000);
        let mut state = State::open_in(&*self.disk.folder(), &root).expect("the disk works");
        let limits = spool::Config { max_bytes: 2_400, bulk_bytes: Some(2_000), ..spool::Config::default() };
        let (mut spool, damage) = Spool::open_in(self.disk.folder(), &root, &limits).expect("the disk works");
        assert_eq!(damage, None);
        self.returned();
        epoch::recover(&mut state, &spool, now).expect("there is nothing to recover");
        let source = epoch::open(&mut state, &config.sources[0], now).expect("a simulation opens");
        self.returned();
        let begun = epoch::begin(&mut state, &mut spool, &[source], 100 + start, crate::full::at(now), None).expect("the disk works");
        self.counters.insert(begun.epoch.counter);
        self.returned();
        for step in 0..STEPS {
            self.clock += Duration::from_secs(1);
            self.step(&mut state, &mut spool, begun.epoch, start, step);
        }
        match start {
            0 => {
                state.end_epoch(begun.epoch).expect("the disk works");
                self.returned();
                drop((state, spool));
                self.returned();
            }
            // The process dies; what it has written stays.
            _ => self.disk.kill(),
        }
    }

    fn step(&mut self, state: &mut State, spool: &mut Spool, epoch: Epoch, start: u64, step: u64) {
        let wall = Wall(1_000_000 + start as i64 * 100_000 + step as i64 * 1_000);
        let clock = ClockStamp { mono: Mono(step * 1_000_000), wall, quality: WallQuality::Plausible };
        let held = spool.append(epoch, clock, &[readings(step), frames(step)]).expect("the disk works");
        self.returned();
        match step % 5 {
            1 => drop(state.report(epoch, clock, vec![Fact::Stopping, Fact::Stopping]).expect("the disk works")),
            2 => drop(state.transition(epoch, clock, transition(step)).expect("the disk works")),
            3 => {
                let keys: Vec<BatchKey> = state.held().expect("it reads").into_iter().map(|held| held.key).take(1).collect();
                state.delete_vital(&keys).expect("the disk works");
            }
            4 => {
                let Ledger { version, gaps: entries, .. } = state.ledger().expect("it reads");
                self.did[3] += entries.len() as u64;
                state.ledger_acked(version).expect("the disk works");
            }
            _ => {}
        }
        self.returned();
        if step % 4 == 1 {
            spool.take(&held[1].key).expect("it reads");
            self.returned();
            spool.delete(&[held[1].key.clone()]).expect("nothing is written");
            self.did[2] += 1;
            self.returned();
        }
        if step % 6 == 5 {
            spool.delete_acked().expect("the disk works");
            self.returned();
        }
        loop {
            let room = spool.make_room().expect("the disk works");
            self.did[0] += room.degraded.len() as u64;
            self.did[1] += room.given_up.len() as u64;
            self.returned();
            if !room.more {
                break;
            }
        }
        let gaps = spool.given_up().expect("it reads");
        if !gaps.is_empty() {
            state.enter_gaps(&gaps).expect("the disk works");
            self.returned();
            spool.forget().expect("the disk works");
            self.returned();
        }
    }
}

fn readings(step: u64) -> Cut {
    let columns = ["x", "y", "z"].map(|name| Column { name: name.into(), unit: "1".into(), offset: 0.0, lsb: 1.0 });
    let reading = |i: u64| Reading {
        position: Position(step * 200 + i),
        mono: Mono(step * 1_000_000 + i * 5_000),
        values: vec![Some((i * i % 997) as i32), Some((i * 7_919 % 1_013) as i32), Some(-(i as i32))],
    };
    let readings: Vec<Reading> = (0..200).map(reading).collect();
    Cut {
        stream: "imu0.readings".parse().expect("it is a stream's name"),
        first_seq: step * 200,
        body: Body::Readings(Block::pack(&columns, &readings).expect("they fit")),
        positions: Some((Position(step * 200), Position(step * 200 + 199))),
        span: (Wall(step as i64 * 1_000), Wall(step as i64 * 1_000 + 999)),
    }
}

fn frames(step: u64) -> Cut {
    let reading = Reading { position: Position(step), mono: Mono(step), values: vec![] };
    Cut {
        stream: "cam0.frames".parse().expect("it is a stream's name"),
        first_seq: step,
        body: Body::Readings(Block::pack(&[], &[reading]).expect("it fits")),
        positions: Some((Position(step), Position(step))),
        span: (Wall(step as i64), Wall(step as i64)),
    }
}

fn transition(step: u64) -> Transition {
    let digest = |what: &str| Digest::of(format!("{what} {step}").as_bytes());
    Transition {
        trust: vec![("targets".into(), vec![step as u8; 3_000])],
        generation: Some(Generation(step)),
        update: Some(vec![step as u8; 500]),
        slot: Some(SlotRow {
            slot: "vehicles".parse().expect("it is a slot's name"),
            active: ModelRef { name: "vehicles".parse().expect("it is a model's name"), version: step as u32, digest: digest("new") },
            previous: Some(digest("old")),
        }),
        facts: vec![Fact::Stopping],
    }
}

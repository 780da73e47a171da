//! A disk that is full, or has become read-only, under a device that goes on.
//!
//! Invariant: a refused batch leaves nothing behind, and what frees the disk is never refused. Not here: power cuts.

use wayside_agent::{
    spool::{self, Cut, Spool, Taken},
    state::State,
};
use wayside_common::{
    block::Block,
    gap::{Extent, Gap, Reason},
    id::Epoch,
    reading::{Column, Reading},
    record::{Body, Fact},
    schedule::Position,
    time::{ClockStamp, Mono, Wall, WallQuality},
};
use wayside_tests::simulator::disk::{Disk, Faults};

pub const EPOCH: Epoch = Epoch { counter: 1, nonce: 7 };
pub fn at(wall: Wall) -> ClockStamp {
    ClockStamp { mono: Mono(0), wall, quality: WallQuality::Plausible }
}

pub const CLOCK: ClockStamp = ClockStamp { mono: Mono(0), wall: Wall(50_000), quality: WallQuality::Plausible };

/// A batch of about two kilobytes.
pub fn batch(first_seq: u64) -> Cut {
    let column = Column { name: "x".into(), unit: "1".into(), offset: 0.0, lsb: 1.0 };
    let reading = |i: u64| Reading { position: Position(i), mono: Mono(i * 10_000), values: vec![Some((i * 7_919 % 30_011) as i32)] };
    let readings: Vec<Reading> = (first_seq..first_seq + 400).map(reading).collect();
    Cut {
        stream: "imu0.readings".parse().expect("it is a stream's name"),
        first_seq,
        body: Body::Readings(Block::pack(&[column], &readings).expect("they fit")),
        positions: Some((Position(first_seq), Position(first_seq + 399))),
        span: (Wall(first_seq as i64 * 10), Wall(first_seq as i64 * 10 + 3_999)),
    }
}

pub fn open(disk: &Disk) -> (State, Spool) {
    let state = State::open_in(&*disk.folder(), &disk.root()).expect("the state store opens");
    let (spool, _) = Spool::open_in(disk.folder(), &disk.root(), &spool::Config::default()).expect("the spool opens");
    (state, spool)
}

fn gap(at: u64) -> Gap {
    Gap {
        epoch: EPOCH,
        stream: "imu0.readings".parse().expect("it is a stream's name"),
        extent: Extent::Exact { first_seq: at, last_seq: at },
        positions: Some((Position(at), Position(at))),
        span: (Wall(0), Wall(1)),
        reason: Reason::DiskFull,
    }
}

/// Fills the disk until it refuses; how many batches it took.
fn fill(disk: &Disk, spool: &mut Spool) -> u64 {
    disk.set_faults(Faults { capacity: Some(disk.allocated() + 3_000_000), ..Faults::default() });
    let refused = (0..10_000).find(|i| spool.append(EPOCH, CLOCK, &[batch(i * 400)]).is_err());
    refused.expect("the disk fills up")
}

#[test]
fn on_a_full_disk_the_ledger_and_reports_are_written_and_what_is_acked_makes_room() {
    let disk = Disk::new();
    let (mut state, mut spool) = open(&disk);
    let took = fill(&disk, &mut spool);
    assert!(took > 100, "{took}");
    let held = spool.held().unwrap();
    assert_eq!(held.len() as u64, took, "a refused batch leaves nothing behind");
    for i in 0..1_000 {
        state.report(EPOCH, CLOCK, vec![Fact::StorageFault { store: "spool".into(), reason: "the disk is full".into() }]).unwrap();
        state.enter_gaps(&[gap(2 * i)]).unwrap();
    }
    // Freed by one, refilled by one, many times: nothing of it needs new bytes.
    let mut next = took;
    for held in &held {
        assert!(matches!(spool.take(&held.key).unwrap(), Taken::Blob(_)));
        spool.delete(std::slice::from_ref(&held.key)).unwrap();
        spool.delete_acked().unwrap();
        next += u64::from(spool.append(EPOCH, CLOCK, &[batch(next * 400)]).is_ok());
    }
    assert!(next > took + took / 2, "{took} fitted, and then {} more", next - took);
    let all: Vec<_> = spool.held().unwrap().into_iter().map(|held| held.key).collect();
    spool.delete(&all).unwrap();
    spool.delete_acked().unwrap();
    assert_eq!((spool.held().unwrap().len(), spool.bytes()), (0, 0));
    assert!(disk.counts().refused_full > 0);
    // When the disk has room again, the spool may grow again.
    disk.set_faults(Faults::default());
    let later = ClockStamp { mono: Mono(60_000_000), ..CLOCK };
    for i in 0..2 * took {
        spool.append(EPOCH, later, &[batch((next + i) * 400)]).unwrap();
    }
}

#[test]
fn an_agent_that_starts_on_a_full_disk_begins_its_epoch() {
    let disk = Disk::new();
    let (state, mut spool) = open(&disk);
    let took = fill(&disk, &mut spool);
    drop((state, spool));
    let (mut state, mut spool) = open(&disk);
    let begun = wayside_agent::epoch::begin(&mut state, &mut spool, &[], 9, at(Wall(60_000)), None).unwrap();
    assert_eq!(begun.epoch.counter, 1);
    state.report(begun.epoch, CLOCK, vec![Fact::Stopping]).unwrap();
    assert_eq!(spool.held().unwrap().len() as u64, took);
}

#[test]
fn a_disk_that_becomes_read_only_stops_neither_sending_nor_freeing_in_ram() {
    let disk = Disk::new();
    let (_, mut spool) = open(&disk);
    let held = spool.append(EPOCH, CLOCK, &[batch(0), batch(400), batch(800)]).unwrap();
    disk.set_faults(Faults { read_only: true, ..Faults::default() });
    assert!(spool.append(EPOCH, CLOCK, &[batch(1_200)]).is_err());
    for held in &held {
        assert!(matches!(spool.take(&held.key).unwrap(), Taken::Blob(_)));
    }
    spool.delete(&[held[0].key.clone(), held[1].key.clone()]).unwrap();
    assert_eq!(spool.held().unwrap(), [held[2].clone()]);
    assert_eq!((spool.take(&held[0].key).unwrap(), spool.marks().unwrap()[0].lowest_held), (Taken::Gone, Some(800)));
    assert!(spool.delete_acked().is_err() && disk.counts().refused_read_only > 0);
    disk.set_faults(Faults::default());
    spool.append(EPOCH, CLOCK, &[batch(1_200)]).unwrap();
    spool.delete_acked().unwrap();
    drop(spool);
    let (_, spool) = open(&disk);
    assert_eq!(spool.held().unwrap().iter().map(|held| held.key.first_seq).collect::<Vec<_>>(), [800, 1_200]);
}

#[test]
fn a_write_or_a_sync_that_fails_once_costs_its_own_batch_at_most() {
    for (faults, what) in (1..40).flat_map(|k| {
        [(Faults { fail_write: Some(k), ..Faults::default() }, "write"), (Faults { fail_sync: Some(k), ..Faults::default() }, "sync")]
    }) {
        let disk = Disk::new();
        let (_, mut spool) = open(&disk);
        disk.set_faults(faults);
        let mut kept = Vec::new();
        for i in 0..12 {
            let clock = ClockStamp { mono: Mono(i * 1_000_000), ..CLOCK };
            if let Ok(held) = spool.append(EPOCH, clock, &[batch(i * 400)]) {
                kept.extend(held);
            }
        }
        assert!(kept.len() >= 11, "{what}: {faults:?}");
        assert_eq!(spool.held().unwrap(), kept, "{what}: {faults:?}");
        drop(spool);
        let (_, spool) = open(&disk);
        assert_eq!(spool.held().unwrap(), kept, "{what}: {faults:?}");
    }
}

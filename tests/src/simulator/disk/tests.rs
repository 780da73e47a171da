//! The real stores of agent and server on a disk in RAM.

use std::time::Instant;

use rusqlite::Connection;
use wayside_agent::{
    spool::{self, Cut as Batch, Spool},
    state::State,
};
use wayside_common::{
    block::Block,
    id::Epoch,
    reading::Reading,
    record::{Body, Fact},
    schedule::Position,
    time::{ClockStamp, Mono, Wall, WallQuality},
};

use super::{model::Unsynced, *};

const EPOCH: Epoch = Epoch { counter: 1, nonce: 2 };
const CLOCK: ClockStamp = ClockStamp { mono: Mono(9_000_000), wall: Wall(1_000_000), quality: WallQuality::Plausible };

fn batch(first_seq: u64) -> Batch {
    let reading = |p| Reading { position: Position(p), mono: Mono(p), values: vec![] };
    let readings: Vec<Reading> = (first_seq..first_seq + 10).map(reading).collect();
    Batch {
        stream: "imu0.readings".parse().expect("it is a stream's name"),
        first_seq,
        body: Body::Readings(Block::pack(&[], &readings).expect("ten readings fit")),
        positions: Some((Position(first_seq), Position(first_seq + 9))),
        span: (Wall(0), Wall(1)),
    }
}

fn open(disk: &Disk) -> (State, Spool) {
    let (spool, lost) = Spool::open_in(disk.folder(), &disk.root(), &spool::Config::default()).unwrap();
    assert_eq!(lost, None);
    (State::open_in(&*disk.folder(), &disk.root()).unwrap(), spool)
}

#[test]
fn the_agents_stores_live_on_it_and_outlive_a_power_cut_as_they_promise() {
    let disk = Disk::new();
    let (mut state, mut spool) = open(&disk);
    for first_seq in 0..20 {
        spool.append(EPOCH, CLOCK, &[batch(first_seq * 10)]).unwrap();
        state.report(EPOCH, CLOCK, vec![Fact::Stopping]).unwrap();
    }
    let image = disk.snapshot();
    assert_eq!(spool.held().unwrap().len(), 20);
    for (seed, unsynced) in (0..8).flat_map(|seed| Unsynced::ALL.map(|unsynced| (seed, unsynced))) {
        disk.restore(&image);
        disk.cut_power(&Plan { unsynced, seed });
        let (state, spool) = open(&disk);
        assert_eq!(state.held().unwrap().len(), 20, "synchronous=FULL loses nothing, {unsynced:?} {seed}");
        let held = spool.held().unwrap();
        assert!(held.len() <= 20 && held.iter().enumerate().all(|(i, held)| held.key.first_seq == i as u64 * 10), "{unsynced:?} {seed}");
        assert!(unsynced != Unsynced::Kept || held.len() == 20);
    }
    let cut = disk.counts().cut;
    assert!(cut.kept > 0 && cut.lost > 0 && cut.torn > 0 && cut.reordered > 0 && cut.garbled > 0, "{cut:?}");
    // The connection of before the first cut is dead, and does no harm.
    assert!(spool.append(EPOCH, CLOCK, &[batch(200)]).is_err());
}

#[test]
fn a_lying_sync_is_seen() {
    let disk = Disk::new();
    let (mut state, _) = open(&disk);
    disk.set_faults(Faults { lying_syncs: true, ..Faults::default() });
    state.report(EPOCH, CLOCK, vec![Fact::Stopping]).unwrap();
    disk.cut_power(&Plan { unsynced: Unsynced::Lost, seed: 0 });
    assert_eq!(State::open_in(&*disk.folder(), &disk.root()).unwrap().held().unwrap().len(), 0);
    assert!(disk.counts().lied > 0);
}

#[test]
fn a_disk_refuses_what_it_is_told_to_refuse_and_works_again_afterwards() {
    struct Case(&'static str, Faults, fn(&Counts) -> u64);
    let (none, read_only) = (Faults::default(), true);
    let cases = [
        Case("full", Faults { capacity: Some(0), ..none }, |counts| counts.refused_full),
        Case("read-only", Faults { read_only, ..none }, |counts| counts.refused_read_only),
        Case("a failed write", Faults { fail_write: Some(1), ..none }, |counts| counts.failed_writes),
    ];
    for Case(what, faults, fired) in cases {
        let disk = Disk::new();
        let (_, mut spool) = open(&disk);
        let many: Vec<Batch> = (0..3_000).map(|i| batch(i * 10)).collect();
        disk.set_faults(faults);
        assert!(spool.append(EPOCH, CLOCK, &many).is_err(), "{what}");
        assert!(fired(&disk.counts()) > 0, "{what}: {:?}", disk.counts());
        disk.set_faults(none);
        // A spool whose disk was full looks again after a while.
        let later = ClockStamp { mono: Mono(CLOCK.mono.0 + 60_000_000), ..CLOCK };
        assert_eq!(spool.append(EPOCH, later, &many).unwrap().len(), 3_000, "{what}");
    }
    let disk = Disk::new();
    let (mut state, _) = open(&disk);
    disk.set_faults(Faults { fail_sync: Some(1), ..none });
    assert!(state.report(EPOCH, CLOCK, vec![Fact::Stopping]).is_err());
    assert_eq!(disk.counts().failed_syncs, 1);
}

#[test]
fn several_connections_share_a_log_and_two_disks_share_nothing() {
    let (disk, other) = (Disk::new(), Disk::new());
    let path = disk.root().join("shared.db");
    let writer = Connection::open(&path).unwrap();
    writer.pragma_update(None, "journal_mode", "WAL").unwrap();
    writer.execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1)").unwrap();
    let reader = Connection::open(&path).unwrap();
    let count = || reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 1);
    writer.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(count(), 2);
    assert!(other.files().is_empty());
    assert!(!path.exists(), "nothing of it is on a real disk");
}

#[tokio::test]
async fn the_servers_store_lives_on_it_too() {
    let disk = Disk::new();
    let path = disk.root().join("wayside.db");
    for start in 0..2 {
        let store = wayside_sync_server::db::sqlite::Sqlite::open(&path).unwrap();
        drop(store);
        assert!(disk.exists("wayside.db"), "start {start}");
        disk.cut_power(&Plan { unsynced: Unsynced::Lost, seed: 0 });
    }
    assert!(!path.exists());
}

#[test]
fn a_commit_through_it_costs_next_to_nothing() {
    let disk = Disk::new();
    let (mut state, _) = open(&disk);
    let mut shortest = u128::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        for _ in 0..50 {
            state.report(EPOCH, CLOCK, vec![Fact::Stopping]).unwrap();
        }
        shortest = shortest.min(start.elapsed().as_micros() / 50);
    }
    println!("a commit of state.db in RAM: {shortest} us");
    // Ten times what it should be: the machine may be busy.
    assert!(shortest < 1_000, "{shortest} us");
}

//! The spool on a real disk.

use wayside_common::{
    block::Block,
    reading::{Column, Reading},
    time::{Mono, WallQuality},
};

use super::*;
use crate::scratch::Scratch;

const EPOCH: Epoch = Epoch { counter: 1, nonce: 2 };
const CLOCK: ClockStamp = ClockStamp { mono: Mono(9_000_000), wall: Wall(1_000_000), quality: WallQuality::Plausible };

fn cut(stream: &str, first_seq: u64, rows: u64) -> Cut {
    // Times that no codec makes small: how much a batch takes is what some tests are about.
    let noise = |i: u64| Mono(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24);
    let readings: Vec<Reading> = (0..rows).map(|i| Reading { position: Position(first_seq + i), mono: noise(i), values: vec![] }).collect();
    let wall = |seq: u64| Wall(500_000).plus(Duration::from_secs(seq));
    Cut {
        stream: stream.parse().unwrap(),
        first_seq,
        body: Body::Readings(Block::pack(&[], &readings).unwrap()),
        positions: Some((Position(first_seq), Position(first_seq + rows - 1))),
        span: (wall(first_seq), wall(first_seq + rows - 1)),
    }
}

fn open(dir: &Scratch) -> Spool {
    let (spool, damage) = Spool::open(dir.path(), &Config::default()).unwrap();
    assert_eq!(damage, None);
    spool
}

fn decoded(taken: Taken) -> Batch {
    let Taken::Blob(blob) = taken else { panic!("{taken:?}") };
    wire::decode(&blob).unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_restart_and_its_mark_outlives_the_ack() {
    let dir = Scratch::new();
    let mut spool = open(&dir);
    let held = spool.append(EPOCH, CLOCK, &[cut("imu0.readings", 0, 10), cut("imu0.readings", 10, 5)]).unwrap();
    drop(spool);
    let mut spool = open(&dir);
    assert_eq!(spool.held().unwrap(), held);
    let second = decoded(spool.take(&held[1].key).unwrap());
    assert_eq!((second.first_seq, second.end_seq(), second.lowest_held), (10, 15, 0));
    spool.delete(&[held[0].key.clone(), held[1].key.clone()]).unwrap();
    assert_eq!((spool.take(&held[0].key).unwrap(), spool.bytes()), (Taken::Gone, 0));
    let marks = spool.marks().unwrap();
    assert_eq!((marks.len(), marks[0].next_seq, marks[0].last_position), (1, 15, Some(Position(14))));
    assert_eq!((marks[0].last_wall, marks[0].committed), (Wall(514_000), Wall(1_000_000)));
    let held = spool.append(EPOCH, CLOCK, &[cut("imu0.readings", 15, 1)]).unwrap();
    assert_eq!(decoded(spool.take(&held[0].key).unwrap()).lowest_held, 15);
}

/// A batch of readings that shrink: two columns that count.
fn readings(first_seq: u64, rows: u64) -> Cut {
    let columns = ["a", "b"].map(|name| Column { name: name.into(), unit: "1".into(), offset: 0.0, lsb: 1.0 });
    // Neither can values be guessed.
    let noise = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as i32;
    let reading =
        |i| Reading { position: Position(first_seq + i), mono: Mono(i), values: vec![Some(noise(i)), Some(noise(i + 1_000_000) % 501)] };
    let readings: Vec<Reading> = (0..rows).map(reading).collect();
    Cut { body: Body::Readings(Block::pack(&columns, &readings).unwrap()), ..cut("imu0.readings", first_seq, rows) }
}

fn fidelity(spool: &Spool, key: &BatchKey) -> Option<Fidelity> {
    match spool.look(key).unwrap() {
        Taken::Blob(blob) => Some(wire::decode::<Batch>(&blob).unwrap().body.fidelity()),
        _ => None,
    }
}

/// Makes room for as long as there is something to do; what was given up, in its order.
fn make_room(spool: &mut Spool) -> Vec<BatchKey> {
    let mut given_up = Vec::new();
    loop {
        let room = spool.make_room().unwrap();
        given_up.extend(room.given_up);
        if !room.more {
            return given_up;
        }
    }
}

#[test]
fn readings_go_down_the_ladder_oldest_first_before_anything_is_given_up() {
    let dir = Scratch::new();
    let mut spool = open(&dir);
    let mut cuts: Vec<Cut> = (0..40).map(|i| readings(i * 200, 200)).collect();
    cuts.push(cut("cam0.frames", 0, 1));
    let held = spool.append(EPOCH, CLOCK, &cuts).unwrap();
    let raw = held[0].bytes;
    spool.take(&held[0].key).unwrap();
    let mut seen = vec![];
    let all = spool.bytes();
    spool.config.bulk_bytes = Some(u64::MAX);
    for left in (1..=20).rev() {
        spool.config.max_bytes = all * left / 20;
        make_room(&mut spool);
        assert!(spool.bytes() <= spool.config.max_bytes, "{left}");
        let ladder: Vec<Option<Fidelity>> = held[..40].iter().map(|held| fidelity(&spool, &held.key)).collect();
        let unsent = &ladder[1..];
        let (sketch, down, raw) = (Some(Fidelity::Sketch), Some(Fidelity::Downsampled), Some(Fidelity::Raw));
        let order = |step: &Option<Fidelity>| [None, sketch, down, raw].iter().position(|known| known == step);
        assert!(unsent.is_sorted_by_key(order), "old before new: {unsent:?}");
        assert!(!(unsent.contains(&sketch) && unsent.contains(&raw)), "no sketch while there is a raw one: {unsent:?}");
        assert!(!(unsent.contains(&None) && (unsent.contains(&down) || unsent.contains(&raw))), "{unsent:?}");
        assert_eq!(ladder[0], raw, "what was sent stays as it is");
        assert_eq!(spool.held().unwrap().iter().map(|held| held.bytes).sum::<u64>(), spool.bytes());
        seen.extend(unsent.iter().copied());
    }
    for step in [Some(Fidelity::Raw), Some(Fidelity::Downsampled), Some(Fidelity::Sketch), None] {
        assert!(seen.contains(&step), "{step:?}");
    }
    assert!(raw > 3 * 100, "{raw}");
    assert_eq!(fidelity(&spool, &held[0].key), Some(Fidelity::Raw), "it is on its way");
    assert_eq!(fidelity(&spool, &held[40].key), Some(Fidelity::Raw), "normal goes last");
}

#[test]
fn a_degraded_batch_keeps_its_name_and_is_said_again_with_its_new_length() {
    let dir = Scratch::new();
    let mut spool = open(&dir);
    let held = spool.append(EPOCH, CLOCK, &[readings(0, 200), readings(200, 200)]).unwrap();
    spool.config.max_bytes = held[0].bytes + held[1].bytes - 1;
    spool.config.bulk_bytes = Some(u64::MAX);
    let room = spool.make_room().unwrap();
    assert_eq!((room.degraded.len(), &room.given_up[..]), (1, &[][..]));
    let (before, after) = (&held[0], &room.degraded[0]);
    assert_eq!((&before.key, before.end_seq), (&after.key, after.end_seq));
    assert!(after.bytes < before.bytes / 2);
    drop(spool);
    let mut spool = open(&dir);
    assert_eq!(spool.held().unwrap(), [after.clone(), held[1].clone()]);
    let batch = decoded(spool.take(&after.key).unwrap());
    assert_eq!((batch.first_seq, batch.end_seq(), batch.body.fidelity()), (0, 200, Fidelity::Downsampled));
}

#[test]
fn for_room_old_bulk_goes_first_then_normal_and_nothing_that_is_on_its_way() {
    let dir = Scratch::new();
    let mut spool = open(&dir);
    let cuts = [cut("cam0.frames", 0, 1), cut("imu0.readings", 0, 3), cut("imu1.readings", 0, 3), cut("imu1.readings", 3, 3)];
    let held = spool.append(EPOCH, CLOCK, &cuts).unwrap();
    spool.take(&held[1].key).unwrap();
    spool.config.max_bytes = spool.bytes() - 1;
    assert_eq!(make_room(&mut spool), [held[2].key.clone()]);
    assert_eq!(spool.take(&held[2].key).unwrap(), Taken::Gone);
    drop(spool);

    let mut spool = open(&dir);
    assert_eq!(spool.given_up().unwrap(), [cuts[2].lost(EPOCH, Reason::Evicted)]);
    spool.forget().unwrap();
    assert_eq!(spool.given_up().unwrap(), []);
    // After a restart nothing is on its way; what may be stored goes before normal, and is not said to be lost for certain.
    spool.config.max_bytes = 1;
    assert_eq!(make_room(&mut spool), [held[3].key.clone(), held[1].key.clone(), held[0].key.clone()]);
    let unknown = Gap { extent: Extent::Unknown { after_seq: None }, ..cuts[1].lost(EPOCH, Reason::Evicted) };
    assert!(spool.given_up().unwrap().contains(&unknown));
}

#[test]
fn bulk_has_a_budget_of_its_own_and_normal_has_the_rest() {
    let dir = Scratch::new();
    let mut spool = open(&dir);
    let cuts: Vec<Cut> = (0..20).flat_map(|i| [cut("imu0.samples", i, 1), cut("cam0.frames", i, 1)]).collect();
    let held = spool.append(EPOCH, CLOCK, &cuts).unwrap();
    spool.config.bulk_bytes = Some(spool.bulk / 2);
    let given_up = make_room(&mut spool);
    assert!(!given_up.is_empty() && given_up.iter().all(|key| key.class == Class::Bulk), "{given_up:?}");
    assert!(spool.bulk <= spool.config.bulk_bytes.unwrap());
    let normal = held.iter().filter(|held| held.key.class == Class::Normal).map(|held| held.bytes).sum::<u64>();
    assert_eq!(spool.normal, normal);
}

#[test]
fn what_has_waited_too_long_is_given_up_by_running_time_whatever_the_clock_says() {
    let dir = Scratch::new();
    let mut spool = open(&dir);
    let day = |day: u64| ClockStamp { mono: Mono(day * 86_400_000_000), ..CLOCK };
    let old = spool.append(EPOCH, day(0), &[cut("imu0.readings", 0, 3)]).unwrap();
    let jumped = ClockStamp { wall: Wall(i64::MAX / 2), ..day(29) };
    spool.append(EPOCH, jumped, &[cut("imu0.readings", 3, 3)]).unwrap();
    assert_eq!(make_room(&mut spool), []);
    drop(spool);
    // Days on which the agent does not run do not count; those before the restart do.
    let mut spool = open(&dir);
    spool.append(EPOCH, day(2), &[cut("imu0.readings", 6, 3)]).unwrap();
    assert_eq!(make_room(&mut spool), [old[0].key.clone()]);
    assert_eq!(spool.given_up().unwrap()[0].reason, Reason::TooOld);
    assert_eq!(spool.held().unwrap().len(), 2);
}

#[test]
fn a_full_disk_refuses_the_whole_transaction_and_the_spool_works_afterwards() {
    let dir = Scratch::new();
    let mut spool = open(&dir);
    spool.execute_batch("PRAGMA max_page_count = 80").unwrap();
    let big: Vec<Cut> = (0..400).map(|i| readings(i * 500, 500)).collect();
    assert!(spool.append(EPOCH, CLOCK, &big).is_err());
    assert_eq!((spool.held().unwrap(), spool.marks().unwrap()), (vec![], vec![]));
    spool.execute_batch("PRAGMA max_page_count = 100000").unwrap();
    assert_eq!(spool.append(EPOCH, CLOCK, &big).unwrap().len(), 400);
}

#[test]
fn a_damaged_file_is_moved_aside_and_a_damaged_batch_is_named() {
    let dir = Scratch::new();
    let mut spool = open(&dir);
    let held = spool.append(EPOCH, CLOCK, &[cut("imu0.readings", 0, 3)]).unwrap();
    spool.execute_batch("UPDATE blob SET bytes = zeroblob(5)").unwrap();
    assert_eq!(spool.take(&held[0].key).unwrap(), Taken::Damaged);
    spool.give_up_for(&held[0].key, Reason::SpoolLost).unwrap();
    assert_eq!(spool.given_up().unwrap(), [cut("imu0.readings", 0, 3).lost(EPOCH, Reason::SpoolLost)]);
    drop(spool);

    for suffix in ["", "-wal", "-shm"] {
        let path = dir.path().join(format!("spool.db{suffix}"));
        if path.exists() {
            std::fs::write(path, [7; 5_000]).unwrap();
        }
    }
    let (spool, damage) = Spool::open(dir.path(), &Config::default()).unwrap();
    assert!(damage.is_some_and(|damage| damage.unknown));
    assert_eq!(spool.held().unwrap(), []);
    assert!(dir.path().join("spool.db.damaged").exists());
}

#[test]
fn marks_of_old_epochs_go_when_nothing_of_them_is_held() {
    let dir = Scratch::new();
    let mut spool = open(&dir);
    let second = Epoch { counter: 2, nonce: 3 };
    let held = spool.append(EPOCH, CLOCK, &[cut("imu0.readings", 0, 3)]).unwrap();
    spool.append(second, CLOCK, &[cut("imu0.readings", 0, 3)]).unwrap();
    spool.forget_marks(&[second]).unwrap();
    assert_eq!(spool.marks().unwrap().len(), 2);
    spool.delete(&[held[0].key.clone()]).unwrap();
    spool.forget_marks(&[second]).unwrap();
    assert_eq!(spool.marks().unwrap().len(), 1);
}

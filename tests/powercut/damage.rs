//! Files that are truncated, overwritten, zeroed, removed or rotten, under an agent that starts all the same.
//!
//! Invariant: what was held is saved under its name with its bytes, or stands in an entry that covers it. Not here: power cuts.

use std::collections::BTreeMap;

use wayside_agent::{
    epoch,
    spool::{self, HeldBatch, Spool, Taken},
    state::State,
};
use wayside_common::{
    gap::{Extent, Gap, Reason},
    id::{Digest, Epoch},
    record::Fact,
    sync::sender::BatchKey,
    time::{ClockStamp, Mono, Wall},
};
use wayside_tests::simulator::disk::{Disk, Image};

use crate::full::{CLOCK, at, batch, open};

const BATCHES: u64 = 300;

/// A device whose spool holds 300 batches less some that were acked, on a disk that its agent has left.
fn filled(wal: bool) -> (Image, BTreeMap<BatchKey, (HeldBatch, Digest)>) {
    let disk = Disk::new();
    let (mut state, mut spool) = open(&disk);
    let begun = epoch::begin(&mut state, &mut spool, &[], 7, at(Wall(1_000)), None).unwrap();
    for i in 0..BATCHES {
        let clock = ClockStamp { mono: Mono(i * 1_000_000), ..CLOCK };
        spool.append(begun.epoch, clock, &[batch(i * 400)]).unwrap();
    }
    let acked: Vec<BatchKey> = spool.held().unwrap().iter().step_by(7).map(|held| held.key.clone()).collect();
    spool.delete(&acked).unwrap();
    state.report(begun.epoch, CLOCK, vec![Fact::Stopping]).unwrap();
    drop((state, spool));
    if !wal {
        // Everything lies in the database itself.
        let connection = rusqlite::Connection::open(disk.root().join("spool.db")).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    let image = disk.snapshot();
    let (_, spool) = open(&disk);
    let held = spool.held().unwrap();
    drop(spool);
    disk.restore(&image);
    let (_, mut spool) = open(&disk);
    let digest = |held: HeldBatch, spool: &mut Spool| match spool.take(&held.key).unwrap() {
        Taken::Blob(blob) => (held.key.clone(), (held, Digest::of(&blob))),
        other => panic!("{other:?}"),
    };
    let held = held.into_iter().map(|held| digest(held, &mut spool)).collect();
    (image, held)
}

type Harm = fn(&Disk, u64);

/// What is done to a file, by seed.
const HARMS: &[(&str, Harm)] = &[
    ("cut off", |disk, seed| disk.truncate("spool.db", len(disk, "spool.db") * (seed % 10) / 10).unwrap()),
    ("overwritten in the middle", |disk, seed| {
        let at = len(disk, "spool.db") * (seed % 9 + 1) / 10;
        disk.overwrite("spool.db", at, &vec![0xa5; 4_096 * (1 + seed as usize % 5)]).unwrap();
    }),
    ("header zeroed", |disk, seed| disk.overwrite("spool.db", 0, &vec![0; if seed.is_multiple_of(2) { 100 } else { 4_096 }]).unwrap()),
    ("both headers zeroed", |disk, _| {
        disk.overwrite("spool.db", 0, &[0; 100]).unwrap();
        if len(disk, "spool.db-wal") > 0 {
            disk.overwrite("spool.db-wal", 0, &[0; 56]).unwrap();
        }
    }),
    ("log missing", |disk, _| {
        if disk.exists("spool.db-wal") {
            disk.remove("spool.db-wal").unwrap();
        }
    }),
    ("rotten", |disk, seed| disk.rot("spool.db", seed, 1 + (seed % 40) as u32).unwrap()),
    ("noise", |disk, seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        for path in ["spool.db", "spool.db-wal"].into_iter().filter(|path| disk.exists(path)) {
            let noise: Vec<u8> = (0..len(disk, path)).map(|_| random.u8(..) & random.u8(..)).collect();
            disk.overwrite(path, 0, &noise).unwrap();
        }
    }),
    ("gone", |disk, _| disk.remove("spool.db").unwrap()),
];

fn len(disk: &Disk, path: &str) -> u64 {
    disk.read(path).map_or(0, |bytes| bytes.len() as u64)
}

/// Is a batch that was held named by an entry, for certain or by a span of time?
fn covers(gap: &Gap, held: &HeldBatch, span: (Wall, Wall)) -> bool {
    gap.epoch == held.key.epoch
        && gap.stream == held.key.stream
        && match gap.extent {
            Extent::Exact { first_seq, last_seq } => first_seq <= held.key.first_seq && held.end_seq <= last_seq + 1,
            Extent::Unknown { after_seq } => {
                after_seq.is_none_or(|after| after < held.key.first_seq) && gap.span.0 <= span.0 && span.1 <= gap.span.1.max(span.1)
            }
        }
}

#[test]
fn what_was_held_is_saved_or_named_whatever_happens_to_the_file() {
    let mut fired: BTreeMap<&str, (u64, u64, u64, u64)> = BTreeMap::new();
    for wal in [true, false] {
        let (image, held) = filled(wal);
        for (what, harm) in HARMS {
            for seed in 0..20 {
                let disk = Disk::with(image.clone());
                harm(&disk, seed);
                let (mut spool, damage) = Spool::open_in(disk.folder(), &disk.root(), &spool::Config::default())
                    .unwrap_or_else(|error| panic!("{what} {seed}: {error}"));
                spool.verify().unwrap_or_else(|error| panic!("{what} {seed}: {error}"));
                let (now, gaps) = (spool.held().unwrap(), spool.given_up().unwrap());
                let marks = spool.marks().unwrap();
                for held_now in &now {
                    let Taken::Blob(blob) = spool.take(&held_now.key).unwrap() else { panic!("{what} {seed}: {held_now:?}") };
                    // An acked one may come back; what comes back is what was written.
                    let known = held.get(&held_now.key).is_none_or(|(was, digest)| was == held_now && *digest == Digest::of(&blob));
                    assert!(known, "{what} {seed}: {held_now:?} is not what was held");
                }
                let count = fired.entry(what).or_default();
                count.0 += u64::from(damage.is_some());
                let mark = marks.iter().map(|mark| mark.next_seq).max().unwrap_or(0);
                for (key, (was, _)) in &held {
                    let span = batch(key.first_seq).span;
                    if now.iter().any(|held| held.key == *key) {
                        count.1 += 1;
                    } else if gaps.iter().any(|gap| covers(gap, was, span)) {
                        count.2 += 1;
                    } else {
                        // Without a word of the spool, the start enters everything after the marks, or everything.
                        let said = damage.as_ref().is_some_and(|damage| damage.unknown) || key.first_seq >= mark || marks.is_empty();
                        assert!(said, "{what} {seed}, log {wal}: {key:?} is lost in silence; {damage:?}, mark {mark}, {gaps:?}");
                        count.3 += 1;
                    }
                }
            }
        }
    }
    println!("harm: files moved aside, batches saved, named by entries, left to the start");
    fired.iter().for_each(|(what, count)| println!("  {what}: {count:?}"));
    for (what, (aside, saved, named, left)) in &fired {
        assert!(*saved > 0 || ["gone", "noise"].contains(what), "{what}: nothing was ever saved");
        assert!(*left == 0 || !what.contains("zeroed"), "{what}: the rows were all there");
        assert!(*aside > 0 || !["cut off", "header zeroed", "both headers zeroed"].contains(what), "{what} never did any harm");
        assert!(*named > 0 || !["cut off", "overwritten in the middle", "rotten"].contains(what), "{what}: nothing was ever named");
    }
}

#[test]
fn a_power_cut_while_a_damaged_spool_is_replaced_loses_nothing_that_could_be_saved() {
    use wayside_tests::simulator::disk::model::{Plan, Unsynced};
    let (image, held) = filled(false);
    let disk = Disk::with(image);
    disk.overwrite("spool.db", 0, &[0; 100]).unwrap();
    disk.record();
    let (spool, damage) = Spool::open_in(disk.folder(), &disk.root(), &spool::Config::default()).unwrap();
    assert!(damage.is_some());
    let saved = spool.held().unwrap();
    assert!(saved.len() as u64 > held.len() as u64 / 2);
    let recording = disk.recording().unwrap();
    let steps = recording.len();
    let mut looked = 0;
    for (at, image) in recording.boundaries().enumerate().filter(|(at, _)| at % 5 == 0 || at + 60 > steps) {
        for unsynced in Unsynced::ALL {
            let disk = Disk::with(image.after_cut(&Plan { unsynced, seed: at as u64 }).0);
            let (spool, _) = Spool::open_in(disk.folder(), &disk.root(), &spool::Config::default()).unwrap();
            assert_eq!(spool.held().unwrap(), saved, "{unsynced:?} at {at}");
            looked += 1;
        }
    }
    println!("{looked} images of {steps} steps");
}

#[test]
fn a_device_whose_state_is_lost_goes_on_under_a_higher_epoch_without_updates() {
    let (image, held) = filled(true);
    let harms: [(&str, Harm); 4] = [
        ("cut off", |disk, seed| disk.truncate("state.db", len(disk, "state.db") * (seed % 10) / 10).unwrap()),
        ("overwritten", |disk, seed| disk.overwrite("state.db", 4_096 * (seed % 4), &[0x77; 6_000]).unwrap()),
        ("header zeroed", |disk, _| disk.overwrite("state.db", 0, &[0; 100]).unwrap()),
        ("gone", |disk, _| {
            disk.remove("state.db").unwrap();
            disk.remove("state.db-wal").unwrap();
        }),
    ];
    let mut damaged = 0;
    for (what, harm) in harms {
        for seed in 0..10 {
            let disk = Disk::with(image.clone());
            harm(&disk, seed);
            let (mut state, mut spool) = open(&disk);
            let now = Wall(90_000_000);
            epoch::recover(&mut state, &spool, now).unwrap();
            let begun = epoch::begin(&mut state, &mut spool, &[], 8, at(now), None).unwrap();
            assert_eq!(spool.held().unwrap().len(), held.len(), "what happens to one store touches nothing in the other");
            assert!(begun.epoch > Epoch { counter: 1, nonce: u64::MAX }, "{what} {seed}: {:?}", begun.epoch);
            if state.damage().unwrap().is_none() {
                continue;
            }
            damaged += 1;
            assert!(state.storage_fault().unwrap());
            let reports = |gap: &Gap| gap.stream.to_string() == "agent.reports" && gap.reason == Reason::SpoolLost;
            assert!(state.ledger().unwrap().gaps.iter().any(reports), "{what} {seed}");
            drop((state, spool));
            let mut state = State::open_in(&*disk.folder(), &disk.root()).unwrap();
            assert!(state.damage().unwrap().is_some(), "it is remembered until somebody repairs the device");
            state.repaired().unwrap();
            assert!(!state.storage_fault().unwrap() && state.damage().unwrap().is_none());
        }
    }
    println!("state.db was lost {damaged} times of 40");
    assert!(damaged > 20, "{damaged}");
}

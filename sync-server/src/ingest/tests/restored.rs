//! A server that came back from a backup, and the store that a simulation drives.

use super::*;
use crate::{
    db::{sqlite::Sqlite, telemetry::Telemetry},
    scratch::Scratch,
};

fn intake(db: &Sqlite) -> Intake {
    Intake::start(Arc::new(db.clone()), Arc::new(Told::default()), Events::default())
}

async fn send(intake: &Intake, packet: FromDevice) -> Taken {
    let up = if matches!(packet, FromDevice::Hello(_)) { Up::State } else { Up::Batch };
    intake.take(&fixture::device("cam-1"), up, &wire::encode(&packet)).await
}

fn readings(epoch: Epoch, seqs: std::ops::Range<u64>, ahead: u64) -> FromDevice {
    let body = fixture::readings(seqs.start + ahead..seqs.end + ahead);
    FromDevice::Batch { sent: 0, batch: Batch { epoch, ..fixture::batch("imu0.readings", seqs.start, body) } }
}

/// (epoch, first and last seq, positions) of what the server says it has lost.
async fn lost(db: &Sqlite) -> Vec<(u32, (u64, u64), Option<(u64, u64)>)> {
    let gaps = db.gaps(&fixture::device("cam-1")).await.expect("readable");
    let found = gaps.into_iter().filter(|gap| gap.reason == "lost_by_server");
    found
        .map(|gap| {
            let counter = gap.epoch.split('-').next().and_then(|text| text.parse().ok()).expect("an epoch");
            let positions = gap.from.zip(gap.to);
            assert_eq!(gap.exact, positions.is_some_and(|(from, to)| Some(to - from + 1) == gap.count));
            (counter, (gap.first_seq.expect("exact"), gap.last_seq.expect("exact")), positions)
        })
        .collect()
}

#[tokio::test]
async fn what_a_backup_lacks_is_named_with_its_positions_in_old_epochs_as_well() {
    let scratch = Scratch::new();
    let (path, copy) = (scratch.path().join("a.db"), scratch.path().join("b.db"));
    let old = Epoch { counter: 1, nonce: 7 };
    let now = Epoch { counter: 2, nonce: 8 };
    let db = Sqlite::open_inline(&path).expect("a store");
    let server = intake(&db);
    send(&server, readings(old, 0..10, 0)).await;
    db.back_up(&copy).await.expect("a copy");
    send(&server, readings(old, 10..20, 0)).await;
    send(&server, readings(now, 0..15, 25)).await;
    db.close();
    assert!(matches!(send(&server, readings(now, 15..20, 25)).await, Taken::Unavailable(_)), "nothing is acked by a closed store");

    let db = Sqlite::open_inline(&copy).expect("the copy");
    let server = intake(&db);
    let mut hello = fixture::hello();
    hello.epoch = now;
    let hold = |epoch, lowest_held, next| wayside_common::fleet::StreamHold { epoch, ..fixture::hold("imu0.readings", lowest_held, next) };
    hello.streams = vec![hold(old, 20, 20), hold(now, 15, 18)];
    send(&server, FromDevice::Hello(hello.clone())).await;
    assert_eq!(lost(&db).await, [(1, (10, 19), None), (2, (0, 14), None)], "the seqs are sure, and no neighbour tells positions");

    // The device's own word of what lies between the epochs is the neighbour on both sides.
    let gap = |epoch, after_seq, positions: (u64, u64)| Gap {
        epoch,
        stream: "imu0.readings".parse().expect("a stream"),
        extent: Extent::Unknown { after_seq },
        positions: Some((wayside_common::schedule::Position(positions.0), wayside_common::schedule::Position(positions.1))),
        span: (Wall(1), Wall(2)),
        reason: Reason::NotRunning,
    };
    hello.ledger = vec![gap(old, Some(19), (20, 24))];
    send(&server, FromDevice::Hello(hello)).await;
    send(&server, readings(now, 15..18, 25)).await;
    assert_eq!(lost(&db).await, [(1, (10, 19), Some((10, 19))), (2, (0, 14), Some((25, 39)))]);
}

#[tokio::test]
async fn a_store_without_threads_does_what_the_other_does() {
    let scratch = Scratch::new();
    let path = scratch.path().join("a.db");
    let db = Sqlite::open_inline(&path).expect("a store");
    let server = intake(&db);
    let Taken::Committed(first) = send(&server, readings(fixture::EPOCH, 0..10, 0)).await else { panic!("not committed") };
    let clone = db.clone();
    db.close();
    assert!(clone.devices().await.is_err());
    // Whatever clones are left, the file is free.
    let db = Sqlite::open_inline(&path).expect("the store");
    let server = intake(&db);
    let Taken::Committed(second) = send(&server, readings(fixture::EPOCH, 0..10, 0)).await else { panic!("not committed") };
    let packets = |replies: Vec<Reply>| replies.into_iter().map(|reply| reply.packet).collect::<Vec<_>>();
    assert_eq!(packets(first), packets(second));
    let streams = db.streams(&fixture::device("cam-1")).await.expect("readable");
    assert_eq!((streams[0].records, streams[0].redelivered), (10, 10));
    db.close();
    let threads = Sqlite::open(&path).expect("a store with threads");
    assert_eq!(threads.incarnation(), db.incarnation());
    assert_eq!(threads.streams(&fixture::device("cam-1")).await.expect("readable"), streams);
}

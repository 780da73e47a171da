//! Two servers on one PostgreSQL, and a store that moves there.

use super::*;
use crate::{
    db::{postgres::Postgres, sqlite::Sqlite, store::copy},
    fixture::postgres::Database,
    scratch::Scratch,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_that_share_a_store_store_each_record_once() {
    let Some(database) = Database::new() else { return };
    let mut servers = Vec::new();
    for _ in 0..2 {
        let db: Arc<dyn Db> = Arc::new(Postgres::open(database.url()).await.expect("a store"));
        servers.push((db.clone(), Arc::new(Intake::start(db, Arc::new(Told::default()), Events::default()))));
    }
    assert_eq!(servers[0].0.incarnation(), servers[1].0.incarnation());
    // Every batch comes to both, at once, and the devices in another order.
    let mut sends = Vec::new();
    for first in (0..20u64).map(|n| n * 50) {
        for (at, (_, server)) in servers.iter().enumerate() {
            for n in 0..6 {
                let device = fixture::device(&format!("imu-{}", if at == 0 { n } else { 5 - n }));
                let server = server.clone();
                sends.push(tokio::spawn(async move {
                    let mut batch = fixture::batch("imu0.readings", first, fixture::readings(first..first + 50));
                    batch.lowest_held = 0;
                    server.take(&device, Up::Batch, &wire::encode(&FromDevice::Batch { sent: 0, batch })).await
                }));
            }
        }
    }
    for send in sends {
        let taken = send.await.expect("no panic");
        assert!(matches!(taken, Taken::Committed(_)), "{taken:?}");
    }
    for n in 0..6 {
        let stream = servers[1].0.streams(&fixture::device(&format!("imu-{n}"))).await.expect("readable").remove(0);
        assert_eq!((stream.watermark, stream.records, stream.redelivered, stream.differing), (1000, 1000, 1000, 0));
        assert_eq!((stream.positions, stream.duplicate_positions), (vec![(0, 999)], 0));
    }
}

#[tokio::test]
async fn a_store_moves_to_another_engine_with_everything_that_it_knows() {
    let Some(database) = Database::new() else { return };
    let scratch = Scratch::new();
    let cam = fixture::device("cam-1");
    let source = Sqlite::open(&scratch.path().join("a.db")).expect("a store");
    let old = Intake::start(Arc::new(source.clone()), Arc::new(Told::default()), Events::default());
    let send = async |intake: &Intake, batch: &Batch| {
        intake.take(&cam, Up::Batch, &wire::encode(&FromDevice::Batch { sent: 0, batch: batch.clone() })).await
    };
    let batches = [
        fixture::batch("imu0.readings", 0, fixture::readings(0..1000)),
        fixture::batch("imu0.readings", 1000, fixture::degraded(1000..1100, wayside_common::degraded::Fidelity::Sketch)),
        fixture::batch("cam0.frames", 7, fixture::frames(7..1207)),
        fixture::batch("imu0.predictions", 0, fixture::predictions(0..4)),
        fixture::batch("cam0.sketches", 0, fixture::sketches(0..3)),
        fixture::batch("cam0.samples", 0, fixture::samples(0..2)),
        fixture::batch("agent.reports", 0, fixture::reports()),
    ];
    for batch in &batches {
        assert!(matches!(send(&old, batch).await, Taken::Committed(_)));
    }
    old.take(&cam, Up::State, &wire::encode(&FromDevice::Hello(fixture::hello()))).await;

    let target = Postgres::open(database.url()).await.expect("a store");
    let copied = copy(&source, &target).await.expect("copied");
    let of = |table: &str| copied.iter().find(|copied| copied.table == table).map(|copied| copied.rows);
    assert_eq!((of("frame"), of("block"), of("stream"), of("device")), (Some(1200), Some(1), Some(6), Some(1)));
    let target = Postgres::open(database.url()).await.expect("a store");
    assert_eq!(Telemetry::incarnation(&target), Telemetry::incarnation(&source));
    assert_eq!(target.device(&cam).await.expect("readable"), source.device(&cam).await.expect("readable"));
    assert_eq!(target.streams(&cam).await.expect("readable"), source.streams(&cam).await.expect("readable"));
    assert_eq!(target.gaps(&cam).await.expect("readable"), source.gaps(&cam).await.expect("readable"));
    assert_eq!(target.latest(&cam).await.expect("readable"), source.latest(&cam).await.expect("readable"));
    let again = copy(&source, &target).await.expect_err("it is not empty");
    assert!(again.to_string().contains("not empty"), "{again:#}");

    // What comes again is known there, and what is new gets ids of its own.
    let new = Intake::start(Arc::new(target.clone()), Arc::new(Told::default()), Events::default());
    for batch in batches.iter().chain([&fixture::batch("imu1.readings", 0, fixture::readings(0..10))]) {
        assert!(matches!(send(&new, batch).await, Taken::Committed(_)));
    }
    let streams = target.streams(&cam).await.expect("readable");
    assert_eq!((streams.len(), streams.iter().map(|s| s.differing).sum::<u64>()), (7, 0));
    assert_eq!(streams.iter().map(|s| s.redelivered).sum::<u64>(), streams.iter().map(|s| s.records).sum::<u64>() - 10);
}

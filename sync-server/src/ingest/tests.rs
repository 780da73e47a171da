//! The intake over a real store: every variant, what comes again, and what must not be believed.

mod fidelity;
mod ranges;
mod restored;
mod shared;

use std::sync::{Arc, Mutex, PoisonError};

use wayside_common::{
    gap::{Extent, Gap, Reason},
    id::{Epoch, StreamId},
    record::{MAX_ITEM, MAX_REASON, MAX_SAMPLE_JPEG},
    sync::receiver::{Ack, MAX_RANGES},
};

use super::*;
use crate::{
    db::telemetry::{After, Range, SampleFilter, Telemetry},
    fixture::{self, store::Place},
};

/// Keeps what it was told.
#[derive(Default)]
struct Told {
    reports: Mutex<Vec<UpdateReport>>,
}

#[async_trait]
impl ControlPlane for Told {
    async fn hello(&self, _: &DeviceId, _: &Hello) -> Vec<Reply> {
        vec![Reply { down: Down::Desired, packet: ToDevice::Desired(b"wish".to_vec()) }]
    }
    async fn need(&self, _: &DeviceId, blob: Digest, chunks: Vec<Digest>) -> Vec<Reply> {
        chunks.into_iter().map(|chunk| Reply { down: Down::Blob, packet: ToDevice::NoChunk { blob, chunk } }).collect()
    }
    async fn trust_request(&self, _: &DeviceId, _: u64, _: u64) -> Vec<Reply> {
        Vec::new()
    }
    async fn report(&self, _: &DeviceId, report: &UpdateReport) -> anyhow::Result<()> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(report.clone());
        Ok(())
    }
}

struct Bench {
    place: Place,
    db: Arc<dyn Db>,
    told: Arc<Told>,
    intake: Intake,
    cam: DeviceId,
}

impl Bench {
    /// One on each engine.
    async fn each() -> Vec<Self> {
        let mut benches = Vec::new();
        for place in Place::each() {
            let (db, told, intake) = open(&place).await;
            benches.push(Self { place, db, told, intake, cam: fixture::device("cam-1") });
        }
        benches
    }

    /// Another process over the same store, as after a crash.
    async fn restart(&mut self) {
        (self.db, self.told, self.intake) = open(&self.place).await;
    }

    async fn send(&self, batch: &Batch) -> Taken {
        self.intake.take(&self.cam, Up::Batch, &wire::encode(&FromDevice::Batch { sent: 0, batch: batch.clone() })).await
    }

    /// Sends and expects an ack.
    async fn acked(&self, batch: &Batch) -> Ack {
        match self.send(batch).await {
            Taken::Committed(replies) => match replies.into_iter().next() {
                Some(Reply { down: Down::Ack, packet: ToDevice::Ack { ack, .. } }) => ack,
                other => panic!("no ack but {other:?}"),
            },
            other => panic!("not committed: {other:?}"),
        }
    }

    /// The name under which the batch is refused for good.
    async fn refused(&self, batch: &Batch) -> Option<(StreamId, u64)> {
        let Taken::Committed(replies) = self.send(batch).await else { return None };
        replies.into_iter().find_map(|reply| match reply.packet {
            ToDevice::Refused { stream, first_seq, .. } => Some((stream, first_seq)),
            _ => None,
        })
    }

    async fn hello(&self, hello: &Hello) -> Vec<Reply> {
        match self.intake.take(&self.cam, Up::State, &wire::encode(&FromDevice::Hello(hello.clone()))).await {
            Taken::Committed(replies) => replies,
            other => panic!("not committed: {other:?}"),
        }
    }

    /// (records, redelivered, differing) over all streams.
    async fn tally(&self) -> (u64, u64, u64) {
        let streams = self.db.streams(&self.cam).await.expect("readable");
        streams.iter().fold((0, 0, 0), |(a, b, c), s| (a + s.records, b + s.redelivered, c + s.differing))
    }
}

async fn open(place: &Place) -> (Arc<dyn Db>, Arc<Told>, Intake) {
    let db = place.open().await;
    let told = Arc::new(Told::default());
    let intake = Intake::start(db.clone(), told.clone(), Events::default());
    (db, told, intake)
}

#[tokio::test]
async fn every_kind_of_batch_is_stored_and_acked_to_its_end() {
    for bench in Bench::each().await {
        let batches = [
            fixture::batch("imu0.readings", 0, fixture::readings(100..150)),
            fixture::batch("cam0.frames", 0, fixture::frames(0..6)),
            fixture::batch("imu0.predictions", 0, fixture::predictions(0..4)),
            fixture::batch("cam0.sketches", 0, fixture::sketches(0..3)),
            fixture::batch("cam0.samples", 0, fixture::samples(0..2)),
            fixture::batch("agent.reports", 0, fixture::reports()),
        ];
        for batch in &batches {
            let ack = bench.acked(batch).await;
            assert_eq!((ack.row.watermark, &ack.stream, ack.epoch), (batch.len(), &batch.stream, batch.epoch));
            assert_eq!(ack.incarnation, bench.db.incarnation());
        }
        assert_eq!(bench.tally().await, (50 + 6 + 4 + 3 + 2 + 2, 0, 0));
        assert_eq!(bench.told.reports.lock().unwrap_or_else(PoisonError::into_inner).len(), 1);
    }
}

#[tokio::test]
async fn what_was_stored_is_read_back_as_it_was_sent() {
    for bench in Bench::each().await {
        bench.acked(&fixture::batch("imu0.readings", 0, fixture::readings(100..150))).await;
        bench.acked(&fixture::batch("cam0.frames", 0, fixture::frames(0..6))).await;
        bench.acked(&fixture::batch("cam0.sketches", 0, fixture::sketches(0..3))).await;
        bench.acked(&fixture::batch("cam0.samples", 0, fixture::samples(0..2))).await;

        let source = "imu0".parse().expect("a source");
        let asked = Range { source, from: fixture::START + 1100, to: fixture::START + 1200, limit: 1000 };
        let readings = bench.db.readings(&bench.cam, asked).await.expect("readable");
        let positions: Vec<u64> = readings.rows.iter().map(|row| row.position).collect();
        assert_eq!(positions, (110..=120).collect::<Vec<_>>());
        assert_eq!(readings.rows[2].values, [Some(112), None]);
        assert_eq!(readings.columns[0], fixture::column("ax"));
        assert!(readings.complete);

        let after = After { source: None, position: Some(1), limit: 2 };
        let page = bench.db.frames(&bench.cam, after).await.expect("readable");
        assert_eq!(page.rows.iter().map(|row| row.position).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(page.next, Some(3));
        assert_eq!((page.rows[0].answer.label.as_deref(), page.rows[0].answer.none.as_deref()), (None, Some("worker_crash")));
        assert_eq!((page.rows[1].answer.label.as_deref(), page.rows[1].wall_ms), (Some("car"), fixture::START + 300));

        let sums = bench.db.sketches(&bench.cam, Wall(i64::MIN)).await.expect("readable");
        assert_eq!((sums.len(), sums[0].windows, sums[0].counts[31]), (1, 3, 93));

        let samples = bench.db.samples(SampleFilter { limit: 10, ..SampleFilter::default() }).await.expect("readable");
        assert_eq!((samples.len(), samples[0].label.clone(), samples[0].embedding), (2, None, 2));
        let content = bench.db.sample_content(&samples[0].id).await.expect("readable").expect("there");
        assert_eq!(content.embedding, [0.5, samples[0].position as f32]);
    }
}

#[tokio::test]
async fn the_same_batch_again_is_acked_and_counted_but_not_stored_twice() {
    for mut bench in Bench::each().await {
        let batch = fixture::batch("cam0.frames", 0, fixture::frames(0..6));
        let first = bench.acked(&batch).await;
        assert_eq!(bench.acked(&batch).await, first);
        bench.restart().await;
        assert_eq!(bench.acked(&batch).await, first, "the row, and the store's incarnation, outlive the process");
        assert_eq!(bench.tally().await, (6, 12, 0));
    }
}

#[tokio::test]
async fn other_content_under_a_stored_name_is_counted_as_differing_and_never_stored() {
    for bench in Bench::each().await {
        bench.acked(&fixture::batch("cam0.frames", 0, fixture::frames(0..6))).await;
        bench.acked(&fixture::batch("imu0.readings", 0, fixture::readings(0..50))).await;
        // Frames 0 to 2 are the same records, 3 to 5 are others.
        let Body::Frames(mut frames) = fixture::frames(0..6) else { unreachable!("frames") };
        frames[3..].iter_mut().for_each(|frame| frame.item.push('x'));
        bench.acked(&fixture::batch("cam0.frames", 0, Body::Frames(frames))).await;
        bench.acked(&fixture::batch("imu0.readings", 0, fixture::readings(1..51))).await;
        assert_eq!(bench.tally().await, (56, 3, 3 + 50));
        let page = bench.db.frames(&bench.cam, After { source: None, position: Some(3), limit: 1 }).await.expect("readable");
        assert_eq!(page.rows[0].item, "p4.jpg");
    }
}

#[tokio::test]
async fn of_an_overlapping_batch_only_the_rest_is_stored() {
    for bench in Bench::each().await {
        bench.acked(&fixture::batch("imu0.readings", 10, fixture::readings(110..120))).await;
        let mut across = fixture::batch("imu0.readings", 5, fixture::readings(105..125));
        across.lowest_held = 0;
        let ack = bench.acked(&across).await;
        assert_eq!(ack.row.ranges, [], "the first batch had said that nothing below 10 comes");
        assert_eq!(ack.row.watermark, 25);
        // 5 to 9 lie below the watermark that the first batch's `lowest_held` had set, so 10 to 24 alone can be stored.
        assert_eq!(bench.tally().await, (15, 15, 0));
        let streams = bench.db.streams(&bench.cam).await.expect("readable");
        assert_eq!((streams[0].positions.clone(), streams[0].duplicate_positions), (vec![(110, 124)], 0));
    }
}

#[tokio::test]
async fn a_position_stored_under_two_names_shows() {
    for bench in Bench::each().await {
        bench.acked(&fixture::batch("imu0.readings", 0, fixture::readings(0..50))).await;
        bench.acked(&fixture::batch("imu0.readings", 50, fixture::readings(48..60))).await;
        let mut second = fixture::batch("imu0.readings", 0, fixture::readings(59..65));
        second.epoch = Epoch { counter: 2, nonce: 1 };
        bench.acked(&second).await;
        let streams = bench.db.streams(&bench.cam).await.expect("readable");
        let found: Vec<_> = streams.iter().map(|s| (s.positions.as_slice(), s.duplicate_positions)).collect();
        assert_eq!(found, [([(0, 59)].as_slice(), 2), ([(59, 64)].as_slice(), 1)]);
    }
}

#[tokio::test]
async fn a_row_that_is_full_of_holes_defers_without_acking() {
    for bench in Bench::each().await {
        let sparse = |seq: u64| {
            let mut batch = fixture::batch("cam0.frames", seq, fixture::frames(seq..seq + 1));
            batch.lowest_held = 0;
            batch
        };
        for hole in 1..=MAX_RANGES as u64 {
            bench.acked(&sparse(hole * 2)).await;
        }
        let late = sparse(1000);
        let ack = bench.acked(&late).await;
        assert!(!ack.row.covers(1000, 1001), "it is to come again");
        assert_eq!(bench.tally().await.0, MAX_RANGES as u64);
        bench.acked(&sparse(3)).await;
        assert!(bench.acked(&late).await.row.covers(1000, 1001));
    }
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_and_leaves_nothing() {
    for bench in Bench::each().await {
        let frame_batch = |change: fn(&mut Frames)| {
            let Body::Frames(mut frames) = fixture::frames(0..2) else { unreachable!("frames") };
            change(&mut frames);
            fixture::batch("cam0.frames", 0, Body::Frames(frames))
        };
        type Frames = Vec<wayside_common::record::Frame>;
        let mut held_above = fixture::batch("cam0.frames", 0, fixture::frames(0..2));
        held_above.lowest_held = 1;
        let Body::Samples(mut big) = fixture::samples(0..1) else { unreachable!("samples") };
        big[0].jpeg.resize(MAX_SAMPLE_JPEG + 1, 0);
        let Body::Sketches(mut thin) = fixture::sketches(0..1) else { unreachable!("sketches") };
        thin[0].counts.pop();
        let cases = [
            fixture::batch("cam0.readings", 0, fixture::frames(0..2)),
            fixture::batch("cam0.frames", 0, Body::Frames(Vec::new())),
            fixture::batch("cam0.frames", u64::MAX, fixture::frames(0..2)),
            held_above,
            frame_batch(|frames| frames[0].item = "x".repeat(MAX_ITEM + 1)),
            frame_batch(|frames| frames[1].position.0 = u64::MAX),
            fixture::batch("cam0.samples", 0, Body::Samples(big)),
            fixture::batch("cam0.sketches", 0, Body::Sketches(thin)),
        ];
        for batch in &cases {
            assert_eq!(bench.refused(batch).await, Some((batch.stream.clone(), batch.first_seq)));
        }
        assert_eq!(bench.db.devices().await.expect("readable"), []);
    }
}

#[tokio::test]
async fn what_a_device_brought_inside_the_limits_is_taken() {
    for bench in Bench::each().await {
        let fault = |reason: String| Fact::StorageFault { store: "spool".into(), reason };
        let batch = |fact| {
            let Body::Reports(mut reports) = fixture::reports() else { unreachable!("reports") };
            reports[0].fact = fact;
            fixture::batch("agent.reports", 0, Body::Reports(reports))
        };
        let long = fault("ä".repeat(MAX_REASON));
        assert!(bench.refused(&batch(long.clone())).await.is_some());
        bench.acked(&batch(long.within_limits())).await;
    }
}

#[tokio::test]
async fn bytes_of_a_stranger_are_refused() {
    for bench in Bench::each().await {
        let good = wire::encode(&FromDevice::Batch { sent: 0, batch: fixture::batch("imu0.readings", 0, fixture::readings(0..50)) });
        let mut cases: Vec<(Up, Vec<u8>)> = (0..good.len()).step_by(7).map(|cut| (Up::Batch, good[..cut].to_vec())).collect();
        let mut other_version = good.clone();
        other_version[0] = wire::VERSION + 1;
        let too_much: Vec<u8> = good.iter().chain(&[0]).copied().collect();
        cases.extend([
            (Up::Batch, other_version),
            (Up::Batch, too_much),
            (Up::Batch, vec![wire::VERSION; wire::MAX_PACKET + 1]),
            (Up::State, good.clone()),
            (Up::Cmd, good.clone()),
            (Up::Batch, wire::encode(&FromDevice::Gone)),
            (Up::Blob, wire::encode(&FromDevice::Thumbnail(Thumbnail { jpeg: b"GIF89a".to_vec(), ..fixture::thumbnail(0) }))),
        ]);
        for (up, bytes) in cases {
            let taken = bench.intake.take(&bench.cam, up, &bytes).await;
            assert!(matches!(taken, Taken::Refused(_)), "{up:?}, {} bytes: {taken:?}", bytes.len());
        }
        // A flipped byte may still be a batch; whatever it is, it is answered and nothing panics.
        for at in 1..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 0x55;
            let taken = bench.intake.take(&bench.cam, Up::Batch, &flipped).await;
            assert!(!matches!(taken, Taken::Unavailable(_)), "byte {at}: {taken:?}");
        }
    }
}

#[tokio::test]
async fn hello_fills_the_device_and_its_ledger_and_is_answered() {
    for bench in Bench::each().await {
        let gap = |extent, span: (i64, i64), reason| Gap {
            epoch: fixture::EPOCH,
            stream: "imu0.readings".parse().expect("a stream"),
            extent,
            positions: None,
            span: (Wall(span.0), Wall(span.1)),
            reason,
        };
        let mut hello = fixture::hello();
        hello.ledger = vec![
            gap(Extent::Exact { first_seq: 10, last_seq: 19 }, (1, 2), Reason::Evicted),
            gap(Extent::Unknown { after_seq: Some(40) }, (3, 4), Reason::Crash),
            gap(Extent::Unknown { after_seq: Some(40) }, (4, 9), Reason::NotRunning),
        ];
        let replies = bench.hello(&hello).await;
        assert!(matches!(replies[0].packet, ToDevice::HelloAck { ledger_version: 4, .. }));
        assert!(matches!(replies[1].packet, ToDevice::Desired(_)));

        // The ledger is told again, one entry has grown.
        hello.ledger[0].extent = Extent::Exact { first_seq: 10, last_seq: 29 };
        bench.hello(&hello).await;
        let gaps = bench.db.gaps(&bench.cam).await.expect("readable");
        let found: Vec<_> = gaps.iter().map(|g| (g.reason.as_str(), g.count, g.unknown, g.after_seq)).collect();
        assert_eq!(found, [("evicted", Some(20), false, None), ("crash", None, true, Some(40)), ("not_running", None, true, Some(40))]);

        let device = bench.db.device(&bench.cam).await.expect("readable").expect("there");
        assert!(device.online);
        assert_eq!((device.class.as_str(), device.generation, device.started), ("camera", 2, Some(fixture::START)));
        assert_eq!(device.slots, hello.slots);
        assert_eq!(device.epoch.as_deref(), Some("1-000000000000000a"));
    }
}

#[tokio::test]
async fn what_the_device_holds_no_more_and_nothing_explains_is_lost_by_the_server() {
    for bench in Bench::each().await {
        let lost = async || {
            let gaps = bench.db.gaps(&bench.cam).await.expect("readable");
            let found = gaps.iter().map(|g| (g.first_seq.unwrap_or(0), g.last_seq.unwrap_or(0), g.reason.clone()));
            found.filter(|(.., reason)| reason == "lost_by_server").map(|(first, last, _)| (first, last)).collect::<Vec<_>>()
        };
        bench.acked(&fixture::batch("imu0.readings", 0, fixture::readings(0..10))).await;
        let mut hello = fixture::hello();
        hello.streams = vec![fixture::hold("imu0.readings", 25, 30), fixture::hold("imu0.predictions", 0, 3)];
        bench.hello(&hello).await;
        assert_eq!(lost().await, [(10, 24)]);
        bench.hello(&hello).await;
        assert_eq!(lost().await, [(10, 24)], "heard twice, missing once");

        hello.ledger = vec![Gap {
            epoch: fixture::EPOCH,
            stream: "imu0.readings".parse().expect("a stream"),
            extent: Extent::Exact { first_seq: 12, last_seq: 14 },
            positions: None,
            span: (Wall(1), Wall(2)),
            reason: Reason::TooOld,
        }];
        bench.hello(&hello).await;
        assert_eq!(lost().await, [(10, 11), (15, 24)], "the ledger explains a part");

        // The batch says itself that nothing below 30 comes any more.
        bench.acked(&fixture::batch("imu0.readings", 30, fixture::readings(30..40))).await;
        assert_eq!(lost().await, [(10, 11), (15, 29)]);
        let gaps = bench.db.gaps(&bench.cam).await.expect("readable");
        let last = gaps.iter().find(|g| g.first_seq == Some(15)).expect("the hole");
        assert_eq!(last.span, (fixture::START + 90, fixture::START + 300), "between the records around it");
    }
}

#[tokio::test]
async fn a_restored_or_cloned_device_raises_an_alert() {
    for bench in Bench::each().await {
        let mut watcher = bench.intake.events.watch();
        let mut alerts = || {
            let mut texts = Vec::new();
            while let Ok(event) = watcher.try_recv() {
                if let Event::Alert { text, .. } = event {
                    texts.push(text);
                }
            }
            texts
        };
        let mut hello = fixture::hello();
        hello.epoch = Epoch { counter: 5, nonce: 1 };
        for epoch in [hello.epoch, hello.epoch, Epoch { counter: 6, nonce: 2 }] {
            hello.epoch = epoch;
            bench.hello(&hello).await;
        }
        assert_eq!(alerts(), Vec::<String>::new());
        for epoch in [Epoch { counter: 6, nonce: 3 }, Epoch { counter: 5, nonce: 1 }] {
            hello.epoch = epoch;
            bench.hello(&hello).await;
            assert!(alerts().iter().any(|text| text.contains("restored")), "{epoch}");
        }
    }
}

#[tokio::test]
async fn presence_follows_hello_will_and_traffic() {
    for bench in Bench::each().await {
        let online = async || bench.db.device(&bench.cam).await.expect("readable").expect("there").online;
        bench.intake.connected(&bench.cam).await;
        assert!(online().await);
        bench.intake.take(&bench.cam, Up::State, &wire::encode(&FromDevice::Gone)).await;
        assert!(!online().await);
        bench.acked(&fixture::batch("cam0.frames", 0, fixture::frames(0..1))).await;
        assert!(online().await);
        bench.db.nobody_is_online().await.expect("writable");
        assert!(!online().await);
    }
}

#[tokio::test]
async fn a_device_that_this_process_has_not_heard_of_is_asked_to_say_hello() {
    for bench in Bench::each().await {
        let batch = fixture::batch("cam0.frames", 0, fixture::frames(0..1));
        let asked = |taken: &Taken| matches!(taken, Taken::Committed(replies) if replies.iter().any(|r| r.packet == ToDevice::SayHello));
        assert!(asked(&bench.send(&batch).await));
        bench.hello(&fixture::hello()).await;
        assert!(!asked(&bench.send(&batch).await));
    }
}

#[tokio::test]
async fn of_the_slots_that_a_device_named_the_newest_thumbnail_is_kept() {
    for bench in Bench::each().await {
        let send = async |thumbnail: Thumbnail| {
            let taken = bench.intake.take(&bench.cam, Up::Blob, &wire::encode(&FromDevice::Thumbnail(thumbnail))).await;
            matches!(taken, Taken::Committed(_))
        };
        let kept = async || {
            let latest = bench.db.latest(&bench.cam).await.expect("readable");
            latest.thumbnails.into_iter().map(|row| (row.slot, row.position)).collect::<Vec<_>>()
        };
        assert!(!send(fixture::thumbnail(3)).await, "no slot is named yet");
        assert_eq!(kept().await, []);
        let mut hello = fixture::hello();
        bench.hello(&hello).await;
        assert!(!send(Thumbnail { slot: "other".parse().expect("a slot"), ..fixture::thumbnail(3) }).await);
        for position in [3, 9, 4] {
            let jpeg = vec![0xff, 0xd8, position as u8];
            assert!(send(Thumbnail { jpeg, ..fixture::thumbnail(position) }).await, "{position}");
        }
        assert_eq!(kept().await, [("vehicles".to_owned(), 9)], "4 came late");
        let slot = "vehicles".parse().expect("a slot");
        assert_eq!(bench.db.thumbnail(&bench.cam, &slot).await.expect("readable"), Some(vec![0xff, 0xd8, 9]));

        hello.epoch.counter += 1;
        bench.hello(&hello).await;
        assert!(send(fixture::thumbnail(0)).await);
        assert_eq!(kept().await, [("vehicles".to_owned(), 0)], "positions may start anew with an epoch");
        hello.slots[0].slot = "other".parse().expect("a slot");
        bench.hello(&hello).await;
        assert_eq!(kept().await, [], "a slot that is gone has no picture");
    }
}

#[tokio::test]
async fn many_devices_at_once_are_committed_together_and_acked_apart() {
    for bench in Bench::each().await {
        let intake = Arc::new(bench.intake);
        let sends: Vec<_> = (0..40)
            .map(|n| {
                let intake = intake.clone();
                tokio::spawn(async move {
                    let device = fixture::device(&format!("imu-{n}"));
                    let batch = fixture::batch("imu0.readings", 0, fixture::readings(0..100));
                    intake.take(&device, Up::Batch, &wire::encode(&FromDevice::Batch { sent: 0, batch })).await
                })
            })
            .collect();
        for send in sends {
            assert!(matches!(send.await.expect("no panic"), Taken::Committed(_)));
        }
        assert_eq!(bench.db.devices().await.expect("readable").len(), 40);
    }
}

#[test]
fn a_records_wall_time_follows_its_batchs_clocks() {
    struct Case {
        mono: u64,
        wall: i64,
    }
    let clock = ClockStamp { mono: Mono(5_000_000), wall: Wall(100_000), quality: wayside_common::time::WallQuality::Plausible };
    let cases = [
        Case { mono: 5_000_000, wall: 100_000 },
        Case { mono: 4_999_999, wall: 99_999 },
        Case { mono: 5_001_999, wall: 100_001 },
        Case { mono: 0, wall: 95_000 },
    ];
    for case in cases {
        assert_eq!(wall_of(&clock, Mono(case.mono)), Wall(case.wall), "{}", case.mono);
    }
    let extreme = ClockStamp { wall: Wall(i64::MAX), ..clock };
    assert_eq!(wall_of(&extreme, Mono(u64::MAX)), Wall(i64::MAX));
}

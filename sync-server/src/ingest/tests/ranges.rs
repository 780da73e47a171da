//! Ranges of time: buckets out of readings and out of rollups, what they lack, and what retention leaves.

use wayside_common::degraded::Fidelity;

use super::*;
use crate::{
    db::telemetry::{CoverageState, Retire, SeriesOf, StreamContent},
    retention,
};

fn batch(first_seq: u64, body: Body) -> Batch {
    Batch { lowest_held: 0, ..fixture::batch("imu0.readings", first_seq, body) }
}

fn asked(from: i64, to: i64, limit: u32) -> Range {
    Range { source: "imu0".parse().expect("a source"), from: fixture::START + from, to: fixture::START + to, limit }
}

/// Reading p is at p × 10 ms, so a minute has 6000; the first minute begins 20 s before the fixture's start.
const READINGS: u64 = 12_000;

async fn fill(bench: &Bench) {
    for first in (0..READINGS).step_by(1000) {
        bench.acked(&batch(first, fixture::readings(first..first + 1000))).await;
    }
}

async fn stream(bench: &Bench) -> StreamContent {
    bench.db.streams(&bench.cam).await.expect("readable").remove(0)
}

#[tokio::test]
async fn buckets_say_minimum_maximum_and_mean_of_what_is_stored() {
    for bench in Bench::each().await {
        fill(&bench).await;
        let narrow = bench.db.series(&bench.cam, asked(0, 9_999, 10)).await.expect("readable");
        assert_eq!((narrow.of, narrow.columns.len(), narrow.coverage.state), (SeriesOf::Readings, 2, CoverageState::Complete));
        assert_eq!(narrow.buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 1000);
        let first = &narrow.buckets[0];
        let ax = first.values[0].as_ref().expect("values");
        // 1.0 + 0.5 × raw, and raw counts up from 0.
        assert_eq!((first.count, ax.count, ax.min, ax.max), (101, 101, 1.0, 51.0));
        assert!((ax.mean - 26.0).abs() < 1e-9, "{}", ax.mean);
        let ay = first.values[1].as_ref().expect("values");
        assert_eq!((ay.count, ay.min, ay.mean), (101 - 15, -1.5, -1.5), "every seventh is missing");

        let wide = bench.db.series(&bench.cam, asked(i64::MIN / 4, i64::MAX / 4, 1)).await.expect("readable");
        assert_eq!((wide.of, wide.buckets.len()), (SeriesOf::Rollups, 1));
        let ax = wide.buckets[0].values[0].as_ref().expect("values");
        assert_eq!((wide.buckets[0].count, ax.count, ax.min, ax.max), (READINGS, READINGS, 1.0, 1.0 + 0.5 * 11_999.0));
        assert!((ax.mean - (1.0 + 0.5 * 5_999.5)).abs() < 1e-6, "{}", ax.mean);
        assert_eq!(wide.coverage.known_until_ms, Some(fixture::START + 119_990));

        let none = bench.db.series(&bench.cam, asked(500_000, 600_000, 10)).await.expect("readable");
        assert_eq!(none.buckets, []);
    }
}

#[tokio::test]
async fn a_range_says_whether_it_is_complete_degraded_or_what_it_lacks() {
    for bench in Bench::each().await {
        bench.acked(&batch(0, fixture::readings(0..100))).await;
        bench.acked(&batch(100, fixture::degraded(100..200, Fidelity::Downsampled))).await;
        bench.acked(&batch(250, fixture::readings(250..300))).await;
        let mut hello = fixture::hello();
        hello.ledger = vec![Gap {
            epoch: fixture::EPOCH,
            stream: "imu0.readings".parse().expect("a stream"),
            extent: Extent::Exact { first_seq: 200, last_seq: 249 },
            positions: None,
            span: (Wall(fixture::START + 2000), Wall(fixture::START + 2490)),
            reason: Reason::Evicted,
        }];
        bench.hello(&hello).await;
        struct Case(i64, i64, CoverageState, usize, u64);
        let cases = [
            Case(0, 990, CoverageState::Complete, 0, 0),
            Case(0, 1990, CoverageState::Degraded, 0, 100),
            Case(2500, 2990, CoverageState::Complete, 0, 0),
            Case(0, 2990, CoverageState::Gaps, 1, 100),
            Case(2100, 2200, CoverageState::Gaps, 1, 0),
        ];
        for Case(from, to, state, gaps, degraded) in cases {
            let rows = bench.db.readings(&bench.cam, asked(from, to, 1000)).await.expect("readable");
            let buckets = bench.db.series(&bench.cam, asked(from, to, 5)).await.expect("readable");
            for coverage in [rows.coverage, buckets.coverage] {
                assert_eq!((coverage.state, coverage.gaps.len()), (state, gaps), "{from} to {to}");
            }
            assert_eq!(buckets.buckets.iter().map(|bucket| bucket.degraded).sum::<u64>(), degraded, "{from} to {to}");
        }
    }
}

#[tokio::test]
async fn what_came_degraded_and_then_raw_is_counted_once_in_rollups() {
    for bench in Bench::each().await {
        bench.acked(&batch(0, fixture::degraded(0..100, Fidelity::Sketch))).await;
        bench.acked(&batch(0, fixture::readings(0..100))).await;
        bench.acked(&batch(0, fixture::readings(0..100))).await;
        let series = bench.db.series(&bench.cam, asked(0, 10_000_000, 1)).await.expect("readable");
        assert_eq!(series.buckets.iter().map(|bucket| (bucket.count, bucket.degraded)).collect::<Vec<_>>(), [(100, 0)], "out of readings");
    }
}

#[tokio::test]
async fn retention_lets_go_of_raw_readings_and_says_so_everywhere() {
    for mut bench in Bench::each().await {
        fill(&bench).await;
        bench.acked(&batch(READINGS, fixture::degraded(READINGS..READINGS + 100, Fidelity::Sketch))).await;
        let whole = bench.db.series(&bench.cam, asked(0, i64::MAX / 4, 1)).await.expect("readable");
        let before = stream(&bench).await;
        assert_eq!(before.retired, []);

        let keep = retention::retire(&*bench.db, Retire::default()).await.expect("writable");
        assert_eq!(keep.rows, 0, "without limits everything stays");
        let old = Retire { received_before: Some(Wall(0)), bytes: Some(u64::MAX) };
        assert_eq!(retention::retire(&*bench.db, old).await.expect("writable").rows, 0);
        // Room for about half of the blocks.
        let all = Retire { received_before: None, bytes: Some(0) };
        let Body::Readings(block) = fixture::readings(0..1_000) else { unreachable!("readings") };
        let some = Retire { received_before: None, bytes: Some(6 * wire::encode(&block).len() as u64) };
        let let_go = retention::retire(&*bench.db, some).await.expect("writable");
        assert!((1..13).contains(&let_go.rows), "{let_go:?}");
        let end = let_go.rows * 1000;
        bench.restart().await;
        let after = stream(&bench).await;
        assert_eq!((after.retired, after.positions), (vec![(0, end - 1)], vec![(end, READINGS - 1)]));
        assert_eq!((after.watermark, after.records, after.duplicate_positions), (READINGS + 100, READINGS + 100, 0));
        assert_eq!(bench.db.gaps(&bench.cam).await.expect("readable"), [], "what was stored once is no gap of the device's");

        let rows = bench.db.readings(&bench.cam, asked(0, 1000, 10)).await.expect("readable");
        assert_eq!((rows.rows.len(), rows.coverage.state), (0, CoverageState::Gaps));
        assert_eq!((rows.coverage.gaps[0].reason.as_str(), rows.coverage.gaps[0].count), ("rollups_only", Some(end)));
        let rolled = bench.db.series(&bench.cam, asked(0, i64::MAX / 4, 1)).await.expect("readable");
        assert_eq!(rolled, whole, "rollups outlive readings");

        // The same batch again is known by its digest, and is not stored a second time.
        bench.acked(&batch(0, fixture::readings(0..1000))).await;
        let again = stream(&bench).await;
        assert_eq!((again.redelivered, again.differing, again.records), (1000, 0, READINGS + 100));
        retention::retire(&*bench.db, all).await.expect("writable");
        let empty = stream(&bench).await;
        assert_eq!((empty.retired, empty.positions, empty.degraded), (vec![(0, READINGS + 99)], vec![], vec![]));
        assert_eq!(bench.db.latest(&bench.cam).await.expect("readable").readings[0].position, READINGS - 1);
    }
}

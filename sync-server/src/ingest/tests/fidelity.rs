//! Degraded readings: stored beside blocks, replaced by what is better, never the other way round.

use wayside_common::{
    block::Block,
    degraded::{Degraded, Fidelity},
    reading::Reading,
    schedule::Position,
};

use super::*;

fn body(fidelity: Fidelity, positions: std::ops::Range<u64>) -> Body {
    match fidelity {
        Fidelity::Raw => fixture::readings(positions),
        fidelity => fixture::degraded(positions, fidelity),
    }
}

fn batch(first_seq: u64, body: Body) -> Batch {
    Batch { lowest_held: 0, ..fixture::batch("imu0.readings", first_seq, body) }
}

#[tokio::test]
async fn the_higher_fidelity_wins_whatever_comes_first() {
    use Fidelity::{Downsampled, Raw, Sketch};
    type Ranges = &'static [(u64, u64)];
    struct Case {
        first: (Fidelity, u64, u64),
        then: (Fidelity, u64, u64),
        /// records, redelivered, differing, replaced
        tally: (u64, u64, u64, u64),
        positions: Ranges,
        degraded: Ranges,
    }
    let all: Ranges = &[(0, 39)];
    let cases = [
        Case { first: (Downsampled, 0, 40), then: (Raw, 0, 40), tally: (40, 0, 0, 40), positions: all, degraded: &[] },
        Case { first: (Raw, 0, 40), then: (Downsampled, 0, 40), tally: (40, 40, 0, 0), positions: all, degraded: &[] },
        Case { first: (Sketch, 0, 40), then: (Downsampled, 0, 40), tally: (40, 0, 0, 40), positions: &[], degraded: all },
        Case { first: (Downsampled, 0, 40), then: (Sketch, 0, 40), tally: (40, 40, 0, 0), positions: &[], degraded: all },
        Case { first: (Sketch, 0, 40), then: (Sketch, 0, 40), tally: (40, 40, 0, 0), positions: &[], degraded: all },
        // No correct device cuts a batch anew; whatever one does, each record is stored once and nothing is forgotten.
        Case { first: (Sketch, 10, 20), then: (Raw, 0, 40), tally: (40, 0, 0, 10), positions: all, degraded: &[] },
        Case { first: (Sketch, 0, 40), then: (Raw, 10, 20), tally: (40, 10, 0, 0), positions: &[], degraded: all },
        Case { first: (Sketch, 0, 40), then: (Sketch, 0, 30), tally: (40, 0, 30, 0), positions: &[], degraded: all },
        Case {
            first: (Raw, 16, 32),
            then: (Downsampled, 0, 40),
            tally: (40, 16, 0, 0),
            positions: &[(16, 31)],
            degraded: &[(0, 15), (32, 39)],
        },
    ];
    for (at, case) in cases.into_iter().enumerate() {
        for mut bench in Bench::each().await {
            for (fidelity, from, to) in [case.first, case.then] {
                bench.acked(&batch(from, body(fidelity, from..to))).await;
                bench.restart().await;
            }
            let stream = bench.db.streams(&bench.cam).await.expect("readable").remove(0);
            assert_eq!((stream.records, stream.redelivered, stream.differing, stream.replaced), case.tally, "case {at}");
            assert_eq!((stream.positions.as_slice(), stream.degraded.as_slice()), (case.positions, case.degraded), "case {at}");
            assert_eq!((stream.duplicate_positions, stream.watermark), (0, 40), "case {at}");
        }
    }
}

#[tokio::test]
async fn a_range_shows_the_buckets_of_its_degraded_stretches() {
    for bench in Bench::each().await {
        bench.acked(&batch(0, fixture::readings(0..40))).await;
        bench.acked(&batch(40, fixture::degraded(40..80, Fidelity::Downsampled))).await;
        bench.acked(&batch(80, fixture::degraded(80..120, Fidelity::Sketch))).await;
        let asked = |from: i64, to: i64, limit| Range {
            source: "imu0".parse().expect("a source"),
            from: fixture::START + from,
            to: fixture::START + to,
            limit,
        };
        let all = bench.db.readings(&bench.cam, asked(0, 10_000, 1000)).await.expect("readable");
        let told: Vec<_> = all.degraded.iter().map(|stretch| (stretch.fidelity, stretch.buckets.len(), stretch.columns.len())).collect();
        assert_eq!((all.rows.len(), told), (40, vec![(Fidelity::Downsampled, 3, 2), (Fidelity::Sketch, 1, 2)]));
        let bucket = &all.degraded[0].buckets[1];
        assert_eq!((bucket.from, bucket.to, bucket.count), (56, 71, 16));
        assert_eq!((bucket.from_ms, bucket.to_ms), (fixture::START + 560, fixture::START + 720));
        assert_eq!((bucket.minima[0], bucket.means[0], bucket.maxima[0]), (Some(56), Some(64), Some(71)));

        let some = bench.db.readings(&bench.cam, asked(600, 650, 1000)).await.expect("readable");
        assert_eq!((some.rows.len(), some.degraded.len(), some.degraded[0].buckets.len()), (0, 1, 1));
        let few = bench.db.readings(&bench.cam, asked(0, 10_000, 2)).await.expect("readable");
        assert_eq!((few.rows.len(), few.degraded.len(), few.next_ms), (2, 0, Some(fixture::START + 20)));
    }
}

#[tokio::test]
async fn degraded_readings_that_claim_too_much_are_refused() {
    for bench in Bench::each().await {
        let backwards: Vec<Reading> =
            (0..40).map(|at| Reading { position: Position(100 - at), mono: Mono(at), values: vec![Some(1)] }).collect();
        let beyond: Vec<Reading> =
            (0..40).map(|at| Reading { position: Position((1 << 53) + at), mono: Mono(at), values: vec![Some(1)] }).collect();
        let mut coarse = fixture::column("ax");
        coarse.lsb = -1.0;
        let good = fixture::column("ax");
        for (column, rows) in [(good.clone(), backwards), (good, beyond), (coarse, (0..40).map(reading).collect())] {
            let remains = Degraded::downsample(&Block::pack(&[column], &rows).expect("one column")).expect("readings");
            let batch = batch(0, Body::Degraded(remains));
            assert!(bench.refused(&batch).await.is_some(), "{batch:?}");
        }
    }
}

fn reading(at: u64) -> Reading {
    Reading { position: Position(at), mono: Mono(at), values: vec![Some(1)] }
}

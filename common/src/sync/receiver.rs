//! The receiver: a plain function of a stream's row and a batch. Its memory is the database row, so any server may take any batch.
//!
//! Invariant: the row is a watermark and at most [`MAX_RANGES`] ranges above it; it never depends on what is still stored.
//! Not here: storing the records, and comparing the content of a batch that comes again.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, StreamId};

/// A row never has more ranges; a batch that would need one more is deferred: not stored and not acked, so it comes again.
pub const MAX_RANGES: usize = 64;

/// What of one (device, epoch, stream) has been committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRow {
    /// Every seq below is committed.
    pub watermark: u64,
    /// Committed above the watermark: disjoint, ascending, not touching, `from..to`.
    pub ranges: Vec<(u64, u64)>,
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// None of it is stored: store it all.
    New,
    /// All of it is stored already: compare, count as redelivered, ack.
    Known,
    /// A part is stored: store the rest. Batches are cut once, so a correct device never causes this.
    Overlap,
    /// The row cannot take it now: do not store, do not ack.
    Deferred,
    /// It is empty or its seqs overflow: refuse it.
    Nonsense,
}

/// Sent after the commit: everything it covers may be deleted on the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    pub epoch: Epoch,
    pub stream: StreamId,
    pub row: StreamRow,
    /// Which server store answers: it changes when a store is made anew or restored.
    pub incarnation: u64,
}

impl StreamRow {
    /// Is `from..to` committed?
    pub fn covers(&self, from: u64, to: u64) -> bool {
        to <= self.watermark || self.ranges.iter().any(|&(a, b)| a <= from.max(self.watermark) && to <= b)
    }

    fn touches(&self, from: u64, to: u64) -> bool {
        from < self.watermark || self.ranges.iter().any(|&(a, b)| a < to && from < b)
    }

    /// Takes `from..to` in; `None` where that would need more than [`MAX_RANGES`] ranges.
    fn with(&self, from: u64, to: u64) -> Option<Self> {
        let mut all: Vec<(u64, u64)> = self.ranges.iter().copied().chain([(0, self.watermark), (from, to)]).collect();
        all.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (a, b) in all {
            match merged.last_mut() {
                Some(last) if a <= last.1 => last.1 = last.1.max(b),
                _ => merged.push((a, b)),
            }
        }
        let (_, watermark) = merged.remove(0);
        (merged.len() <= MAX_RANGES).then_some(Self { watermark, ranges: merged })
    }
}

/// Judges a batch of `from..to` and gives the row to write in the same transaction as the records.
///
/// `lowest_held` is the device's word that nothing below it will come any more: the watermark moves up to it, and what
/// lies between is a hole that the ledger, or its loss, explains.
pub fn receive(row: &StreamRow, from: u64, to: u64, lowest_held: u64) -> (StreamRow, Verdict) {
    if from >= to || lowest_held > from {
        return (row.clone(), Verdict::Nonsense);
    }
    let verdict = if row.covers(from, to) {
        return (row.clone(), Verdict::Known);
    } else if row.touches(from, to) {
        Verdict::Overlap
    } else {
        Verdict::New
    };
    let raised = row.with(0, lowest_held).unwrap_or_else(|| row.clone());
    match raised.with(from, to) {
        Some(next) => (next, verdict),
        None => (row.clone(), Verdict::Deferred),
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn row(watermark: u64, ranges: &[(u64, u64)]) -> StreamRow {
        StreamRow { watermark, ranges: ranges.to_vec() }
    }

    #[test]
    fn batches_move_the_row() {
        struct Case {
            before: StreamRow,
            batch: (u64, u64),
            lowest_held: u64,
            verdict: Verdict,
            after: StreamRow,
        }
        let cases = [
            Case { before: row(0, &[]), batch: (0, 10), lowest_held: 0, verdict: Verdict::New, after: row(10, &[]) },
            Case { before: row(10, &[]), batch: (0, 10), lowest_held: 0, verdict: Verdict::Known, after: row(10, &[]) },
            Case { before: row(10, &[]), batch: (20, 30), lowest_held: 5, verdict: Verdict::New, after: row(10, &[(20, 30)]) },
            Case { before: row(10, &[(20, 30)]), batch: (10, 20), lowest_held: 0, verdict: Verdict::New, after: row(30, &[]) },
            Case { before: row(10, &[(20, 30)]), batch: (22, 28), lowest_held: 0, verdict: Verdict::Known, after: row(10, &[(20, 30)]) },
            Case { before: row(10, &[]), batch: (5, 15), lowest_held: 0, verdict: Verdict::Overlap, after: row(15, &[]) },
            Case { before: row(10, &[]), batch: (40, 50), lowest_held: 40, verdict: Verdict::New, after: row(50, &[]) },
            Case { before: row(10, &[]), batch: (7, 7), lowest_held: 0, verdict: Verdict::Nonsense, after: row(10, &[]) },
            Case { before: row(10, &[]), batch: (20, 30), lowest_held: 25, verdict: Verdict::Nonsense, after: row(10, &[]) },
        ];
        for (i, case) in cases.into_iter().enumerate() {
            let (after, verdict) = receive(&case.before, case.batch.0, case.batch.1, case.lowest_held);
            assert_eq!((after, verdict), (case.after, case.verdict), "case {i}");
        }
    }

    #[test]
    fn a_row_that_is_full_defers_until_a_hole_is_filled() {
        let full = row(0, &(0..MAX_RANGES as u64).map(|i| (i * 10 + 5, i * 10 + 6)).collect::<Vec<_>>());
        let (same, verdict) = receive(&full, 5_000, 5_001, 0);
        assert_eq!((same, verdict), (full.clone(), Verdict::Deferred));
        let (after, verdict) = receive(&full, 0, 5, 0);
        assert_eq!(verdict, Verdict::New);
        assert_eq!(after.watermark, 6);
        assert_eq!(after.ranges.len(), MAX_RANGES - 1);
    }

    #[test]
    fn any_order_of_batches_gives_the_same_row() {
        let batches = [(0, 3), (3, 4), (4, 9), (9, 12), (12, 20)];
        let mut orders = vec![vec![]];
        for _ in 0..batches.len() {
            orders = orders
                .into_iter()
                .flat_map(|order: Vec<usize>| {
                    (0..batches.len()).filter(|i| !order.contains(i)).map(|i| [order.clone(), vec![i]].concat()).collect::<Vec<_>>()
                })
                .collect();
        }
        for order in orders {
            let mut current = StreamRow::default();
            for i in order {
                current = receive(&current, batches[i].0, batches[i].1, 0).0;
            }
            assert_eq!(current, row(20, &[]));
        }
    }
}

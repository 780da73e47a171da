//! Cutting a stream into batches: by number, by size, by age.
//!
//! Invariant: every record gets the next seq the moment it is pushed, before anything that could lose it; the records of a
//! batch are neighbours. Not here: encoding and storing (`spool`).

use std::time::Duration;

use wayside_common::{
    id::Class,
    schedule::Position,
    time::{Mono, Wall},
};

/// When a batch is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub count: usize,
    pub bytes: usize,
    /// From the push of the first record; with the store's own delay it stays below the commit interval.
    pub age: Duration,
}

impl Limits {
    /// A power cut may cost bulk more than the rest, for which its larger batches pack better and wear the flash less.
    pub fn of(class: Class) -> Self {
        let age = Duration::from_millis(if class == Class::Bulk { 4_000 } else { 700 });
        Self { count: 1_000, bytes: 48 * 1024, age }
    }
}

/// A record on its way, with what the ledger would have to say of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<T> {
    pub record: T,
    /// Roughly, when encoded.
    pub bytes: usize,
    pub position: Option<Position>,
    /// Due time, or the wall time of the record.
    pub wall: Wall,
}

/// Neighbouring records.
#[derive(Clone, Debug, PartialEq)]
pub struct Run<T> {
    pub first_seq: u64,
    pub records: Vec<T>,
    pub positions: Option<(Position, Position)>,
    pub span: (Wall, Wall),
}

#[derive(Debug)]
pub struct Batcher<T> {
    limits: Limits,
    next_seq: u64,
    bytes: usize,
    full_at: Option<Mono>,
    run: Option<Run<T>>,
}

impl<T> Batcher<T> {
    pub fn new(limits: Limits) -> Self {
        Self { limits, next_seq: 0, bytes: 0, full_at: None, run: None }
    }

    /// Takes a record in; gives the batches that are complete now: one that had no room for it, one that it filled.
    pub fn push(&mut self, now: Mono, entry: Entry<T>) -> Vec<Run<T>> {
        let mut cut = Vec::new();
        if self.bytes + entry.bytes > self.limits.bytes {
            cut.extend(self.flush());
        }
        self.bytes += entry.bytes;
        let run = self.run.get_or_insert_with(|| Run {
            first_seq: self.next_seq,
            records: Vec::new(),
            positions: entry.position.map(|p| (p, p)),
            span: (entry.wall, entry.wall),
        });
        self.next_seq += 1;
        run.records.push(entry.record);
        run.span.1 = entry.wall;
        if let (Some(positions), Some(position)) = (&mut run.positions, entry.position) {
            positions.1 = position;
        }
        self.full_at.get_or_insert(now + self.limits.age);
        if run.records.len() >= self.limits.count || self.bytes >= self.limits.bytes {
            cut.extend(self.flush());
        }
        cut
    }

    /// When the batch is old enough to be cut.
    pub fn deadline(&self) -> Option<Mono> {
        self.full_at
    }

    /// The batch, if it is old enough.
    pub fn poll(&mut self, now: Mono) -> Option<Run<T>> {
        self.full_at.filter(|at| *at <= now).and_then(|_| self.flush())
    }

    /// What there is.
    pub fn flush(&mut self) -> Option<Run<T>> {
        self.bytes = 0;
        self.full_at = None;
        self.run.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, bytes: usize) -> Entry<u64> {
        Entry { record: number, bytes, position: Some(Position(number)), wall: Wall(number as i64 * 10) }
    }

    fn batcher() -> Batcher<u64> {
        Batcher::new(Limits { count: 3, bytes: 100, age: Duration::from_secs(1) })
    }

    fn second(s: u64) -> Mono {
        Mono(s * 1_000_000)
    }

    #[test]
    fn a_batch_is_cut_by_number_with_dense_seqs() {
        let mut batcher = batcher();
        assert_eq!(batcher.push(second(0), entry(7, 1)), []);
        assert_eq!(batcher.push(second(0), entry(8, 1)), []);
        let cut = batcher.push(second(0), entry(9, 1));
        let run = Run { first_seq: 0, records: vec![7, 8, 9], positions: Some((Position(7), Position(9))), span: (Wall(70), Wall(90)) };
        assert_eq!((cut, batcher.deadline()), (vec![run], None));
        batcher.push(second(0), entry(10, 1));
        assert_eq!(batcher.flush().map(|run| run.first_seq), Some(3));
        assert_eq!(batcher.flush(), None);
    }

    #[test]
    fn a_batch_is_cut_by_age_and_not_before() {
        let mut batcher = batcher();
        batcher.push(second(5), entry(0, 1));
        batcher.push(Mono(5_900_000), entry(1, 1));
        assert_eq!(batcher.deadline(), Some(second(6)));
        assert_eq!(batcher.poll(Mono(5_999_999)), None);
        assert_eq!(batcher.poll(second(6)).map(|run| run.records), Some(vec![0, 1]));
    }

    #[test]
    fn a_batch_is_cut_by_size_before_it_grows_beyond() {
        let mut batcher = batcher();
        assert_eq!(batcher.push(second(0), entry(0, 60)), []);
        let cut = batcher.push(second(0), entry(1, 60));
        assert_eq!(cut.iter().map(|run| run.records.clone()).collect::<Vec<_>>(), [vec![0]]);
        let cut = batcher.push(second(0), entry(2, 500));
        assert_eq!(cut.iter().map(|run| run.records.clone()).collect::<Vec<_>>(), [vec![1], vec![2]]);
    }
}

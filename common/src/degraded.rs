//! Readings in less than full fidelity: what a device keeps of a batch when its disk has no room for the whole.
//!
//! Invariant: what is degraded stands for exactly the records that it was made of, so a batch keeps its name and its seqs; a step
//! down the ladder raw → downsampled → sketch never widens or shifts them. Not here: when a batch is degraded (agent `spool`).

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{
    block::{Block, BlockError, MAX_READINGS},
    reading::{Column, Reading},
    schedule::Position,
    time::Mono,
};

/// Neighbouring readings that become one bucket.
pub const FACTOR: u32 = 16;

/// How much of a record is left. The higher one wins where both reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fidelity {
    Sketch,
    Downsampled,
    Raw,
}

impl Fidelity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sketch => "sketch",
            Self::Downsampled => "downsampled",
            Self::Raw => "raw",
        }
    }
}

/// What is left of the readings of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Degraded {
    /// How many records these were.
    len: u32,
    /// Of the last of them; the first one's are in `remains`.
    last: (Position, Mono),
    remains: Remains,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Remains {
    /// A third of the rows are means, then come the minima, then the maxima, each with position and time of its bucket's first reading.
    Downsampled { factor: u32, rows: Block },
    /// Three rows: means, minima, maxima of all.
    Sketch(Block),
}

/// Some neighbouring readings as one. A column in which all of them were missing, or no numbers, is missing here.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// Of the first and of the last reading.
    pub positions: (Position, Position),
    pub monos: (Mono, Mono),
    pub len: u32,
    /// Of the readings that were there, rounded.
    pub means: Vec<Option<i32>>,
    pub minima: Vec<Option<i32>>,
    pub maxima: Vec<Option<i32>>,
}

impl Degraded {
    pub fn downsample(block: &Block) -> Result<Self, BlockError> {
        let readings = block.unpack()?;
        let last = readings.last().map(|reading| (reading.position, reading.mono)).ok_or_else(|| damaged("it is empty"))?;
        let buckets: Vec<Bucket> = readings.chunks(FACTOR as usize).map(|some| of_readings(&block.columns, some)).collect();
        let rows = pack(&block.columns, &buckets)?;
        Ok(Self { len: readings.len() as u32, last, remains: Remains::Downsampled { factor: FACTOR, rows } })
    }

    /// The next step down; `None`: there is none.
    pub fn sketch(&self) -> Result<Option<Self>, BlockError> {
        let Remains::Downsampled { rows, .. } = &self.remains else { return Ok(None) };
        let whole = merged(&rows.columns, &self.buckets()?).ok_or_else(|| damaged("it is empty"))?;
        Ok(Some(Self { remains: Remains::Sketch(pack(&rows.columns, &[whole])?), ..self.clone() }))
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn fidelity(&self) -> Fidelity {
        match self.remains {
            Remains::Downsampled { .. } => Fidelity::Downsampled,
            Remains::Sketch(_) => Fidelity::Sketch,
        }
    }

    pub fn columns(&self) -> &[Column] {
        match &self.remains {
            Remains::Downsampled { rows, .. } | Remains::Sketch(rows) => &rows.columns,
        }
    }

    /// As [`Block::sealed`].
    #[doc(hidden)]
    pub fn sealed(self) -> Self {
        let remains = match self.remains {
            Remains::Downsampled { factor, rows } => Remains::Downsampled { factor, rows: rows.sealed() },
            Remains::Sketch(rows) => Remains::Sketch(rows.sealed()),
        };
        Self { remains, ..self }
    }

    /// In the order of the readings. An error: it is damaged, or a stranger made it.
    pub fn buckets(&self) -> Result<Vec<Bucket>, BlockError> {
        if self.len() > MAX_READINGS {
            return Err(BlockError::TooManyReadings(self.len()));
        }
        let (factor, rows) = match &self.remains {
            Remains::Downsampled { factor, rows } => (*factor, rows),
            Remains::Sketch(rows) => (self.len, rows),
        };
        if self.len == 0 || factor == 0 || rows.len() != 3 * self.len.div_ceil(factor) as usize {
            return Err(damaged("its rows do not fit its length"));
        }
        let rows = rows.unpack()?;
        let count = rows.len() / 3;
        Ok((0..count)
            .map(|at| {
                let end = rows.get(at + 1).filter(|_| at + 1 < count).map_or(self.last, |next| (next.position, next.mono));
                Bucket {
                    positions: (rows[at].position, if at + 1 < count { Position(end.0.0.saturating_sub(1)) } else { end.0 }),
                    monos: (rows[at].mono, end.1),
                    len: factor.min(self.len - at as u32 * factor),
                    means: rows[at].values.clone(),
                    minima: rows[count + at].values.clone(),
                    maxima: rows[2 * count + at].values.clone(),
                }
            })
            .collect())
    }
}

fn damaged(what: &str) -> BlockError {
    BlockError::Malformed(what.into())
}

fn of_readings(columns: &[Column], readings: &[Reading]) -> Bucket {
    let (first, last) = (&readings[0], &readings[readings.len() - 1]);
    let column = |at: usize| readings.iter().filter_map(move |reading| reading.values[at]).filter(move |raw| is_number(&columns[at], *raw));
    let each = |of: &dyn Fn(usize) -> Option<i32>| (0..columns.len()).map(of).collect::<Vec<_>>();
    Bucket {
        positions: (first.position, last.position),
        monos: (first.mono, last.mono),
        len: readings.len() as u32,
        means: each(&|at| mean(&columns[at], column(at).map(|value| (value, 1)))),
        minima: each(&|at| column(at).min_by_key(|raw| columns[at].rank(*raw))),
        maxima: each(&|at| column(at).max_by_key(|raw| columns[at].rank(*raw))),
    }
}

/// One bucket of all; its means weigh each bucket by its length, missing values or not.
fn merged(columns: &[Column], buckets: &[Bucket]) -> Option<Bucket> {
    let (first, last) = (buckets.first()?, buckets.last()?);
    let width = columns.len();
    let column = |of: fn(&Bucket) -> &Vec<Option<i32>>, at: usize| buckets.iter().filter_map(move |bucket| of(bucket)[at]);
    Some(Bucket {
        positions: (first.positions.0, last.positions.1),
        monos: (first.monos.0, last.monos.1),
        len: buckets.iter().map(|bucket| bucket.len).sum(),
        means: (0..width).map(|at| mean(&columns[at], buckets.iter().filter_map(|bucket| Some((bucket.means[at]?, bucket.len))))).collect(),
        minima: (0..width).map(|at| column(|bucket| &bucket.minima, at).min_by_key(|raw| columns[at].rank(*raw))).collect(),
        maxima: (0..width).map(|at| column(|bucket| &bucket.maxima, at).max_by_key(|raw| columns[at].rank(*raw))).collect(),
    })
}

/// What is not a number has no place in an order or a mean.
fn is_number(column: &Column, raw: i32) -> bool {
    !(column.is_float() && column.value(raw).is_nan())
}

/// Of values and how often each counts; of integers rounded to the nearest, halves up.
fn mean(column: &Column, values: impl Iterator<Item = (i32, u32)>) -> Option<i32> {
    if column.is_float() {
        let (sum, count) =
            values.fold((0.0, 0u64), |(sum, count), (raw, n)| (sum + column.value(raw) * f64::from(n), count + u64::from(n)));
        return if count > 0 { column.quantise(sum / count as f64) } else { None };
    }
    let (sum, count) = values.fold((0i64, 0i64), |(sum, count), (value, n)| (sum + i64::from(value) * i64::from(n), count + i64::from(n)));
    // A mean lies between its values, so it fits.
    (count > 0).then(|| (2 * sum + count).div_euclid(2 * count) as i32)
}

fn pack(columns: &[Column], buckets: &[Bucket]) -> Result<Block, BlockError> {
    type Part = fn(&Bucket) -> &Vec<Option<i32>>;
    let parts: [Part; 3] = [|bucket| &bucket.means, |bucket| &bucket.minima, |bucket| &bucket.maxima];
    let mut rows = Vec::with_capacity(3 * buckets.len());
    for of in parts {
        rows.extend(buckets.iter().map(|bucket| Reading {
            position: bucket.positions.0,
            mono: bucket.monos.0,
            values: of(bucket).clone(),
        }));
    }
    Block::pack(columns, &rows)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn columns() -> Vec<Column> {
        ["a", "b"].map(|name| Column { name: name.into(), unit: "1".into(), offset: 0.0, lsb: 1.0 }).to_vec()
    }

    /// 40 readings: a counts up, b is missing in the first bucket but for one value.
    fn block() -> Block {
        let readings: Vec<Reading> = (0..40)
            .map(|i| Reading {
                position: Position(100 + i),
                mono: Mono(i * 10),
                values: vec![Some(i as i32), (i == 3 || i >= 16).then_some(-7)],
            })
            .collect();
        Block::pack(&columns(), &readings).unwrap()
    }

    #[test]
    fn each_step_stands_for_the_same_records() {
        let downsampled = Degraded::downsample(&block()).unwrap();
        assert_eq!((downsampled.fidelity(), downsampled.len()), (Fidelity::Downsampled, 40));
        let buckets = downsampled.buckets().unwrap();
        struct Case(u64, u64, u32, Option<i32>, i32, i32);
        let cases = [Case(100, 115, 16, Some(8), 0, 15), Case(116, 131, 16, Some(24), 16, 31), Case(132, 139, 8, Some(36), 32, 39)];
        assert_eq!(buckets.len(), cases.len());
        for (bucket, Case(from, to, len, mean, min, max)) in buckets.iter().zip(cases) {
            assert_eq!((bucket.positions.0.0, bucket.positions.1.0, bucket.len), (from, to, len));
            assert_eq!((bucket.means[0], bucket.minima[0], bucket.maxima[0]), (mean, Some(min), Some(max)));
            assert_eq!(bucket.means[1], Some(-7));
        }
        let sketch = downsampled.sketch().unwrap().expect("there is a step below");
        let all = sketch.buckets().unwrap();
        assert_eq!((sketch.fidelity(), sketch.len(), all.len()), (Fidelity::Sketch, 40, 1));
        assert_eq!((all[0].positions, all[0].monos), ((Position(100), Position(139)), (Mono(0), Mono(390))));
        assert_eq!((all[0].means[0], all[0].minima[0], all[0].maxima[0]), (Some(20), Some(0), Some(39)));
        assert_eq!(sketch.sketch(), Ok(None));
    }

    #[test]
    fn what_does_not_fit_its_length_is_refused() {
        let downsampled = Degraded::downsample(&block()).unwrap();
        let Remains::Downsampled { rows, .. } = &downsampled.remains else { unreachable!("it was just made") };
        let cases = [
            Degraded { len: 0, ..downsampled.clone() },
            Degraded { len: 100, ..downsampled.clone() },
            Degraded { len: u32::MAX, ..downsampled.clone() },
            Degraded { remains: Remains::Downsampled { factor: 0, rows: rows.clone() }, ..downsampled.clone() },
            Degraded { remains: Remains::Sketch(rows.clone()), ..downsampled.clone() },
        ];
        for case in cases {
            assert!(case.buckets().is_err(), "{case:?}");
        }
        assert!(Degraded::downsample(&Block::pack(&columns(), &[]).unwrap()).is_err());
    }

    #[test]
    fn means_round_to_the_nearest() {
        for (values, expected) in [(&[1, 2][..], Some(2)), (&[-1, -2], Some(-1)), (&[i32::MIN, i32::MIN], Some(i32::MIN)), (&[], None)] {
            assert_eq!(mean(&columns()[0], values.iter().map(|value| (*value, 1))), expected, "{values:?}");
        }
    }

    #[test]
    fn a_column_without_a_resolution_is_judged_by_its_values() {
        let column = Column { name: "p".into(), unit: "Pa".into(), offset: 0.0, lsb: 0.0 };
        let values = [-2.5, f64::NAN, 1.0, -4.0];
        let reading = |at: usize| Reading {
            position: Position(at as u64),
            mono: Mono(at as u64),
            values: vec![values.get(at).and_then(|value| column.quantise(*value))],
        };
        let block = Block::pack(core::slice::from_ref(&column), &(0..20).map(reading).collect::<Vec<_>>()).unwrap();
        let downsampled = Degraded::downsample(&block).unwrap();
        for (degraded, buckets) in [(downsampled.clone(), 2), (downsampled.sketch().unwrap().unwrap(), 1)] {
            let all = degraded.buckets().unwrap();
            let value = |raw: Option<i32>| raw.map(|raw| column.value(raw));
            assert_eq!(all.len(), buckets);
            assert_eq!(
                (value(all[0].means[0]), value(all[0].minima[0]), value(all[0].maxima[0])),
                (Some(f64::from((-5.5f64 / 3.0) as f32)), Some(-4.0), Some(1.0))
            );
            assert!(all[1..].iter().all(|bucket| bucket.means[0].is_none()));
        }
    }
}

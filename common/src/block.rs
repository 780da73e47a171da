//! The columnar codec of readings: delta per column as variable-length integers. Lossless on the source's integers.
//!
//! Invariant: `Block::pack(columns, readings)` then `unpack` gives the same readings, missing values, repeated and reordered
//! times included; unpacking bytes of a stranger allocates at most [`MAX_READINGS`] rows. Byte shuffle and zstd come as a second
//! `codec` number; readers keep the first. Not here: when a block is cut.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    reading::{Column, Reading},
    schedule::Position,
    time::Mono,
};

/// No block has more rows.
pub const MAX_READINGS: usize = 10_000;
/// No source has more columns.
pub const MAX_COLUMNS: usize = 64;

const CODEC_DELTA: u8 = 1;

/// Packed readings of one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    pub columns: Vec<Column>,
    len: u32,
    codec: u8,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("{0} readings in a block, and {MAX_READINGS} are allowed")]
    TooManyReadings(usize),
    #[error("{0} columns, and {MAX_COLUMNS} are allowed")]
    TooManyColumns(usize),
    #[error("a reading has {found} values, and the source {expected} columns")]
    WrongWidth { expected: usize, found: usize },
    #[error("block codec {0} is not known to this build")]
    Codec(u8),
    #[error("the block is damaged: {0}")]
    Malformed(String),
}

/// The inside of codec 1. All are differences to the row before, wrapping, so that any input packs.
#[derive(Serialize, Deserialize)]
struct Deltas {
    positions: Vec<i64>,
    monos: Vec<i64>,
    columns: Vec<DeltaColumn>,
}

#[derive(Serialize, Deserialize)]
struct DeltaColumn {
    /// Of the present values; i64, because a difference of two i32 needs 33 bits.
    values: Vec<i64>,
    /// Rows without a value, ascending.
    missing: Vec<u32>,
}

impl Block {
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn pack(columns: &[Column], readings: &[Reading]) -> Result<Self, BlockError> {
        if readings.len() > MAX_READINGS {
            return Err(BlockError::TooManyReadings(readings.len()));
        }
        if columns.len() > MAX_COLUMNS {
            return Err(BlockError::TooManyColumns(columns.len()));
        }
        if let Some(odd) = readings.iter().find(|r| r.values.len() != columns.len()) {
            return Err(BlockError::WrongWidth { expected: columns.len(), found: odd.values.len() });
        }
        let deltas = Deltas {
            positions: differences_twice(readings.iter().map(|r| r.position.0 as i64)),
            monos: differences_twice(readings.iter().map(|r| r.mono.0 as i64)),
            columns: (0..columns.len()).map(|c| pack_column(readings.iter().map(|r| r.values[c]))).collect(),
        };
        let bytes = postcard::to_allocvec(&deltas).expect("writing to a Vec does not fail");
        Ok(Self { columns: columns.to_vec(), len: readings.len() as u32, codec: CODEC_DELTA, bytes })
    }

    pub fn unpack(&self) -> Result<Vec<Reading>, BlockError> {
        if self.len() > MAX_READINGS {
            return Err(BlockError::TooManyReadings(self.len()));
        }
        if self.columns.len() > MAX_COLUMNS {
            return Err(BlockError::TooManyColumns(self.columns.len()));
        }
        if self.codec != CODEC_DELTA {
            return Err(BlockError::Codec(self.codec));
        }
        let malformed = |what: &str| BlockError::Malformed(what.into());
        let deltas: Deltas = postcard::from_bytes(&self.bytes).map_err(|_| malformed("not codec 1"))?;
        if deltas.positions.len() != self.len() || deltas.monos.len() != self.len() {
            return Err(malformed("its length differs from its rows"));
        }
        if deltas.columns.len() != self.columns.len() {
            return Err(malformed("its columns differ from its header"));
        }
        let positions = sums_twice(&deltas.positions);
        let monos = sums_twice(&deltas.monos);
        let mut readings: Vec<Reading> = positions
            .into_iter()
            .zip(monos)
            .map(|(position, mono)| Reading {
                position: Position(position as u64),
                mono: Mono(mono as u64),
                values: Vec::with_capacity(self.columns.len()),
            })
            .collect();
        for column in &deltas.columns {
            let values = unpack_column(column, self.len()).ok_or_else(|| malformed("a column does not fit its rows"))?;
            for (reading, value) in readings.iter_mut().zip(values) {
                reading.values.push(value);
            }
        }
        Ok(readings)
    }
}

fn differences_twice(values: impl Iterator<Item = i64>) -> Vec<i64> {
    let (mut last, mut last_step) = (0i64, 0i64);
    values
        .map(|value| {
            let step = value.wrapping_sub(last);
            let change = step.wrapping_sub(last_step);
            (last, last_step) = (value, step);
            change
        })
        .collect()
}

fn sums_twice(changes: &[i64]) -> Vec<i64> {
    let (mut value, mut step) = (0i64, 0i64);
    changes
        .iter()
        .map(|change| {
            step = step.wrapping_add(*change);
            value = value.wrapping_add(step);
            value
        })
        .collect()
}

fn pack_column(values: impl Iterator<Item = Option<i32>>) -> DeltaColumn {
    let mut packed = DeltaColumn { values: Vec::new(), missing: Vec::new() };
    let mut last = 0i64;
    for (row, value) in values.enumerate() {
        match value {
            Some(value) => {
                packed.values.push(i64::from(value) - last);
                last = i64::from(value);
            }
            None => packed.missing.push(row as u32),
        }
    }
    packed
}

fn unpack_column(column: &DeltaColumn, rows: usize) -> Option<Vec<Option<i32>>> {
    if column.values.len().checked_add(column.missing.len())? != rows {
        return None;
    }
    let mut missing = column.missing.iter().peekable();
    let mut deltas = column.values.iter();
    let mut last = 0i64;
    (0..rows as u32)
        .map(|row| {
            if missing.next_if(|&&m| m == row).is_some() {
                return Some(None);
            }
            last = last.checked_add(*deltas.next()?)?;
            Some(Some(i32::try_from(last).ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn columns(n: usize) -> Vec<Column> {
        (0..n).map(|i| Column { name: alloc::format!("c{i}"), unit: "1".into(), offset: 0.0, lsb: 1.0 }).collect()
    }

    fn reading(position: u64, mono: u64, values: &[Option<i32>]) -> Reading {
        Reading { position: Position(position), mono: Mono(mono), values: values.to_vec() }
    }

    #[test]
    fn what_is_packed_comes_back() {
        let cases: Vec<(usize, Vec<Reading>)> = vec![
            (0, vec![]),
            (1, vec![reading(0, 0, &[None])]),
            (2, vec![reading(5, 90, &[Some(i32::MIN), Some(i32::MAX)]), reading(6, 90, &[Some(i32::MAX), None])]),
            (1, vec![reading(9, 100, &[Some(1)]), reading(7, 50, &[None]), reading(u64::MAX, u64::MAX, &[Some(-1)])]),
            (3, (0..500).map(|i| reading(i, i * 10_504, &[Some(i as i32), (i % 7 != 0).then_some(-3), Some(0)])).collect()),
        ];
        for (width, readings) in cases {
            let block = Block::pack(&columns(width), &readings).unwrap();
            assert_eq!(block.len(), readings.len());
            assert_eq!(block.unpack(), Ok(readings));
        }
    }

    #[test]
    fn damaged_blocks_are_refused() {
        let readings: Vec<Reading> = (0..20).map(|i| reading(i, i, &[Some(7), None])).collect();
        let block = Block::pack(&columns(2), &readings).unwrap();
        for at in 0..block.bytes.len() {
            let mut flipped = block.clone();
            flipped.bytes[at] ^= 0x41;
            let _ = flipped.unpack(); // must not panic; equality is the checksum's business, not the codec's
            let mut cut = block.clone();
            cut.bytes.truncate(at);
            assert!(cut.unpack().is_err(), "cut at {at}");
        }
        assert_eq!(Block { codec: 9, ..block.clone() }.unpack(), Err(BlockError::Codec(9)));
        assert_eq!(Block { len: u32::MAX, ..block.clone() }.unpack(), Err(BlockError::TooManyReadings(u32::MAX as usize)));
        assert!(Block { len: 19, ..block }.unpack().is_err());
    }

    #[test]
    fn a_reading_of_another_width_is_refused() {
        let error = Block::pack(&columns(2), &[reading(0, 0, &[Some(1)])]);
        assert_eq!(error, Err(BlockError::WrongWidth { expected: 2, found: 1 }));
    }
}

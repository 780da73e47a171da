//! The columnar codec of readings: each column predicted from what came before, and the error coded by odds that are learned on
//! the way. Lossless on the source's integers, and on the bits of a column without a resolution.
//!
//! Invariant: `Block::pack(columns, readings)` then `unpack` gives the same readings, missing values, repeated and reordered
//! times included; unpacking bytes of a stranger checks the checksum first and allocates at most [`MAX_READINGS`] rows of
//! [`MAX_COLUMNS`]. All arithmetic is on integers, so both ends predict the same. Not here: when a block is cut.

mod checksum;
mod column;
mod header;
mod number;
mod range_coder;
mod timeline;

use alloc::{string::String, vec, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    reading::{Column, Reading},
    schedule::Position,
    time::Mono,
};
use checksum::Checksum;
use range_coder::{Decoder, Encoder};

/// No block has more rows.
pub const MAX_READINGS: usize = 10_000;
/// No source has more columns.
pub const MAX_COLUMNS: usize = 64;
/// No name and no unit of a column has more bytes.
pub const MAX_COLUMN_TEXT: usize = 64;

/// 1 was differences as variable-length integers, before the first release.
const CODEC: u8 = 2;

/// Packed readings of one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    #[serde(with = "header")]
    pub columns: Vec<Column>,
    len: u32,
    codec: u8,
    /// Over all of the above and `packed`.
    checksum: [u8; 4],
    #[serde(with = "packed_bytes")]
    packed: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("{0} readings in a block, and {MAX_READINGS} are allowed")]
    TooManyReadings(usize),
    #[error("{0} columns, and {MAX_COLUMNS} are allowed")]
    TooManyColumns(usize),
    #[error("column {0:?}: its name or its unit has more than {MAX_COLUMN_TEXT} bytes")]
    LongColumn(String),
    #[error("a reading has {found} values, and the source {expected} columns")]
    WrongWidth { expected: usize, found: usize },
    #[error("block codec {0} is not known to this build")]
    Codec(u8),
    #[error("the block is damaged: {0}")]
    Malformed(String),
}

impl Block {
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn pack(columns: &[Column], readings: &[Reading]) -> Result<Self, BlockError> {
        within_limits(columns, readings.len())?;
        if let Some(odd) = readings.iter().find(|r| r.values.len() != columns.len()) {
            return Err(BlockError::WrongWidth { expected: columns.len(), found: odd.values.len() });
        }
        let mut coder = Encoder::default();
        let mut positions: Vec<u64> = readings.iter().map(|reading| reading.position.0).collect();
        let mut monos: Vec<u64> = readings.iter().map(|reading| reading.mono.0).collect();
        timeline::positions(&mut coder, &mut positions);
        timeline::monos(&mut coder, &positions, &mut monos);
        let mut values = vec![None; readings.len()];
        for (at, column) in columns.iter().enumerate() {
            for (value, reading) in values.iter_mut().zip(readings) {
                *value = reading.values[at];
            }
            column::values(&mut coder, column, &mut values).expect("a value of 32 bits comes back as 32 bits");
        }
        Ok(Self { columns: columns.to_vec(), len: readings.len() as u32, codec: CODEC, checksum: [0; 4], packed: coder.finish() }.sealed())
    }

    pub fn unpack(&self) -> Result<Vec<Reading>, BlockError> {
        within_limits(&self.columns, self.len())?;
        if self.codec != CODEC {
            return Err(BlockError::Codec(self.codec));
        }
        if self.checksum != self.sum() {
            return Err(damaged("its checksum differs"));
        }
        let mut coder = Decoder::new(&self.packed);
        let (mut positions, mut monos) = (vec![0; self.len()], vec![0; self.len()]);
        timeline::positions(&mut coder, &mut positions);
        timeline::monos(&mut coder, &positions, &mut monos);
        let mut readings: Vec<Reading> = positions
            .into_iter()
            .zip(monos)
            .map(|(position, mono)| Reading {
                position: Position(position),
                mono: Mono(mono),
                values: Vec::with_capacity(self.columns.len()),
            })
            .collect();
        let mut values = vec![None; self.len()];
        for column in &self.columns {
            column::values(&mut coder, column, &mut values).ok_or_else(|| damaged("a value of more than 32 bits"))?;
            for (reading, value) in readings.iter_mut().zip(&values) {
                reading.values.push(*value);
            }
        }
        coder.is_at_end().then_some(readings).ok_or_else(|| damaged("its bytes do not fit its rows"))
    }

    /// The same block with the checksum that belongs to it. A fuzzer calls it too, because it could not guess the sum.
    #[doc(hidden)]
    pub fn sealed(self) -> Self {
        Self { checksum: self.sum(), ..self }
    }

    fn sum(&self) -> [u8; 4] {
        let mut sum = Checksum::default();
        for column in &self.columns {
            for text in [&column.name, &column.unit] {
                sum.write(&(text.len() as u32).to_le_bytes());
                sum.write(text.as_bytes());
            }
            sum.write(&column.offset.to_le_bytes());
            sum.write(&column.lsb.to_le_bytes());
        }
        sum.write(&self.len.to_le_bytes());
        sum.write(&[self.codec]);
        sum.write(&self.packed);
        sum.value().to_le_bytes()
    }
}

fn within_limits(columns: &[Column], rows: usize) -> Result<(), BlockError> {
    if rows > MAX_READINGS {
        return Err(BlockError::TooManyReadings(rows));
    }
    if columns.len() > MAX_COLUMNS {
        return Err(BlockError::TooManyColumns(columns.len()));
    }
    match columns.iter().find(|column| column.name.len().max(column.unit.len()) > MAX_COLUMN_TEXT) {
        Some(long) => Err(BlockError::LongColumn(long.name.chars().take(MAX_COLUMN_TEXT).collect())),
        None => Ok(()),
    }
}

fn damaged(what: &str) -> BlockError {
    BlockError::Malformed(what.into())
}

/// As one run of bytes: element by element, as serde takes a `Vec<u8>`, it costs more than the decoding.
mod packed_bytes {
    use alloc::vec::Vec;
    use core::fmt;

    use serde::{Deserializer, Serializer, de::Visitor};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(lsbs: &[f64]) -> Vec<Column> {
        let column = |(i, lsb): (usize, &f64)| Column { name: alloc::format!("c{i}"), unit: "1".into(), offset: 0.0, lsb: *lsb };
        lsbs.iter().enumerate().map(column).collect()
    }

    fn reading(position: u64, mono: u64, values: &[Option<i32>]) -> Reading {
        Reading { position: Position(position), mono: Mono(mono), values: values.to_vec() }
    }

    fn bits(value: f32) -> Option<i32> {
        Some(value.to_bits().cast_signed())
    }

    #[test]
    fn what_is_packed_comes_back() {
        struct Case(&'static str, &'static [f64], Vec<Reading>);
        let extremes = [i32::MIN, i32::MAX, 0, -1, i32::MIN, i32::MIN, i32::MAX, i32::MAX, 1];
        let floats = [0.0, -0.0, f32::NAN, f32::from_bits(0xffc0_1234), f32::INFINITY, f32::NEG_INFINITY, 1e-40, f32::MAX, 20.125, 20.25];
        let cases = [
            Case("no rows", &[], vec![]),
            Case("one missing value", &[1.0], vec![reading(0, 0, &[None])]),
            Case("no columns", &[], (0..70).map(|i| reading(i, 0, &[])).collect()),
            Case("the same instant", &[1.0], (0..9).map(|i| reading(4, 77, &[Some(i)])).collect()),
            Case("times that go back", &[1.0], (0..99).map(|i| reading(i, 10_000_000 - i * 9_999, &[Some(3)])).collect()),
            Case(
                "times that jump",
                &[1.0],
                vec![
                    reading(9, 100, &[Some(1)]),
                    reading(7, 50, &[None]),
                    reading(u64::MAX, u64::MAX, &[Some(-1)]),
                    reading(0, 0, &[None]),
                ],
            ),
            Case("half of all times apart", &[], vec![reading(0, 0, &[]), reading(1 << 63, 1 << 63, &[]), reading(1, 5, &[])]),
            Case("extremes", &[0.01], extremes.iter().map(|value| reading(5, 90, &[Some(*value)])).collect()),
            Case(
                "missing at random, all missing, none missing",
                &[1.0, 1.0, 1.0],
                (0..500).map(|i| reading(i, i * 10_504, &[(i * i % 7 < 3).then_some(i as i32), None, Some(-3)])).collect(),
            ),
            Case("floats", &[0.0], floats.iter().map(|value| reading(1, 1, &[bits(*value)])).collect()),
            Case(
                "noise of every size",
                &[1.0, 1.0],
                (0..MAX_READINGS as u64)
                    .map(|i| {
                        let noise = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        reading(i, i * 1_000 + noise % 800, &[Some((noise >> 32) as i32 >> (i / 320).min(31)), Some((noise >> 60) as i32)])
                    })
                    .collect(),
            ),
        ];
        for Case(what, lsbs, readings) in cases {
            let block = Block::pack(&columns(lsbs), &readings).unwrap();
            assert_eq!(block.len(), readings.len(), "{what}");
            assert_eq!(block.unpack().as_ref(), Ok(&readings), "{what}");
            let travelled: Block = postcard::from_bytes(&postcard::to_allocvec(&block).unwrap()).unwrap();
            assert_eq!(travelled, block, "{what}");
        }
    }

    #[test]
    fn a_steady_source_costs_nearly_nothing() {
        let steady: Vec<Reading> = (0..1_000).map(|i| reading(i, 5_000_000 + i * 10_000, &[Some(7), None])).collect();
        let block = Block::pack(&columns(&[1.0, 1.0]), &steady).unwrap();
        assert!(block.packed.len() < 30, "{}", block.packed.len());
        // A clock of whole milliseconds at 95.2 Hz: how far a time is rounded follows from its position.
        let rounded: Vec<Reading> = (0..1_000u64).map(|i| reading(i, (i * 10_504 + 500) / 1_000 * 1_000, &[])).collect();
        let packed = Block::pack(&[], &rounded).unwrap().packed.len();
        assert!(packed < 1_000 / 8, "{packed}");
    }

    #[test]
    fn damaged_blocks_are_refused() {
        let readings: Vec<Reading> = (0..20).map(|i| reading(i, i, &[Some((i * i) as i32), None])).collect();
        let block = Block::pack(&columns(&[1.0, 1.0]), &readings).unwrap();
        for at in 0..block.packed.len() {
            for bit in 0..8 {
                let mut flipped = block.clone();
                flipped.packed[at] ^= 1 << bit;
                assert_eq!(flipped.unpack(), Err(damaged("its checksum differs")), "bit {bit} of byte {at}");
                let _ = flipped.sealed().unpack(); // must not panic; a stranger can say anything in the right form
            }
            let mut cut = block.clone();
            cut.packed.truncate(at);
            assert!(cut.unpack().is_err(), "cut at {at}");
        }
        let mut longer = block.clone();
        longer.packed.extend([0; 100]);
        assert_eq!(longer.sealed().unpack(), Err(damaged("its bytes do not fit its rows")));
        let mut renamed = block.clone();
        renamed.columns[0].lsb = 2.0;
        assert!(renamed.unpack().is_err());
        assert_eq!(Block { codec: 1, ..block.clone() }.unpack(), Err(BlockError::Codec(1)));
        assert_eq!(Block { len: u32::MAX, ..block.clone() }.unpack(), Err(BlockError::TooManyReadings(u32::MAX as usize)));
        assert!(Block { len: 19, ..block }.unpack().is_err());
    }

    #[test]
    fn what_does_not_fit_a_block_is_not_packed() {
        let long = Column { unit: "x".repeat(MAX_COLUMN_TEXT + 1), ..columns(&[1.0]).remove(0) };
        let row = reading(0, 0, &[Some(1)]);
        struct Case(Vec<Column>, Vec<Reading>, BlockError);
        let cases = [
            Case(columns(&[1.0, 1.0]), vec![row.clone()], BlockError::WrongWidth { expected: 2, found: 1 }),
            Case(columns(&[1.0; MAX_COLUMNS + 1]), vec![], BlockError::TooManyColumns(MAX_COLUMNS + 1)),
            Case(vec![long], vec![], BlockError::LongColumn("c0".into())),
            Case(columns(&[1.0]), vec![row; MAX_READINGS + 1], BlockError::TooManyReadings(MAX_READINGS + 1)),
        ];
        for Case(columns, readings, error) in cases {
            assert_eq!(Block::pack(&columns, &readings), Err(error));
        }
    }
}

//! The columns at the head of a block: every batch has them, so they are short.
//!
//! Invariant: any column comes back bit by bit; no more than [`MAX_COLUMNS`] are read, with texts of at most [`MAX_COLUMN_TEXT`] bytes. Not
//! here: what a column means (`reading`).

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

use super::{MAX_COLUMN_TEXT, MAX_COLUMNS};
use crate::reading::Column;

#[derive(Serialize, Deserialize)]
struct Head {
    name: String,
    /// `None`: as the column before, which most are.
    scale: Option<Scale>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Scale {
    unit: String,
    /// `None`: zero.
    offset: Option<Number>,
    lsb: Number,
}

/// A number that a person wrote, or any other one.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Number {
    /// The mantissa, times 16, and how many of its digits stand after the point.
    Decimal(i64),
    Binary(f64),
}

/// A double holds these exactly. With more digits a number is no shorter than its bits.
const POWERS_OF_TEN: [f64; 13] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12];

impl Number {
    fn of(value: f64) -> Self {
        for (digits, power) in POWERS_OF_TEN.iter().enumerate() {
            let mantissa = libm::round(value * power);
            if libm::fabs(mantissa) < (1u64 << 40) as f64 {
                let decimal = Self::Decimal(mantissa as i64 * 16 + digits as i64);
                if decimal.value().is_some_and(|read| read.to_bits() == value.to_bits()) {
                    return decimal;
                }
            }
        }
        Self::Binary(value)
    }

    fn value(self) -> Option<f64> {
        match self {
            // The quotient of two numbers that are exact is rounded rightly on every machine, so it is the same on all.
            Self::Decimal(packed) => Some((packed >> 4) as f64 / POWERS_OF_TEN.get((packed & 15) as usize)?),
            Self::Binary(value) => Some(value),
        }
    }
}

pub fn serialize<S: Serializer>(columns: &[Column], serializer: S) -> Result<S::Ok, S::Error> {
    let alike = |a: &Column, b: &Column| (&a.unit, a.offset.to_bits(), a.lsb.to_bits()) == (&b.unit, b.offset.to_bits(), b.lsb.to_bits());
    let heads = columns.iter().enumerate().map(|(at, column)| {
        let as_before = at > 0 && alike(column, &columns[at - 1]);
        let offset = (column.offset.to_bits() != 0).then(|| Number::of(column.offset));
        let scale = || Scale { unit: column.unit.clone(), offset, lsb: Number::of(column.lsb) };
        Head { name: column.name.clone(), scale: (!as_before).then(scale) }
    });
    serializer.collect_seq(heads)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Column>, D::Error> {
    deserializer.deserialize_seq(Heads)
}

struct Heads;

impl<'de> Visitor<'de> for Heads {
    type Value = Vec<Column>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the columns of a block")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut heads: A) -> Result<Vec<Column>, A::Error> {
        let mut columns: Vec<Column> = Vec::new();
        while let Some(Head { name, scale }) = heads.next_element()? {
            if columns.len() == MAX_COLUMNS {
                return Err(A::Error::custom("too many columns"));
            }
            let column = match scale {
                Some(Scale { unit, offset, lsb }) => {
                    let (Some(offset), Some(lsb)) = (offset.map_or(Some(0.0), Number::value), lsb.value()) else {
                        return Err(A::Error::custom("a number with too many digits"));
                    };
                    Column { name, unit, offset, lsb }
                }
                None => Column { name, ..columns.last().cloned().ok_or_else(|| A::Error::custom("the first column has no scale"))? },
            };
            if column.name.len().max(column.unit.len()) > MAX_COLUMN_TEXT {
                return Err(A::Error::custom("a long name or unit"));
            }
            columns.push(column);
        }
        Ok(columns)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Packed(#[serde(with = "super")] Vec<Column>);

    fn column(name: &str, unit: &str, offset: f64, lsb: f64) -> Column {
        Column { name: name.into(), unit: unit.into(), offset, lsb }
    }

    #[test]
    fn any_column_comes_back_bit_by_bit_and_usual_ones_are_short() {
        let g = 9.80665 / 2048.0;
        struct Case(Vec<Column>, usize);
        let cases = [
            Case(vec![], 1),
            Case(vec![column("t", "degC", 0.0, 0.01)], 1 + 2 + 1 + 5 + 1 + 2),
            Case(vec![column("ax", "m/s2", 0.0, g), column("ay", "m/s2", 0.0, g)], 1 + 3 + 1 + 5 + 1 + 9 + 3 + 1),
            Case(
                vec![column("a", "1", -0.0, f64::MIN_POSITIVE), column("b", "1", 0.0, f64::NAN), column("c", "1", 1e300, -1.5)],
                1 + 2 + 1 + 2 + 10 + 9 + 2 + 1 + 2 + 1 + 9 + 2 + 1 + 2 + 10 + 3,
            ),
            Case(
                vec![column("gx", "rad/s", -273.15, 0.0010653), column("p", "Pa", 101_325.0, 1.0 / 256.0)],
                1 + 3 + 1 + 6 + 5 + 4 + 2 + 1 + 3 + 6 + 5,
            ),
        ];
        for Case(columns, bytes) in cases {
            let packed = postcard::to_allocvec(&Packed(columns.clone())).unwrap();
            assert_eq!(packed.len(), bytes, "{columns:?}");
            let Packed(back) = postcard::from_bytes(&packed).unwrap();
            let bits = |columns: &[Column]| -> Vec<_> {
                columns.iter().map(|c| (c.name.clone(), c.unit.clone(), c.offset.to_bits(), c.lsb.to_bits())).collect()
            };
            assert_eq!(bits(&back), bits(&columns));
        }
    }

    #[test]
    fn too_many_columns_long_texts_and_wild_numbers_are_refused() {
        let head = |name: &str, scale| Head { name: name.into(), scale };
        let scale = |unit: &str, digits: i64| Some(Scale { unit: unit.into(), offset: None, lsb: Number::Decimal(16 + digits) });
        let many = || (0..=MAX_COLUMNS).map(|at| head("x", (at == 0).then(|| scale("1", 0)).flatten())).collect::<Vec<_>>();
        let long = "x".repeat(MAX_COLUMN_TEXT + 1);
        let cases = [
            many(),
            vec![head(&long, scale("1", 0))],
            vec![head("x", scale(&long, 0))],
            vec![head("x", scale("1", 13))],
            vec![head("x", None)],
        ];
        for (at, case) in cases.iter().enumerate() {
            assert!(postcard::from_bytes::<Packed>(&postcard::to_allocvec(case).unwrap()).is_err(), "case {at}");
        }
        let most = postcard::to_allocvec(&many()[..MAX_COLUMNS]).unwrap();
        assert_eq!(postcard::from_bytes::<Packed>(&most).unwrap().0.len(), MAX_COLUMNS);
    }
}

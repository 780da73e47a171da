//! One reading of a sensor as integers: the source declares offset and LSB of each column and rounds before seq is given.
//!
//! Invariant: "equal to the source's" means these integers; everything after the source is lossless on them. Not here: how
//! readings are packed (`block`).

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{schedule::Position, time::Mono};

/// One column of a source: `value = offset + lsb * raw`, in `unit`; without a resolution, raw is the bits of an f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// "ax", "temperature"; at most 64 bytes.
    pub name: String,
    /// "m/s2", "degC"; at most 64 bytes.
    pub unit: String,
    pub offset: f64,
    /// Resolution, greater than zero; zero where none is declared, and then `offset` means nothing.
    pub lsb: f64,
}

impl Column {
    /// No resolution is declared: the integers are the bits of f32 numbers, NaN and its payload included.
    pub fn is_float(&self) -> bool {
        self.lsb == 0.0
    }

    /// The nearest integer, or `None` where the value is not finite or does not fit.
    pub fn quantise(&self, value: f64) -> Option<i32> {
        if self.is_float() {
            return Some((value as f32).to_bits().cast_signed());
        }
        let raw = libm::round((value - self.offset) / self.lsb);
        (raw >= f64::from(i32::MIN) && raw <= f64::from(i32::MAX)).then_some(raw as i32)
    }

    pub fn value(&self, raw: i32) -> f64 {
        if self.is_float() {
            return f64::from(f32::from_bits(raw.cast_unsigned()));
        }
        self.offset + self.lsb * f64::from(raw)
    }

    /// Integers in the order of their values, where the bits of an f32 would count down below zero. Its own inverse.
    pub fn rank(&self, raw: i32) -> i32 {
        if self.is_float() && raw < 0 { raw ^ i32::MAX } else { raw }
    }
}

/// One row of a source at one instant. `values` has one entry per column; `None` is a missing value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    pub position: Position,
    pub mono: Mono,
    pub values: Vec<Option<i32>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantising_rounds_to_the_nearest_lsb_and_refuses_what_does_not_fit() {
        let column = Column { name: "t".into(), unit: "degC".into(), offset: 20.0, lsb: 0.01 };
        struct Case {
            value: f64,
            raw: Option<i32>,
        }
        let cases = [
            Case { value: 20.0, raw: Some(0) },
            Case { value: 19.987, raw: Some(-1) },
            Case { value: 1e12, raw: None },
            Case { value: f64::NAN, raw: None },
            Case { value: f64::INFINITY, raw: None },
        ];
        for case in cases {
            assert_eq!(column.quantise(case.value), case.raw, "{}", case.value);
        }
        assert!((column.value(-1) - 19.99).abs() < 1e-12);
    }

    #[test]
    fn a_column_without_a_resolution_holds_the_bits_of_floats_in_order() {
        let column = Column { name: "p".into(), unit: "Pa".into(), offset: 0.0, lsb: 0.0 };
        let ascending = [f32::NEG_INFINITY, -1e30, -1.5, -0.0, 0.0, f32::MIN_POSITIVE, 1.5, f32::INFINITY];
        let raws = ascending.map(|value| column.quantise(value.into()).unwrap());
        assert_eq!(raws.map(|raw| column.value(raw) as f32), ascending);
        assert!(raws.map(|raw| column.rank(raw)).is_sorted_by(|a, b| a < b));
        for raw in raws.into_iter().chain([i32::MIN, i32::MAX, f32::NAN.to_bits().cast_signed()]) {
            assert_eq!(column.rank(column.rank(raw)), raw);
        }
        assert!(column.quantise(f64::NAN).is_some_and(|raw| column.value(raw).is_nan()));
    }
}

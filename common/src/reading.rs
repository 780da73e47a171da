//! One reading of a sensor as integers: the source declares offset and LSB of each column and rounds before seq is given.
//!
//! Invariant: "equal to the source's" means these integers; everything after the source is lossless on them. Not here: how
//! readings are packed (`block`).

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{schedule::Position, time::Mono};

/// One column of a source: `value = offset + lsb * raw`, in `unit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// "ax", "temperature"; at most 64 bytes.
    pub name: String,
    /// "m/s2", "degC"; at most 64 bytes.
    pub unit: String,
    pub offset: f64,
    /// Resolution, greater than zero.
    pub lsb: f64,
}

impl Column {
    /// The nearest integer, or `None` where the value is not finite or does not fit.
    pub fn quantise(&self, value: f64) -> Option<i32> {
        let raw = libm::round((value - self.offset) / self.lsb);
        (raw >= f64::from(i32::MIN) && raw <= f64::from(i32::MAX)).then_some(raw as i32)
    }

    pub fn value(&self, raw: i32) -> f64 {
        self.offset + self.lsb * f64::from(raw)
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
}

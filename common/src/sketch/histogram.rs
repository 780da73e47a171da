//! A histogram of 32 bins with 31 edges, `[edge i-1, edge i)`, open at both ends.
//!
//! Invariant: counts only grow, and saturate. Not here: where edges come from (the package's `reference.json`).

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

pub const BINS: usize = 32;

#[derive(Clone, Debug, PartialEq)]
pub struct Edges([f64; BINS - 1]);

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EdgesError {
    #[error("{0} edges, and 31 make 32 bins")]
    Count(usize),
    #[error("edge {at} is not finite or not above the one before")]
    NotRising { at: usize },
}

impl Edges {
    pub fn new(edges: &[f64]) -> Result<Self, EdgesError> {
        let edges: [f64; BINS - 1] = edges.try_into().map_err(|_| EdgesError::Count(edges.len()))?;
        match (0..edges.len()).find(|&i| !edges[i].is_finite() || (i > 0 && edges[i] <= edges[i - 1])) {
            Some(at) => Err(EdgesError::NotRising { at }),
            None => Ok(Self(edges)),
        }
    }

    pub fn as_slice(&self) -> &[f64] {
        &self.0
    }

    /// The bin of a value; NaN has none.
    pub fn bin(&self, value: f64) -> Option<usize> {
        (!value.is_nan()).then(|| self.0.partition_point(|edge| *edge <= value))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(pub [u32; BINS]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; BINS])
    }
}

impl Counts {
    pub fn from_slice(counts: &[u32]) -> Option<Self> {
        counts.try_into().ok().map(Self)
    }

    pub fn add(&mut self, bin: usize) {
        self.0[bin] = self.0[bin].saturating_add(1);
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }

    pub fn total(&self) -> u64 {
        self.0.iter().map(|&c| u64::from(c)).sum()
    }
}

/// One feature of a package's `reference.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceFeature {
    pub name: String,
    pub edges: Vec<f64>,
    pub counts: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_half_open_bins() {
        let edges = Edges::new(&(0..31).map(f64::from).collect::<Vec<_>>()).unwrap();
        struct Case(f64, Option<usize>);
        for Case(value, bin) in [
            Case(f64::NEG_INFINITY, Some(0)),
            Case(-0.1, Some(0)),
            Case(0.0, Some(1)),
            Case(0.999, Some(1)),
            Case(30.0, Some(31)),
            Case(f64::INFINITY, Some(31)),
            Case(f64::NAN, None),
        ] {
            assert_eq!(edges.bin(value), bin, "{value}");
        }
        assert_eq!(Edges::new(&[1.0]), Err(EdgesError::Count(1)));
        assert_eq!(Edges::new(&[0.0; 31]), Err(EdgesError::NotRising { at: 1 }));
    }
}

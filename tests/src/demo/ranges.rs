//! Sets of positions as sorted, disjoint, inclusive ranges.
//!
//! Invariant: neighbouring and overlapping ranges are merged, so two equal sets are equal values. Not here: what a set means.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A set of positions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>")]
pub struct Ranges(Vec<(u64, u64)>);

impl From<Vec<(u64, u64)>> for Ranges {
    fn from(mut pairs: Vec<(u64, u64)>) -> Self {
        pairs.retain(|(from, to)| from <= to);
        pairs.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(pairs.len());
        for (from, to) in pairs {
            match merged.last_mut() {
                Some((_, end)) if from <= end.saturating_add(1) => *end = to.max(*end),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }
}

impl Ranges {
    /// The positions 0 .. `count`.
    pub fn first(count: u64) -> Self {
        count.checked_sub(1).map_or_else(Self::default, |last| Self(vec![(0, last)]))
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|(_, to)| *to)
    }

    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|(from, to)| *from..=*to)
    }

    pub fn union(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).copied().collect::<Vec<_>>().into()
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Vec::new();
        let (mut i, mut k) = (0, 0);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(k)) {
            let (from, to) = (a.0.max(b.0), a.1.min(b.1));
            if from <= to {
                both.push((from, to));
            }
            if a.1 < b.1 { i += 1 } else { k += 1 }
        }
        Self(both)
    }

    /// What is in `self` and not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(start, end) in &self.0 {
            // The first position that no cut has taken yet.
            let mut from = start;
            for &(cut_from, cut_to) in other.0.iter().filter(|cut| cut.0 <= end && cut.1 >= start) {
                if cut_from > from {
                    left.push((from, cut_from - 1));
                }
                from = from.max(cut_to.saturating_add(1));
            }
            if from <= end {
                left.push((from, end));
            }
        }
        Self(left)
    }
}

impl fmt::Display for Ranges {
    /// At most eight ranges, then how many more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        for (i, (from, to)) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            if from == to { write!(f, "{comma}{from}")? } else { write!(f, "{comma}{from}–{to}")? }
        }
        match self.0.len() {
            0 => f.write_str("none"),
            n if n > SHOWN => write!(f, " and {} more ranges", n - SHOWN),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(u64, u64)]) -> Ranges {
        pairs.to_vec().into()
    }

    #[test]
    fn sets_are_merged_however_they_come() {
        assert_eq!(of(&[(5, 9), (0, 2), (3, 4), (7, 12), (20, 10)]), of(&[(0, 12)]));
        assert_eq!(Ranges::first(0), Ranges::default());
        assert_eq!(of(&[(3, 3), (0, 1)]).to_string(), "0–1, 3");
    }

    #[test]
    fn set_operations_agree_with_sets_of_single_positions() {
        use std::collections::BTreeSet;
        let mut rng = fastrand::Rng::with_seed(11);
        let mut draw = || {
            let pair = |_| {
                let from = rng.u64(0..40);
                (from, from + rng.u64(0..8))
            };
            of(&(0..5).map(pair).collect::<Vec<_>>())
        };
        for _ in 0..500 {
            let (a, b) = (draw(), draw());
            let (set_a, set_b): (BTreeSet<u64>, BTreeSet<u64>) = (a.iter().collect(), b.iter().collect());
            let same = |got: Ranges, expected: BTreeSet<u64>| assert_eq!(got.iter().collect::<BTreeSet<_>>(), expected, "{a} and {b}");
            same(a.union(&b), &set_a | &set_b);
            same(a.intersection(&b), &set_a & &set_b);
            same(a.without(&b), &set_a - &set_b);
            assert_eq!(a.count(), set_a.len() as u64);
            assert_eq!(a.last(), set_a.last().copied());
        }
    }
}

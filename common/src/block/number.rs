//! How far off a prediction was, as a number of 0 and up: coded by cells as wide as such numbers were lately.
//!
//! Invariant: the width follows from the numbers before alone, so both directions have the same. How the cells are filled is learned per
//! class of width, the first cell also by whether the two numbers before were zero; in cells of two or four it is learned which of the
//! numbers it was: sensors that average show a few values again and again. Not here: predictions.

use super::range_coder::{Coder, Odds};

/// A number in a later cell is told apart from this one's beginning.
const CELLS: usize = 20;
/// Of the recent mean: four below one, two for cells of one number, two for all wider ones.
const CLASSES: usize = 8;
/// Classes below, all of small numbers, differ in the first cell alone: beyond it they have too few numbers to learn from each.
const SMALL: usize = 6;
/// Inside cells of up to this many bits the odds are learned.
const FINE: u32 = 2;
/// More than any prefix of a number in a fine cell, so that prefixes of different lengths have different odds.
const FINE_MARK: u64 = 128;
/// The mean of recent numbers has so many bits after its point.
const POINT: u32 = 8;
/// No number weighs more in the mean.
const HEAVIEST: u64 = 1 << 40;

pub struct Numbers {
    mean: u64,
    seen: u32,
    /// Which of the last two numbers were not zero, the latest lowest.
    nonzero: usize,
    first_cell: [[Odds; 4]; CLASSES],
    later_cells: [[Odds; CELLS]; CLASSES],
    fine: [Odds; FINE_MARK as usize],
}

impl Numbers {
    pub fn new() -> Self {
        Self {
            mean: 0,
            seen: 0,
            nonzero: 0,
            first_cell: [[Odds::EVEN; 4]; CLASSES],
            later_cells: [[Odds::EVEN; CELLS]; CLASSES],
            fine: [Odds::EVEN; FINE_MARK as usize],
        }
    }

    pub fn code(&mut self, coder: &mut impl Coder, number: u64) -> u64 {
        // There is no mean yet.
        let coded = if self.seen == 0 { coder.any(number) } else { self.by_cell(coder, number) };
        let heavy = (coded.min(HEAVIEST) << POINT) as i64;
        // The second number moves the mean by half, the later ones by ever less, down to a sixteenth.
        let weight = (32 - self.seen.leading_zeros()).min(4);
        self.mean = (self.mean as i64 + ((heavy - self.mean as i64) >> weight)) as u64;
        self.seen = (self.seen + 1).min(16);
        self.nonzero = self.nonzero << 1 & 3 | usize::from(coded != 0);
        coded
    }

    fn by_cell(&mut self, coder: &mut impl Coder, number: u64) -> u64 {
        let (width, class) = self.width();
        let later = &mut self.later_cells[if class < SMALL { 0 } else { class }];
        let mut cell = 0;
        if coder.bit(&mut self.first_cell[class][self.nonzero], number >> width > 0) {
            cell = 1;
            while cell < CELLS && coder.bit(&mut later[cell], (cell as u64) < number >> width) {
                cell += 1;
            }
        }
        let begin = (cell as u64) << width;
        if cell == CELLS {
            return begin.wrapping_add(coder.any(number.wrapping_sub(begin)));
        }
        if width > FINE {
            return begin | coder.bits(number, width);
        }
        let mut prefix = cell as u64;
        for left in (0..width).rev() {
            let odds = &mut self.fine[(prefix | FINE_MARK >> (left + 1)) as usize];
            prefix = prefix << 1 | u64::from(coder.bit(odds, number >> left & 1 == 1));
        }
        prefix
    }

    /// The bits of a cell, and its class.
    fn width(&self) -> (u32, usize) {
        match self.mean {
            0..24 => (0, 0),
            24..80 => (0, 1),
            80..160 => (0, 2),
            160..256 => (0, 3),
            mean => {
                let width = 63 - mean.leading_zeros() - POINT;
                let upper_half = (mean >> (width + POINT - 1) & 1) as usize;
                (width, if width == 0 { 4 } else { 6 } + upper_half)
            }
        }
    }
}

/// 0, -1, 1, -2, 2 … as 0, 1, 2, 3, 4 ….
pub fn fold(difference: i64) -> u64 {
    (difference << 1 ^ difference >> 63) as u64
}

/// The inverse of [`fold`].
pub fn unfold(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::block::range_coder::{Decoder, Encoder};

    fn check(numbers: &[u64]) -> usize {
        let mut encoder = Encoder::default();
        let mut model = Numbers::new();
        for number in numbers {
            model.code(&mut encoder, *number);
        }
        let bytes = encoder.finish();
        let mut decoder = Decoder::new(&bytes);
        let mut model = Numbers::new();
        for (at, number) in numbers.iter().enumerate() {
            assert_eq!(model.code(&mut decoder, 0), *number, "number {at}");
        }
        bytes.len()
    }

    #[test]
    fn folding_inverts() {
        for difference in [0, 1, -1, 7, i64::MAX, i64::MIN] {
            assert_eq!(unfold(fold(difference)), difference);
        }
    }

    #[test]
    fn numbers_of_any_size_come_back_in_any_order() {
        let lengths: Vec<u64> = (0..64).map(|bit| u64::MAX >> bit).collect();
        let back: Vec<u64> = lengths.iter().rev().copied().collect();
        check(&lengths);
        check(&back);
        check(&[lengths, back, (0..300).collect()].concat());
        check(&[]);
    }

    #[test]
    fn what_is_small_costs_little() {
        assert!(check(&[0; 10_000]) < 10);
        let alternating: Vec<u64> = (0..1_000).map(|i| if i % 2 == 0 { 1_000 } else { 1_001 }).collect();
        // One bit tells them apart, and four more say that the cell is as wide as the mean.
        assert!(check(&alternating) < 1_000 * 12 / 8);
        // Two values out of eleven cost one bit, not three.
        let averages: Vec<u64> = (0..1_000u64).map(|i| if i * i % 7 < 3 { 10 } else { 0 }).collect();
        assert!(check(&averages) < 1_000 * 3 / 2 / 8, "{}", check(&averages));
    }
}

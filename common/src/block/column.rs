//! The values of one column: which are missing, and how far each other one lies from what was expected.
//!
//! Invariant: what is expected follows from the values before alone. Of a few ways to expect, the one that did best lately is taken: a
//! value that holds, one that moves on, one that shakes around its mean. Not here: how a number becomes bits (`number`).

use super::{
    number::{Numbers, fold, unfold},
    range_coder::{Coder, Odds},
};
use crate::reading::Column;

/// Codes the values in their order; a decoder overwrites them. `None`: they are not of this width, so no encoder wrote them.
pub fn values(coder: &mut impl Coder, column: &Column, values: &mut [Option<i32>]) -> Option<()> {
    let whole = coder.bits(u64::from(values.iter().all(Option::is_some)), 1) == 1;
    let mut presence = [Odds::EVEN; 2];
    let mut present = true;
    let mut numbers = Numbers::new();
    let mut expected = Expectation::default();
    // The first value says nothing of how far off the later ones will be.
    let mut first = true;
    for value in values {
        present = whole || coder.bit(&mut presence[usize::from(present)], value.is_some());
        if !present {
            *value = None;
            continue;
        }
        let guess = expected.guess();
        let error = fold(i64::from(column.rank(value.unwrap_or(0))) - guess);
        let error = if first { coder.any(error) } else { numbers.code(coder, error) };
        first = false;
        let rank = i32::try_from(guess.wrapping_add(unfold(error))).ok()?;
        expected.learn(rank.into());
        *value = Some(column.rank(rank));
    }
    Some(())
}

const WAYS: usize = 6;

/// What comes next, by what came.
#[derive(Default)]
struct Expectation {
    /// The latest first.
    past: [i64; 4],
    started: bool,
    guesses: [i64; WAYS],
    /// How many bits the errors of each way had lately, with eight bits after the point.
    bits: [i32; WAYS],
}

impl Expectation {
    fn guess(&mut self) -> i64 {
        let [a, b, c, d] = self.past;
        self.guesses = [a, 2 * a - b, (a + b) >> 1, (2 * a + b + c + 2) >> 2, 3 * (a - b) + c, (a + b + c + d) >> 2];
        // Staying is preferred by a sixteenth: values of averaging sensors repeat, and only differences from one to the next repeat too.
        let mut best = (0, self.bits[0] - (self.bits[0] >> 4));
        for (way, &bits) in self.bits.iter().enumerate().skip(1) {
            if bits < best.1 {
                best = (way, bits);
            }
        }
        self.guesses[best.0]
    }

    fn learn(&mut self, value: i64) {
        if !self.started {
            *self = Self { past: [value; 4], started: true, ..Self::default() };
            return;
        }
        for (bits, guess) in self.bits.iter_mut().zip(self.guesses) {
            let off = (value - guess).unsigned_abs().min(u64::from(u32::MAX));
            // Of the square, so that half a bit counts too.
            let of_square = 64 - (off * off + u64::from(off > 0)).leading_zeros() as i32;
            *bits += ((of_square << 8) - *bits) >> 5;
        }
        self.past = [value, self.past[0], self.past[1], self.past[2]];
    }
}

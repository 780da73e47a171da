//! Positions and times of the rows.
//!
//! Invariant: any 64-bit values in any order come back; differences wrap. Positions that count up by one cost nothing. Times lie near a line
//! over the positions, because a source has a period, and in whole steps of a clock that is coarser than a microsecond; what is
//! coded is how far each lies off that line, or, where the line drifts, how far more than the one before. Not here: values.

use super::{
    number::{Numbers, fold, unfold},
    range_coder::Coder,
};

/// Codes the positions; a decoder overwrites them.
pub fn positions(coder: &mut impl Coder, positions: &mut [u64]) {
    let Some((first, rest)) = positions.split_first_mut() else { return };
    *first = coder.any(*first);
    let counted = (1..).zip(rest.iter()).all(|(at, position)| *position == first.wrapping_add(at));
    let counted = coder.bits(counted.into(), 1) == 1;
    let mut numbers = Numbers::new();
    let mut expected = first.wrapping_add(1);
    for position in rest {
        let off = if counted { 0 } else { numbers.code(coder, fold(position.wrapping_sub(expected) as i64)) };
        *position = expected.wrapping_add(unfold(off) as u64);
        expected = position.wrapping_add(1);
    }
}

/// Codes the times of these positions; a decoder overwrites them.
pub fn monos(coder: &mut impl Coder, positions: &[u64], monos: &mut [u64]) {
    if monos.is_empty() {
        return;
    }
    let line = Line::through(positions, monos).code(coder);
    let drifts = coder.bits(u64::from(line.drifts(positions, monos)), 1) == 1;
    let mut numbers = Numbers::new();
    let mut last = 0;
    for (position, mono) in positions.iter().zip(monos) {
        let expected = line.at(*position).wrapping_add(if drifts { last } else { 0 });
        let off = unfold(numbers.code(coder, fold(line.steps(*mono).wrapping_sub(expected))));
        last = off.wrapping_add(if drifts { last } else { 0 });
        *mono = line.mono(expected.wrapping_add(off));
    }
}

/// Where times are expected, in steps of the clock.
struct Line {
    position: u64,
    start: u64,
    /// The clock's step in microseconds; not zero.
    step: i64,
    /// Steps from one position to the next.
    slope: i64,
}

/// The slope has so many bits after its point.
const POINT: u32 = 20;

impl Line {
    fn through(positions: &[u64], monos: &[u64]) -> Self {
        let (position, start) = (positions[0], monos[0]);
        let mut step = 0;
        for mono in monos {
            if step == 1 {
                break;
            }
            step = greatest_common_divisor(mono.wrapping_sub(start).cast_signed().unsigned_abs(), step);
        }
        // Zero where all times are the same; half of all numbers, where it does not fit.
        let step = i64::try_from(step).unwrap_or(1).max(1);
        let mut line = Self { position, start, step, slope: 0 };
        let run = positions[positions.len() - 1].wrapping_sub(position) as i64;
        if run != 0 {
            let rise = line.steps(monos[monos.len() - 1]);
            line.slope = i64::try_from((i128::from(rise) << POINT) / i128::from(run)).unwrap_or(0);
        }
        line
    }

    /// The position is known from the positions.
    fn code(self, coder: &mut impl Coder) -> Self {
        Self {
            position: self.position,
            start: coder.any(self.start),
            step: (coder.any(self.step as u64) as i64).max(1),
            slope: unfold(coder.any(fold(self.slope))),
        }
    }

    fn at(&self, position: u64) -> i64 {
        let run = position.wrapping_sub(self.position) as i64;
        ((i128::from(run) * i128::from(self.slope) + (1 << (POINT - 1))) >> POINT) as i64
    }

    fn steps(&self, mono: u64) -> i64 {
        let since = mono.wrapping_sub(self.start) as i64;
        if self.step == 1 { since } else { since / self.step }
    }

    fn mono(&self, steps: i64) -> u64 {
        self.start.wrapping_add(steps.wrapping_mul(self.step) as u64)
    }

    /// Does the distance from the line change less from row to row than it is?
    fn drifts(&self, positions: &[u64], monos: &[u64]) -> bool {
        let (mut sum, mut changes, mut last) = (0u128, 0u128, 0);
        for (position, mono) in positions.iter().zip(monos) {
            let off = self.steps(*mono).wrapping_sub(self.at(*position));
            sum += u128::from(off.unsigned_abs());
            changes += u128::from(off.wrapping_sub(last).unsigned_abs());
            last = off;
        }
        changes < sum
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while a != 0 {
        (a, b) = (b % a, a);
    }
    b
}

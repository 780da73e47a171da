//! A binary range coder (carry propagation as in LZMA) with odds that adapt, and one trait for both directions.
//!
//! Invariant: what is coded is written once, over [`Coder`]: an encoder is given the value and gives it back, a decoder ignores what
//! it is given and gives what was coded. So the two directions cannot differ. Nothing read can panic: bytes after the end are zeros.
//! Not here: what is coded.

use alloc::vec::Vec;

/// How likely a bit is to be 0, in 1/32768, learned from the bits that came.
#[derive(Clone, Copy)]
pub struct Odds {
    zero: u16,
    seen: u8,
}

const ONE: u32 = 1 << 15;
/// No odds are surer, so no bit costs more than ten.
const SUREST: i32 = 32;
/// The first bits move the odds most; from here on each has the same weight, so that old ones fade.
const MEMORY: usize = 60;
const WEIGHTS: [i32; MEMORY + 1] = {
    let mut weights = [0; MEMORY + 1];
    let mut seen = 0;
    while seen <= MEMORY {
        weights[seen] = 2 * 65_536 / (2 * seen as i32 + 3);
        seen += 1;
    }
    weights
};

impl Odds {
    pub const EVEN: Self = Self { zero: (ONE / 2) as u16, seen: 0 };

    fn learn(&mut self, bit: bool) {
        let towards = if bit { 0 } else { ONE as i32 };
        let zero = i32::from(self.zero);
        let moved = zero + (((towards - zero) * WEIGHTS[usize::from(self.seen)]) >> 16);
        self.zero = moved.clamp(SUREST, ONE as i32 - SUREST) as u16;
        self.seen = (self.seen + 1).min(MEMORY as u8);
    }
}

/// One direction of the code.
pub trait Coder {
    fn bit(&mut self, odds: &mut Odds, bit: bool) -> bool;

    /// `count` bits, at most 16, of even odds.
    fn even(&mut self, value: u32, count: u32) -> u32;

    /// The lowest `count` bits of `value`, of even odds.
    fn bits(&mut self, value: u64, count: u32) -> u64 {
        let mut coded = 0;
        let mut left = count;
        while left > 0 {
            let now = left.min(16);
            left -= now;
            coded = coded << now | u64::from(self.even((value >> left) as u32 & ((1 << now) - 1), now));
        }
        coded
    }

    /// Any number: how many bits it has, and those after the first.
    fn any(&mut self, value: u64) -> u64 {
        let length = self.even(64 - value.leading_zeros(), 7).min(64);
        if length == 0 { 0 } else { 1 << (length - 1) | self.bits(value, length - 1) }
    }
}

pub struct Encoder {
    low: u64,
    range: u32,
    /// The last byte that a carry may still change, and how many of 0xff follow it.
    held: Option<u8>,
    followers: usize,
    bytes: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { low: 0, range: u32::MAX, held: None, followers: 0, bytes: Vec::new() }
    }
}

impl Encoder {
    fn normalise(&mut self) {
        while self.range < 1 << 24 {
            self.range <<= 8;
            self.shift();
        }
    }

    /// Moves the highest byte out.
    fn shift(&mut self) {
        let carry = self.low >> 32 != 0;
        let byte = (self.low >> 24) as u8;
        if byte == 0xff && !carry {
            self.followers += 1;
        } else {
            if let Some(held) = self.held {
                self.bytes.push(held.wrapping_add(u8::from(carry)));
            }
            self.bytes.extend(core::iter::repeat_n(if carry { 0 } else { 0xff }, self.followers));
            self.followers = 0;
            self.held = Some(byte);
        }
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    /// The shortest bytes that say it: a decoder reads zeros after the end.
    pub fn finish(mut self) -> Vec<u8> {
        let last = self.low + u64::from(self.range) - 1;
        let round = |zeros: u32| last & !((1 << zeros) - 1);
        self.low = (0..=32).rev().map(round).find(|value| *value >= self.low).expect("the last value itself has no zeros to spare");
        for _ in 0..5 {
            self.shift();
        }
        while self.bytes.last() == Some(&0) {
            self.bytes.pop();
        }
        self.bytes
    }
}

impl Coder for Encoder {
    fn bit(&mut self, odds: &mut Odds, bit: bool) -> bool {
        let bound = (self.range >> 15) * u32::from(odds.zero);
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        odds.learn(bit);
        self.normalise();
        bit
    }

    fn even(&mut self, value: u32, count: u32) -> u32 {
        self.range >>= count;
        self.low += u64::from(value) * u64::from(self.range);
        self.normalise();
        value
    }
}

pub struct Decoder<'a> {
    code: u32,
    range: u32,
    bytes: &'a [u8],
    /// How many bytes were taken, those after the end included.
    taken: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { code: 0, range: u32::MAX, bytes, taken: 0 };
        (0..4).for_each(|_| decoder.take());
        decoder
    }

    fn take(&mut self) {
        self.code = self.code << 8 | u32::from(self.bytes.get(self.taken).copied().unwrap_or(0));
        self.taken += 1;
    }

    fn normalise(&mut self) {
        while self.range < 1 << 24 {
            self.range <<= 8;
            self.take();
        }
    }

    /// Were all bytes used?
    pub fn is_at_end(&self) -> bool {
        self.taken >= self.bytes.len()
    }
}

impl Coder for Decoder<'_> {
    fn bit(&mut self, odds: &mut Odds, _: bool) -> bool {
        let bound = (self.range >> 15) * u32::from(odds.zero);
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        odds.learn(bit);
        self.normalise();
        bit
    }

    fn even(&mut self, _: u32, count: u32) -> u32 {
        self.range >>= count;
        // What no encoder wrote may lie beyond the last value.
        let value = (self.code / self.range).min((1 << count) - 1);
        self.code = self.code.wrapping_sub(value * self.range);
        self.normalise();
        value
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn numbers_of_every_length_and_lopsided_bits_come_back() {
        let numbers: Vec<u64> = (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, u64::MAX >> bit]).collect();
        let mut encoder = Encoder::default();
        let mut odds = Odds::EVEN;
        for (at, number) in numbers.iter().enumerate() {
            encoder.any(*number);
            encoder.bit(&mut odds, at % 50 == 0);
        }
        let bytes = encoder.finish();
        let mut decoder = Decoder::new(&bytes);
        let mut odds = Odds::EVEN;
        for (at, number) in numbers.iter().enumerate() {
            assert_eq!(decoder.any(0), *number);
            assert_eq!(decoder.bit(&mut odds, false), at % 50 == 0);
        }
        assert!(decoder.is_at_end());
    }

    #[test]
    fn a_carry_runs_through_bytes_that_are_full() {
        // Even odds and ones only: `low` climbs to the very end of its range, with long runs of 0xff before each carry.
        for length in 1..200 {
            let mut encoder = Encoder::default();
            (0..length).for_each(|at| {
                encoder.even(if at + 1 == length { 0 } else { 0xffff }, 16);
                encoder.bit(&mut Odds { zero: SUREST as u16, seen: 0 }, true);
            });
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(&bytes);
            for at in 0..length {
                assert_eq!(decoder.even(0, 16), if at + 1 == length { 0 } else { 0xffff }, "{at} of {length}");
                assert!(decoder.bit(&mut Odds { zero: SUREST as u16, seen: 0 }, false));
            }
        }
    }

    #[test]
    fn what_never_changes_costs_nearly_nothing() {
        let mut encoder = Encoder::default();
        let mut odds = Odds::EVEN;
        (0..10_000).for_each(|_| {
            encoder.bit(&mut odds, false);
        });
        assert!(encoder.finish().len() < 8);
    }

    #[test]
    fn any_bytes_decode_to_something() {
        for seed in 0..=255u8 {
            let bytes = vec![seed; usize::from(seed) % 7];
            let mut decoder = Decoder::new(&bytes);
            let mut odds = Odds::EVEN;
            for _ in 0..500 {
                decoder.any(0);
                decoder.bit(&mut odds, false);
            }
        }
    }
}

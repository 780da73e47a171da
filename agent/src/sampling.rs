//! Which frames are worth a label: those of low margin, within a budget of bytes.
//!
//! Invariant: over any hour at most twice the hourly budget goes up, because the bucket holds one hour's worth. Not here: the
//! picture, and where it goes.

use serde::Deserialize;
use wayside_common::{
    record::{Answer, SampleReason},
    time::Mono,
};

/// `[samples]` of the configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Frames whose margin is below this are sent.
    pub margin_below: f32,
    pub bytes_per_hour: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { margin_below: 0.2, bytes_per_hour: 2_000_000 }
    }
}

/// Chooses, and pays from a token bucket.
#[derive(Debug)]
pub struct Sampling {
    config: Config,
    /// In byte-microseconds per hour, so that nothing is rounded.
    tokens: u128,
    filled: Mono,
}

const HOUR_US: u128 = 3_600_000_000;

impl Sampling {
    /// Begins with a full bucket.
    pub fn new(config: Config) -> Self {
        let tokens = u128::from(config.bytes_per_hour) * HOUR_US;
        Self { config, tokens, filled: Mono(0) }
    }

    /// Why this answer's frame, of so many bytes, is sent; `None`: it is not.
    pub fn choose(&mut self, now: Mono, answer: &Answer, bytes: usize) -> Option<SampleReason> {
        let full = u128::from(self.config.bytes_per_hour) * HOUR_US;
        let earned = now.saturating_since(self.filled).as_micros() * u128::from(self.config.bytes_per_hour);
        self.tokens = (self.tokens + earned).min(full);
        self.filled = self.filled.max(now);
        if answer.margin.is_nan() || answer.margin >= self.config.margin_below {
            return None;
        }
        let cost = bytes as u128 * HOUR_US;
        if cost > self.tokens {
            return None;
        }
        self.tokens -= cost;
        Some(SampleReason::LowMargin)
    }
}

#[cfg(test)]
mod tests {
    use wayside_common::id::Digest;

    use super::*;

    #[test]
    fn low_margins_are_chosen_until_the_budget_is_spent() {
        let mut sampling = Sampling::new(Config { margin_below: 0.2, bytes_per_hour: 1_000 });
        struct Case(u64, f32, usize, bool);
        let cases = [
            Case(0, 0.5, 100, false),
            Case(0, 0.2, 100, false),
            Case(0, f32::NAN, 100, false),
            Case(0, 0.1, 700, true),
            Case(0, 0.1, 400, false),
            Case(0, 0.1, 300, true),
            Case(1_799, 0.1, 500, false),
            Case(1_800, 0.1, 500, true),
            Case(1_000_000, 0.1, 1_000, true),
            Case(1_000_000, 0.1, 1, false),
        ];
        for (i, Case(second, margin, bytes, chosen)) in cases.into_iter().enumerate() {
            let answer = Answer { model: Digest::of(b"m"), label: "car".into(), confidence: 0.5, margin, micros: 9 };
            assert_eq!(sampling.choose(Mono(second * 1_000_000), &answer, bytes).is_some(), chosen, "case {i}");
        }
    }
}

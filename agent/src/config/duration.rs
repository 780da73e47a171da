//! Durations and instants as configuration files write them: `"500ms"`, `"2026-11-23T12:00:00Z"`.
//!
//! Invariant: what parses is finite and not negative. Not here: which settings there are.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};
use wayside_common::time::Wall;

/// A length of time as text: a number and one of `us`, `ms`, `s`, `m`, `h`, `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write a number and us, ms, s, m, h or d, as in \"500ms\"")]
pub struct DurationError(String);

/// No setting needs more, and below it no sum of durations overflows.
const MAX_SECONDS: f64 = 100.0 * 365.0 * 86_400.0;

impl FromStr for DurationText {
    type Err = DurationError;
    fn from_str(text: &str) -> Result<Self, DurationError> {
        let malformed = || DurationError(text.chars().take(40).collect());
        let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(malformed)?;
        let (number, unit) = text.split_at(unit_at);
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(malformed()),
        };
        let number: f64 = number.trim().parse().map_err(|_| malformed())?;
        let total = number * seconds;
        if !(0.0..=MAX_SECONDS).contains(&total) {
            return Err(malformed());
        }
        // Whole microseconds, so that "10.504ms" is what it says although 10.504e-3 has no exact binary form.
        Ok(Self(Duration::from_micros((total * 1e6).round() as u64)))
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// An instant as text (RFC 3339) or as whole milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstantText(pub Wall);

impl<'de> Deserialize<'de> for InstantText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = InstantText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an instant as \"2026-11-23T12:00:00Z\" or as milliseconds since 1970")
            }
            fn visit_i64<E: de::Error>(self, ms: i64) -> Result<InstantText, E> {
                Ok(InstantText(Wall(ms)))
            }
            fn visit_u64<E: de::Error>(self, ms: u64) -> Result<InstantText, E> {
                i64::try_from(ms).map(|ms| InstantText(Wall(ms))).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<InstantText, E> {
                Wall::from_rfc3339(text).map(InstantText).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        struct Case {
            text: &'static str,
            micros: Option<u64>,
        }
        for case in [
            Case { text: "500ms", micros: Some(500_000) },
            Case { text: "10.504ms", micros: Some(10_504) },
            Case { text: "0s", micros: Some(0) },
            Case { text: "2h", micros: Some(7_200_000_000) },
            Case { text: "5", micros: None },
            Case { text: "-1s", micros: None },
            Case { text: "NaNs", micros: None },
            Case { text: "1e300d", micros: None },
            Case { text: "5 weeks", micros: None },
            Case { text: "", micros: None },
        ] {
            let parsed = case.text.parse::<DurationText>().ok().map(|d| d.0);
            assert_eq!(parsed, case.micros.map(Duration::from_micros), "{}", case.text);
        }
    }
}

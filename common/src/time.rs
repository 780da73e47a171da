//! Two kinds of time that cannot be mixed up: `Mono` for timeouts, `Wall` for timestamps and expiry.
//!
//! Invariant: nothing here reads a clock; the programs' `clock` modules make the values. Not here: calendars
//! other than the one text form that TUF documents use.

use alloc::string::String;
use core::{fmt, ops, time::Duration};

use ::time::{OffsetDateTime, format_description::well_known::Rfc3339};
use serde::{Deserialize, Serialize};

/// Time since the start of this process, from a clock that never jumps. Microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mono(pub u64);

impl Mono {
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}
impl ops::Add<Duration> for Mono {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z, as the device's clock had it: it may jump and may be wrong by decades.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Wall(pub i64);

impl Wall {
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// `YYYY-MM-DDTHH:MM:SSZ`, the form that the TUF specification 1.0 §4.2.1 fixes; what lies outside the years 0 to 9999 is shown as milliseconds.
    pub fn to_rfc3339(self) -> String {
        OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1000))
            .ok()
            .and_then(|t| t.format(&Rfc3339).ok())
            .unwrap_or_else(|| alloc::format!("{} ms", self.0))
    }

    /// The inverse of [`Wall::to_rfc3339`], to the second.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        Some(Self(parsed.unix_timestamp().checked_mul(1000)?))
    }
}
impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// How far the device trusts its own wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WallQuality {
    /// Before the build time of the agent, or otherwise impossible.
    Implausible,
    /// Possible, and nobody vouches for it.
    Plausible,
    /// Disciplined by a time service.
    Synchronised,
}

/// Both clocks at one instant; every batch carries one, so that the server can re-time an epoch later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStamp {
    pub mono: Mono,
    pub wall: Wall,
    pub quality: WallQuality,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_text_inverts() {
        let wall = Wall(1_795_435_041_000);
        assert_eq!(Wall::from_rfc3339(&wall.to_rfc3339()), Some(wall));
        assert_eq!(Wall(0).to_rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(Wall::from_rfc3339("yesterday"), None);
    }

    #[test]
    fn a_wall_out_of_range_is_shown_and_does_not_panic() {
        assert_eq!(Wall(i64::MAX).to_rfc3339(), "9223372036854775807 ms");
    }
}

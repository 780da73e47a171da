//! The clocks: the one place in the agent that makes a `Mono` or a `Wall`.
//!
//! Invariant: `Mono` counts from the start of this process and never jumps; `Wall` is what the system says and may be wrong.
//! Not here: deciding what is due (`sense`) or expired (`updater`).

use std::{
    fmt::Debug,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;
use wayside_common::time::{ClockStamp, Mono, Wall, WallQuality};

/// No agent of this line of versions ran before: an earlier wall time is a clock that was never set (2026-01-01).
pub const EARLIEST: Wall = Wall(1_767_225_600_000);

/// What tells the wall time. A simulated fleet has one of its own, which jumps when it is told to.
pub trait WallClock: Debug + Send + Sync {
    fn wall(&self) -> Wall;
}

/// The operating system's.
#[derive(Debug)]
struct System;

impl WallClock for System {
    fn wall(&self) -> Wall {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Wall(0).plus(since),
            Err(before) => Wall(0).minus(before.duration()),
        }
    }
}

/// Both clocks. Copies tell the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    wall: &'static dyn WallClock,
}

impl Clock {
    pub fn start() -> Self {
        Self::with(&System)
    }

    /// `Mono` follows tokio's clock, which a test may pause.
    pub fn with(wall: &'static dyn WallClock) -> Self {
        Self { started: Instant::now(), wall }
    }

    pub fn mono(&self) -> Mono {
        Mono::default() + self.started.elapsed()
    }

    pub fn wall(&self) -> Wall {
        self.wall.wall()
    }

    pub fn stamp(&self) -> ClockStamp {
        let wall = self.wall();
        let quality = if wall < EARLIEST { WallQuality::Implausible } else { WallQuality::Plausible };
        ClockStamp { mono: self.mono(), wall, quality }
    }

    /// The time against which signed documents expire: never before [`EARLIEST`].
    pub fn for_expiry(&self) -> Wall {
        self.wall().max(EARLIEST)
    }

    /// The tokio instant at which `mono` is reached.
    pub fn instant(&self, mono: Mono) -> Instant {
        self.started + Duration::from_micros(mono.0)
    }
}

/// What the wall clock showed, or will show, at `mono`, seen from `stamp`.
pub fn wall_at(stamp: &ClockStamp, mono: Mono) -> Wall {
    if mono >= stamp.mono {
        stamp.wall.plus(mono.saturating_since(stamp.mono))
    } else {
        stamp.wall.minus(stamp.mono.saturating_since(mono))
    }
}

/// The inverse of [`wall_at`], to the millisecond; not before the start of the process.
pub fn mono_at(stamp: &ClockStamp, wall: Wall) -> Mono {
    let offset_us = wall.0.saturating_sub(stamp.wall.0).saturating_mul(1_000);
    Mono(stamp.mono.0.saturating_add_signed(offset_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_and_mono_convert_into_each_other() {
        let stamp = ClockStamp { mono: Mono(5_000_000), wall: Wall(1_000_000), quality: WallQuality::Plausible };
        for (mono, wall) in [(5_000_000, 1_000_000), (4_000_000, 999_000), (0, 995_000), (7_250_000, 1_002_250)] {
            assert_eq!(wall_at(&stamp, Mono(mono)), Wall(wall));
            assert_eq!(mono_at(&stamp, Wall(wall)), Mono(mono));
        }
        assert_eq!(mono_at(&stamp, Wall(0)), Mono(0));
    }
}

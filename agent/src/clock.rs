//! The clocks: the one place in the agent that makes a `Mono` or a `Wall`.
//!
//! Invariant: `Mono` counts from the start of this process and never jumps; `Wall` is what the system says and may be wrong; what a
//! verifier believes comes from the [`Timekeeper`].
//! Not here: deciding what is due (`sense`) or expired (`updater`).

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use tokio::{sync::watch, time::Instant};
use wayside_common::{
    time::{ClockStamp, Mono, Wall, WallQuality},
    trust::role::Key,
    trusted_time::{Now, TimeError, TrustedTime},
};

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
    /// How far it is set wrong on purpose; 0 but in tests.
    ahead_ms: i64,
}

impl Clock {
    pub fn start() -> Self {
        Self::with(&System)
    }

    /// `Mono` follows tokio's clock, which a test may pause.
    pub fn with(wall: &'static dyn WallClock) -> Self {
        Self { started: Instant::now(), wall, ahead_ms: 0 }
    }

    /// A clock that shows `wall` now and goes on from there: for trying out what a wrong clock does.
    pub fn showing(wall: Wall) -> Self {
        let mut clock = Self::start();
        clock.ahead_ms = wall.0.saturating_sub(clock.wall().0);
        clock
    }

    pub fn mono(&self) -> Mono {
        Mono::default() + self.started.elapsed()
    }

    pub fn wall(&self) -> Wall {
        Wall(self.wall.wall().0.saturating_add(self.ahead_ms))
    }

    pub fn stamp(&self) -> ClockStamp {
        let wall = self.wall();
        let quality = if wall < EARLIEST { WallQuality::Implausible } else { WallQuality::Plausible };
        ClockStamp { mono: self.mono(), wall, quality }
    }

    /// The tokio instant at which `mono` is reached.
    pub fn instant(&self, mono: Mono) -> Instant {
        self.started + Duration::from_micros(mono.0)
    }
}

/// The one time of all verifiers. Clones share it.
#[derive(Clone, Debug)]
pub struct Timekeeper {
    clock: Clock,
    time: Arc<Mutex<TrustedTime>>,
    newest: watch::Sender<Option<Wall>>,
}

impl Timekeeper {
    /// `signed`: the newest signed time of earlier starts.
    pub fn new(clock: Clock, signed: Option<Wall>) -> Self {
        Self { clock, time: Arc::new(Mutex::new(TrustedTime::new(EARLIEST, signed))), newest: watch::Sender::new(None) }
    }

    pub fn now(&self) -> Now {
        self.lock().now(self.clock.mono(), self.clock.wall())
    }

    /// Something that a key we trust has signed is of this time.
    pub fn signed(&self, at: Wall) {
        self.lock().signed(at);
    }

    pub fn contradicted(&self) {
        self.lock().contradicted();
    }

    /// A number for a question, which is asked at once.
    pub fn ask(&self) -> anyhow::Result<u64> {
        let nonce = getrandom::u64().context("the system gives no random number")?;
        self.lock().asked(nonce, self.clock.mono());
        Ok(nonce)
    }

    pub fn answered(&self, document: &[u8], key: &Key) -> Result<(), TimeError> {
        let newest = self.lock().answered(document, key, self.clock.mono())?;
        self.newest.send_replace(Some(newest));
        Ok(())
    }

    /// Tells of every answer that was believed, so that it can be kept over a restart.
    pub fn answers(&self) -> watch::Receiver<Option<Wall>> {
        self.newest.subscribe()
    }

    /// It is one plain value, whole at any moment.
    fn lock(&self) -> MutexGuard<'_, TrustedTime> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
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

//! A device's wall clock in a simulated fleet: it runs with the paused clock of the runtime, and jumps when it is told to.
//!
//! Invariant: it reads no clock of the system. Not here: when it jumps (`mix`).

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::time::Instant;
use wayside_agent::clock::WallClock;
use wayside_common::time::Wall;

/// When each run begins: 2026-06-01T00:00:00Z.
pub const START: Wall = Wall(1_780_272_000_000);

#[derive(Debug)]
pub struct SimClock {
    started: Instant,
    /// Milliseconds that the clock is wrong by.
    wrong: AtomicI64,
}

impl SimClock {
    /// Lives as long as the process, as the system's clock does: a few bytes for each device of a run.
    pub fn leak() -> &'static Self {
        Box::leak(Box::new(Self { started: Instant::now(), wrong: AtomicI64::new(0) }))
    }

    pub fn truth(&self) -> Wall {
        START.plus(self.started.elapsed())
    }

    pub fn jump(&self, by_ms: i64) {
        self.wrong.fetch_add(by_ms, Ordering::Relaxed);
    }

    pub fn set(&self, to: Wall) {
        self.wrong.store(to.0 - self.truth().0, Ordering::Relaxed);
    }

    pub fn mend(&self) {
        self.wrong.store(0, Ordering::Relaxed);
    }
}

impl WallClock for SimClock {
    fn wall(&self) -> Wall {
        Wall(self.truth().0 + self.wrong.load(Ordering::Relaxed))
    }
}

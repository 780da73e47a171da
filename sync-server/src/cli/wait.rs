//! Waiting for the server, and the errors that have an exit code of their own.
//!
//! Invariant: a wait has an end. Not here: what is waited for.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

/// Checked and not healthy; the exit code is 8.
#[derive(Debug)]
pub struct NotHealthy(pub String);

impl fmt::Display for NotHealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for NotHealthy {}

/// The time given with `--timeout` is over; the exit code is 124.
#[derive(Debug)]
pub struct TimedOut(Duration);

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no end after {} s; it goes on without this command", self.0.as_secs())
    }
}
impl std::error::Error for TimedOut {}

/// Asks again and again until there is an answer.
pub fn until<T>(timeout: Duration, pause: Duration, mut ask: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            return Err(TimedOut(timeout).into());
        }
        thread::sleep(pause);
    }
}

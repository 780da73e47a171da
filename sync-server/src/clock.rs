//! The only place of the server that reads the clock.
//!
//! Invariant: everything else gets the time as an argument or asks here at its edge. Not here: timers (tokio's).

use std::time::{SystemTime, UNIX_EPOCH};

use wayside_common::time::Wall;

/// Milliseconds since 1970, by this machine's clock; 0 where that is set before.
pub fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

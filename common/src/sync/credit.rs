//! How much a device may send before it hears again: an absolute mark on the bytes of batches that it has sent in its epoch.
//!
//! Invariant: a credit says "up to here", never "so much more", so one that comes twice, late or out of order changes nothing; the
//! server needs no memory for it, because each batch says how much was sent with it. Not here: what is sent first (`sender`).

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Mono;

/// The server's word, in every answer to a batch or a hello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// Bytes of batches sent in this epoch, those of the answered packet included, up to which the device may go on.
    pub until: u64,
    /// For how long this holds.
    pub ttl_ms: u32,
}

/// What a device may have sent beyond an answered packet: when the server is idle, and the least.
const WIDEST: u64 = 1024 * 1024;
const LEASE: Duration = Duration::from_secs(60);

impl Credit {
    /// For a device that has sent `sent` bytes, from a server of which `busy` of `capacity` places are taken. Nothing beyond
    /// `sent`: one batch at a time, in the device's own backoff.
    pub fn grant(sent: u64, busy: usize, capacity: usize) -> Self {
        let free = capacity.saturating_sub(busy) as u64;
        let beyond = WIDEST * free / (capacity.max(1) as u64);
        Self { until: sent.saturating_add(beyond), ttl_ms: LEASE.as_millis() as u32 }
    }
}

/// What a device holds of the server's credit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    until: u64,
    ends: Option<Mono>,
}

impl Lease {
    /// Takes a credit in. One that says less than an earlier one was overtaken by it.
    pub fn extend(&mut self, now: Mono, credit: Credit) {
        self.until = self.until.max(credit.until);
        self.ends = self.ends.max(Some(now + Duration::from_millis(u64::from(credit.ttl_ms))));
    }

    /// The connection is gone: another server may answer on the next one.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// May a device that has sent `sent` bytes send another batch?
    pub fn covers(&self, now: Mono, sent: u64) -> bool {
        sent < self.until && self.ends.is_some_and(|ends| now < ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn credit(until: u64) -> Credit {
        Credit { until, ttl_ms: 1_000 }
    }

    #[test]
    fn credits_that_come_twice_or_late_change_nothing() {
        let orders: [&[u64]; 4] = [&[100, 300], &[300, 100], &[300, 300], &[100, 300, 100, 300]];
        for order in orders {
            let mut lease = Lease::default();
            order.iter().for_each(|until| lease.extend(Mono(0), credit(*until)));
            assert!(lease.covers(Mono(999_999), 299) && !lease.covers(Mono(0), 300), "{order:?}");
        }
    }

    #[test]
    fn a_lease_ends_with_its_time_or_its_connection() {
        let mut lease = Lease::default();
        assert!(!lease.covers(Mono(0), 0));
        lease.extend(Mono(0), credit(100));
        assert!(lease.covers(Mono(0), 0) && !lease.covers(Mono(1_000_000), 0));
        lease.extend(Mono(2_000_000), credit(100));
        assert!(lease.covers(Mono(2_500_000), 50));
        lease.end();
        assert!(!lease.covers(Mono(2_500_000), 50));
    }

    #[test]
    fn a_busier_server_grants_less_and_a_full_one_nothing() {
        let beyond = |busy| Credit::grant(5_000, busy, 256).until - 5_000;
        assert_eq!((beyond(0), beyond(128), beyond(256), beyond(999)), (WIDEST, WIDEST / 2, 0, 0));
    }
}

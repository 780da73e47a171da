//! How often one address may fail.
//!
//! Invariant: pure, and bounded in memory; who succeeds is not counted. Not here: what a failure is (`api::enroll`).

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

pub const WINDOW: Duration = Duration::from_secs(60);
const FAILURES: u32 = 20;
/// More addresses than this share one count.
const ADDRESSES: usize = 4096;

/// Failures by address, since the window's first.
#[derive(Debug, Default)]
pub struct Failures {
    by_address: HashMap<IpAddr, (Instant, u32)>,
    others: Option<(Instant, u32)>,
}

impl Failures {
    pub fn admits(&self, from: IpAddr, now: Instant) -> bool {
        let counted = match self.by_address.get(&from) {
            None if self.by_address.len() >= ADDRESSES => self.others,
            found => found.copied(),
        };
        !counted.is_some_and(|(since, count)| count >= FAILURES && now.saturating_duration_since(since) < WINDOW)
    }

    pub fn note(&mut self, from: IpAddr, now: Instant) {
        let over = |since: Instant| now.saturating_duration_since(since) >= WINDOW;
        if !self.by_address.contains_key(&from) && self.by_address.len() >= ADDRESSES {
            self.by_address.retain(|_, (since, _)| !over(*since));
        }
        let full = self.by_address.len() >= ADDRESSES && !self.by_address.contains_key(&from);
        let entry = if full { self.others.get_or_insert((now, 0)) } else { self.by_address.entry(from).or_insert((now, 0)) };
        *entry = if over(entry.0) { (now, 1) } else { (entry.0, entry.1 + 1) };
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn who_fails_too_often_waits_out_the_window_and_others_do_not() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let (one, two) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
        for n in 0..FAILURES {
            assert!(failures.admits(one, start), "{n}");
            failures.note(one, start);
        }
        assert!(!failures.admits(one, start));
        assert!(failures.admits(two, start));
        assert!(!failures.admits(one, start + WINDOW - Duration::from_millis(1)));
        assert!(failures.admits(one, start + WINDOW));
        failures.note(one, start + WINDOW);
        assert!(failures.admits(one, start + WINDOW), "the window began anew");
    }

    #[test]
    fn more_addresses_than_there_is_room_for_share_one_count() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        for n in 0..u32::try_from(ADDRESSES).unwrap() {
            failures.note(IpAddr::V4(Ipv4Addr::from(n)), start);
        }
        let late = |n: u32| IpAddr::V4(Ipv4Addr::from(0xff00_0000 + n));
        for n in 0..FAILURES {
            failures.note(late(n), start);
        }
        assert_eq!(failures.by_address.len(), ADDRESSES);
        assert!(!failures.admits(late(999), start));
        failures.note(late(999), start + WINDOW);
        assert_eq!(failures.by_address.len(), 1, "what is over makes room");
    }
}

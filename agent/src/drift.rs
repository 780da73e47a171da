//! Drift on the device: counting values into the bins of the model's reference, one set of counts per time window.
//!
//! Invariant: the device only counts; a window that saw nothing says nothing. Not here: judging (the server), the values
//! (the worker).

use std::time::Duration;

use serde::Deserialize;
use wayside_common::{
    sketch::histogram::{Counts, Edges},
    time::Mono,
};

use crate::config::duration::DurationText;

/// `[drift]` of the configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Length of one time window.
    pub window: DurationText,
}

impl Default for Config {
    fn default() -> Self {
        Self { window: DurationText(Duration::from_secs(60)) }
    }
}

/// The counts of one feature over one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    pub feature: String,
    /// Number of the window since the start of the epoch.
    pub window: u64,
    pub counts: Counts,
}

#[derive(Debug)]
pub struct Counter {
    length_us: u64,
    features: Vec<(String, Edges)>,
    window: u64,
    counts: Vec<Counts>,
}

impl Counter {
    /// For the features of one model, in the order in which its worker gives their values.
    pub fn new(length: Duration, features: Vec<(String, Edges)>) -> Self {
        let counts = vec![Counts::default(); features.len()];
        Self { length_us: (length.as_micros() as u64).max(1_000), features, window: 0, counts }
    }

    /// Counts the values by feature name; an unknown feature or NaN has no bin. Gives the window before, if it is over.
    pub fn count<'a>(&mut self, now: Mono, values: impl IntoIterator<Item = (&'a str, f64)>) -> Vec<Counted> {
        let over = self.poll(now);
        for (name, value) in values {
            let Some(at) = self.features.iter().position(|(feature, _)| feature == name) else { continue };
            if let Some(bin) = self.features[at].1.bin(value) {
                self.counts[at].add(bin);
            }
        }
        over
    }

    /// When the present window is over; `None` while it is empty.
    pub fn deadline(&self) -> Option<Mono> {
        let empty = self.counts.iter().all(|counts| counts.total() == 0);
        (!empty).then(|| Mono((self.window + 1).saturating_mul(self.length_us)))
    }

    /// The counts of the window before `now`, if it is over; the present window begins empty.
    pub fn poll(&mut self, now: Mono) -> Vec<Counted> {
        let window = now.0 / self.length_us;
        if window == self.window {
            return Vec::new();
        }
        let over = self.flush();
        self.window = window;
        over
    }

    /// What was counted so far.
    pub fn flush(&mut self) -> Vec<Counted> {
        let window = self.window;
        self.features
            .iter()
            .zip(&mut self.counts)
            .map(|((feature, _), counts)| (feature, std::mem::take(counts)))
            .filter(|(_, counts)| counts.total() > 0)
            .map(|(feature, counts)| Counted { feature: feature.clone(), window, counts })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> Counter {
        let edges = Edges::new(&(0..31).map(f64::from).collect::<Vec<_>>()).unwrap();
        Counter::new(Duration::from_secs(10), vec![("a".into(), edges.clone()), ("b".into(), edges)])
    }

    #[test]
    fn counts_belong_to_the_window_in_which_they_came() {
        let mut counter = counter();
        assert_eq!(counter.deadline(), None);
        assert_eq!(counter.count(Mono(1_000_000), [("a", 0.5), ("a", 0.7), ("unknown", 1.0), ("b", f64::NAN)]), []);
        assert_eq!(counter.deadline(), Some(Mono(10_000_000)));
        let over = counter.count(Mono(25_000_000), [("b", 30.5)]);
        assert_eq!(over.len(), 1);
        assert_eq!((over[0].feature.as_str(), over[0].window, over[0].counts.0[1], over[0].counts.total()), ("a", 0, 2, 2));
        assert_eq!(counter.deadline(), Some(Mono(30_000_000)));
        let over = counter.poll(Mono(30_000_000));
        assert_eq!((over[0].feature.as_str(), over[0].window, over[0].counts.0[31]), ("b", 2, 1));
        assert_eq!(counter.poll(Mono(90_000_000)), []);
    }
}

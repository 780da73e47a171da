//! What happened in a run and when, told to the terminal and kept for the report.
//!
//! Invariant: an entry is made where the thing happened or was seen to have happened, never in advance. Not here: what to do about it.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Since the start of the demo, build included.
    pub at_ms: u64,
    pub event: String,
}

pub struct Timeline {
    started: Instant,
    entries: Mutex<Vec<Entry>>,
}

impl Timeline {
    pub fn start() -> Self {
        Self { started: Instant::now(), entries: Mutex::new(Vec::new()) }
    }

    /// Keeps the event and prints it.
    pub fn tell(&self, event: impl Into<String>) {
        let entry = Entry { at_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX), event: event.into() };
        eprintln!("[{:6.1} s] {}", entry.at_ms as f64 / 1000.0, entry.event);
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

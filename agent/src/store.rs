//! A store on disk that several tasks use: one lock, taken on threads that may block.
//!
//! Invariant: the lock is private, std, and never held over an `.await`; a disk that hangs stops whoever asked, never the
//! runtime. Not here: SQL (`state`, `spool`).

use std::sync::{Arc, Mutex, PoisonError};

/// A handle; clones share the store.
#[derive(Debug)]
pub struct Store<T> {
    store: Arc<Mutex<T>>,
    runs: Runs,
}

/// Where work on the store runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runs {
    OnAThread,
    /// On the caller's own, for a simulation: its time does not wait for threads.
    Here,
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), runs: self.runs }
    }
}

impl<T: Send + 'static> Store<T> {
    pub fn new(store: T) -> Self {
        Self { store: Arc::new(Mutex::new(store)), runs: Runs::OnAThread }
    }

    /// A store whose work blocks whoever asks: for a simulated disk, which is RAM.
    pub fn inline(store: T) -> Self {
        Self { runs: Runs::Here, ..Self::new(store) }
    }

    /// Runs `work` on the store. A panic in an earlier `work` leaves no half transaction behind, so the lock's poison says
    /// nothing and is ignored.
    pub async fn with<R: Send + 'static>(&self, work: impl FnOnce(&mut T) -> R + Send + 'static) -> R {
        if self.runs == Runs::Here {
            return work(&mut self.store.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&mut store.lock().unwrap_or_else(PoisonError::into_inner)));
        match done.await {
            Ok(result) => result,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
}

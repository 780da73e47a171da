//! A store on disk that several tasks use: one lock, taken on threads that may block.
//!
//! Invariant: the lock is private, std, and never held over an `.await`; a disk that hangs stops whoever asked, never the
//! runtime. Not here: SQL (`state`, `spool`).

use std::sync::{Arc, Mutex, PoisonError};

/// A handle; clones share the store.
#[derive(Debug)]
pub struct Store<T>(Arc<Mutex<T>>);

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> Store<T> {
    pub fn new(store: T) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }

    /// Runs `work` on the store. A panic in an earlier `work` leaves no half transaction behind, so the lock's poison says
    /// nothing and is ignored.
    pub async fn with<R: Send + 'static>(&self, work: impl FnOnce(&mut T) -> R + Send + 'static) -> R {
        let store = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&mut store.lock().unwrap_or_else(PoisonError::into_inner)));
        match done.await {
            Ok(result) => result,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
}

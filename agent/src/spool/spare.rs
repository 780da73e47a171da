//! Bytes that the spool gives back to a full disk, so that its log fits into the database and what is acked can go.
//!
//! A log can be written again from its start only when all of it is in the database, and that may have to grow for it. So a file of zeros lies
//! beside the two; when the disk refuses, it goes, the log is copied, and the database may not grow until the file can be made
//! again. Invariant: while there is no such file, no transaction makes the database longer. Not here: the reserve of `state.db`, which
//! nobody else could take.

use std::time::Duration;

use rusqlite::ErrorCode;

use super::{Spool, SpoolError};
use crate::files::beside;

/// The log of a transaction of the largest size and all before it since the last checkpoint.
const SPARE: u64 = 4 * 1024 * 1024;
/// Frames in the log before it is copied.
pub const CHECKPOINT: i64 = 512;
const TRY_AGAIN: Duration = Duration::from_secs(10);
const NO_LIMIT: i64 = 4_294_967_294;

impl Spool {
    /// Makes the spare file where it is not there: at the start, and now and then while the disk is full.
    pub(super) fn keep_spare(&mut self) -> Result<(), SpoolError> {
        if self.full_until.is_some_and(|until| self.now < until) {
            return Ok(());
        }
        let path = beside(&self.path, ".spare");
        if self.files.len(&path) == Some(SPARE) || self.files.fill(&path, SPARE).is_ok() {
            if self.full_until.take().is_some() {
                tracing::info!("the disk has room for the spool again");
            }
            return self.limit(NO_LIMIT);
        }
        self.stop_growing()
    }

    /// The disk is full: what was spared is spent on bringing the log into the database.
    pub(super) fn spend_spare(&mut self, error: &SpoolError) {
        let is_full = matches!(error, SpoolError::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull));
        if !is_full || self.full_until.is_some() {
            return;
        }
        let path = beside(&self.path, ".spare");
        if self.files.len(&path).is_some()
            && let Err(error) = self.files.remove(&path)
        {
            tracing::error!(%error, "the spare file cannot be removed");
        }
        if let Err(error) = self.stop_growing() {
            tracing::error!(%error, "the spool's log stays as it is");
        }
    }

    fn stop_growing(&mut self) -> Result<(), SpoolError> {
        self.full_until = Some(self.now + TRY_AGAIN);
        self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?;
        let pages: i64 = self.connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        self.limit(pages)
    }

    fn limit(&self, pages: i64) -> Result<(), SpoolError> {
        Ok(self.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?)
    }
}

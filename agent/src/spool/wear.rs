//! How much the spool writes to the flash for what it keeps.
//!
//! Invariant: every page that SQLite has appended to the log is counted, and each page that it has brought from the log into the
//! database at least once. Not here: what the file system adds.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use wayside_common::wire;

use super::SpoolError;

/// A page in the log, with its header.
const FRAME: u64 = 24 + PAGE;
const PAGE: u64 = 4096;

/// Since the file was made. What was counted after the last clean end is lost with a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wear {
    /// Bytes of encoded batches.
    pub batches: u64,
    /// Bytes written to the database and its log, at most.
    pub written: u64,
    /// Frames in the log, and those of them that are in the database as well.
    #[serde(skip)]
    log: (u64, u64),
}

impl Wear {
    pub fn load(connection: &Connection) -> Result<Self, SpoolError> {
        let found: Option<Vec<u8>> =
            connection.query_row("SELECT value FROM memory WHERE name = 'wear'", [], |row| row.get(0)).optional()?;
        let mut wear: Self = found.and_then(|bytes| wire::decode(&bytes).ok()).unwrap_or_default();
        wear.log = log(connection).unwrap_or_default();
        Ok(wear)
    }

    pub fn save(&self, connection: &Connection) -> Result<(), SpoolError> {
        connection.execute(
            "INSERT INTO memory (name, value) VALUES ('wear', ?1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            params![wire::encode(self)],
        )?;
        Ok(())
    }

    /// A transaction is over that took in `batches` bytes.
    pub fn committed(&mut self, connection: &Connection, batches: u64) {
        self.batches += batches;
        let Ok((frames, copied)) = log(connection) else { return };
        let (frames_before, copied_before) = self.log;
        // A log that is shorter than before was begun anew after all of it had been copied.
        let (new, to_copy) = if frames >= frames_before {
            (frames - frames_before, copied.saturating_sub(copied_before))
        } else {
            (frames, frames_before.saturating_sub(copied_before) + copied)
        };
        self.written += new * FRAME + to_copy * PAGE;
        self.log = (frames, copied);
    }

    /// Bytes written per byte of batches; `None` before the first batch.
    pub fn ratio(&self) -> Option<f64> {
        (self.batches > 0).then(|| self.written as f64 / self.batches as f64)
    }
}

fn log(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    connection
        .prepare("PRAGMA wal_checkpoint(NOOP)")?
        .query_row([], |row| Ok((row.get::<_, i64>(1)?.max(0) as u64, row.get::<_, i64>(2)?.max(0) as u64)))
}

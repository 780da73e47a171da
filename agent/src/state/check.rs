//! Looking at `state.db` without changing it.
//!
//! Invariant: none of this moves a file or ends a fault. Not here: printing (`cli/spool`), repairing (`lost`).

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde::Serialize;

use super::{
    StateError,
    database::{connect, faults, is_damage, is_in_use},
};

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ExaminedState {
    /// Batches of reports that are not acked.
    pub reports: u64,
    /// Entries of the gap ledger that are not acked.
    pub ledger: u64,
    /// A store has failed since the last repair.
    pub storage_fault: bool,
    /// Why this store is a new one in place of one that was lost; updates are stopped then.
    pub damage: Option<String>,
    pub faults: Vec<String>,
}

impl ExaminedState {
    pub fn is_healthy(&self) -> bool {
        self.faults.is_empty() && self.damage.is_none() && !self.storage_fault
    }
}

/// Reads the whole file, which no agent may have open.
pub fn examine_state(path: &Path) -> Result<ExaminedState, StateError> {
    // Without this a file would be made where there is none.
    match Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE) {
        Ok(there) => drop(there),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::CannotOpen) => return Ok(ExaminedState::default()),
        Err(error) => return Err(error.into()),
    }
    match connect(path).and_then(|connection| examine_open(&connection)) {
        Err(error) if is_in_use(&error) => Err(StateError::InUse),
        Err(error) if is_damage(&error) => Ok(ExaminedState { faults: vec![error.to_string()], ..ExaminedState::default() }),
        done => Ok(done?),
    }
}

fn examine_open(connection: &Connection) -> rusqlite::Result<ExaminedState> {
    let found = faults(connection, None)?;
    if !found.is_empty() {
        return Ok(ExaminedState { faults: found, ..ExaminedState::default() });
    }
    let empty: bool = connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    if empty {
        return Ok(ExaminedState::default());
    }
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|count| count as u64);
    let single = |name: &str| {
        let sql = "SELECT value FROM single WHERE name = ?1";
        connection.query_row(sql, [name], |row| row.get::<_, Vec<u8>>(0)).optional()
    };
    Ok(ExaminedState {
        reports: count("SELECT count(*) FROM vital")?,
        ledger: count("SELECT count(*) FROM ledger")?,
        storage_fault: single("storage_fault")?.and_then(|bytes| super::decoded(&bytes).ok()).unwrap_or(false),
        damage: single("damage")?.and_then(|bytes| super::decoded(&bytes).ok()),
        faults: Vec::new(),
    })
}

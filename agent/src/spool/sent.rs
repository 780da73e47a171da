//! Which batches the server may have: known exactly while the agent runs, and safely after it has died.
//!
//! Invariant: before a batch is handed out, either its row says that it was, or the disk says that every row of its class below some number
//! may have been. So one write serves many batches; the price is paid by a start after a death, which takes a few for sent that
//! were not. Not here: what follows from it (`room`).

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};
use wayside_common::{id::Class, wire};

use super::{Spool, SpoolError, class_number};
use crate::state::database::is_damage;

/// So far ahead of the batch that is handed out.
const AHEAD: i64 = 64;

/// Rows of normal and of bulk streams below these numbers may have been sent.
pub type SentBelow = (i64, i64);

impl Spool {
    /// Takes down that a row is handed out now; where the disk refuses, RAM alone remembers.
    pub(super) fn note_sent(&mut self, class: Class, row: i64) {
        self.sent.insert(row);
        let (normal, bulk) = self.sent_below;
        let noted = match class {
            Class::Bulk => bulk,
            Class::Vital | Class::Normal => normal,
        };
        if row < noted {
            return;
        }
        let below = match class {
            Class::Bulk => (normal, row + AHEAD),
            Class::Vital | Class::Normal => (row + AHEAD, bulk),
        };
        if save(&self.connection, below).is_ok() {
            self.sent_below = below;
        }
        self.wear.committed(&self.connection, 0);
    }

    /// At the end: each row says what RAM knew.
    pub(super) fn keep_sent(&mut self) -> Result<(), SpoolError> {
        let transaction = self.connection.transaction()?;
        let mut statement = transaction.prepare("UPDATE batch SET sent = 1 WHERE id = ?1")?;
        for row in &self.sent {
            statement.execute([row])?;
        }
        drop(statement);
        save(&transaction, (0, 0))?;
        transaction.commit()?;
        self.sent_below = (0, 0);
        Ok(())
    }
}

/// At the start: what RAM knew before a death is lost, so the rows below the numbers count as sent. Those of which a full disk could not
/// take that down are returned.
pub fn settle(connection: &mut Connection) -> Result<BTreeSet<i64>, SpoolError> {
    let sql = "SELECT value FROM memory WHERE name = 'sent'";
    let found: Option<Vec<u8>> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    let (normal, bulk): SentBelow = found.and_then(|bytes| wire::decode(&bytes).ok()).unwrap_or_default();
    if (normal, bulk) == (0, 0) {
        return Ok(BTreeSet::new());
    }
    let below = params![normal, class_number(Class::Normal), bulk, class_number(Class::Bulk)];
    let settled = connection.transaction().and_then(|transaction| {
        transaction.execute("UPDATE batch SET sent = 1 WHERE (id < ?1 AND class = ?2) OR (id < ?3 AND class = ?4)", below)?;
        save(&transaction, (0, 0))?;
        transaction.commit()
    });
    match settled {
        Ok(()) => Ok(BTreeSet::new()),
        Err(error) if is_damage(&error) => Err(error.into()),
        Err(_) => {
            let sql = "SELECT id FROM batch WHERE (id < ?1 AND class = ?2) OR (id < ?3 AND class = ?4)";
            let mut statement = connection.prepare(sql)?;
            Ok(statement.query_map(below, |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
        }
    }
}

fn save(connection: &Connection, below: SentBelow) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO memory (name, value) VALUES ('sent', ?1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        params![wire::encode(&below)],
    )?;
    Ok(())
}

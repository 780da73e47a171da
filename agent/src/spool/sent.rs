//! Which batches the server may have: known exactly while the agent runs, and safely after it has died.
//!
//! Invariant: before a batch is handed out, either its row says that it was, or the disk says that every row of its class below some number
//! may have been. So one write serves many batches; the price is paid by a start after a death, which takes a few for sent that
//! were not. Not here: what follows from it (`room`).

use rusqlite::{Connection, OptionalExtension, params};
use wayside_common::{id::Class, wire};

use super::{Spool, SpoolError, class_number};

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

/// At the start: what RAM knew before a death is lost, so the rows below the numbers count as sent.
pub fn settle(connection: &mut Connection) -> Result<(), SpoolError> {
    let sql = "SELECT value FROM memory WHERE name = 'sent'";
    let found: Option<Vec<u8>> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    let (normal, bulk): SentBelow = found.and_then(|bytes| wire::decode(&bytes).ok()).unwrap_or_default();
    if (normal, bulk) == (0, 0) {
        return Ok(());
    }
    let mark = |class, below: i64, connection: &Connection| {
        connection.execute("UPDATE batch SET sent = 1 WHERE id < ?1 AND class = ?2 AND sent = 0", params![below, class_number(class)])
    };
    let settled = connection.transaction().and_then(|transaction| {
        mark(Class::Normal, normal, &transaction)?;
        mark(Class::Bulk, bulk, &transaction)?;
        save(&transaction, (0, 0))?;
        transaction.commit()
    });
    // A full disk leaves it to the next start; until then what is below stays untouched by its own number.
    settled.or_else(|error| if crate::state::database::is_damage(&error) { Err(error.into()) } else { Ok(()) })
}

fn save(connection: &Connection, below: SentBelow) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO memory (name, value) VALUES ('sent', ?1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        params![wire::encode(&below)],
    )?;
    Ok(())
}

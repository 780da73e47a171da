//! The database of a store: opened for one process alone, with bytes that it has already when the disk is full.
//!
//! Invariant: none. Not here: the stores' tables.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, config::DbConfig, params};

use crate::files::{Files, beside};

/// Opens a database for this process alone, with a log whose index lies in RAM and which keeps its bytes on the disk when it is
/// closed. An error with the code `DatabaseBusy` says that another process has it open.
pub fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    // First of all: a database that turns out to be damaged would otherwise take its log with it when it is closed.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(Duration::ZERO)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(connection)
}

/// Is the file itself broken, as opposed to a full or locked disk? The statements are the same in every run, so a schema that does not
/// understand one of them is a broken one.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error, rusqlite::Error::SqlInputError { .. }) || matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

pub fn is_in_use(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
}

/// Makes the log, and the free pages of the file, at least so many bytes long, unless they are: a full disk then refuses neither.
pub fn reserve(connection: &mut Connection, files: &dyn Files, path: &Path, bytes: u64) -> rusqlite::Result<()> {
    let free: u64 = connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0))? as u64 * 4096;
    if files.len(&beside(path, "-wal")).unwrap_or(0) >= bytes && free >= bytes / 2 {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    transaction.execute_batch("CREATE TABLE IF NOT EXISTS reserve (bytes BLOB)")?;
    transaction.execute("INSERT INTO reserve (bytes) VALUES (zeroblob(?1))", params![bytes as i64])?;
    transaction.commit()?;
    connection.execute("DELETE FROM reserve", [])?;
    // From here on the log is written from its start again.
    connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
}

/// What SQLite finds wrong with the file: without its indexes, or one table of it with its indexes.
pub fn faults(connection: &Connection, table: Option<&str>) -> rusqlite::Result<Vec<String>> {
    let sql = table.map_or("PRAGMA quick_check(20)".to_owned(), |table| format!("PRAGMA integrity_check('{table}')"));
    let mut statement = connection.prepare(&sql)?;
    let found = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    Ok(found.into_iter().filter(|text| text != "ok").collect())
}

//! Looking at every byte of the spool, and making good what is wrong.
//!
//! Invariant: [`examine`] changes nothing that the next start would miss; a batch that does not fit its checksum is given up by
//! [`Spool::verify`], never deleted without an entry. Not here: printing (`cli/spool`).

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde::Serialize;
use wayside_common::{gap::Reason, record::Batch, sync::sender::BatchKey, wire};

use super::{LAYOUT, Spool, SpoolError, Taken, Wear, checksum};
use crate::state::database::{connect, faults, is_damage, is_in_use};

/// What lies in the spool.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Examined {
    pub batches: u64,
    pub bytes: u64,
    /// Readings in less than full fidelity.
    pub downsampled: u64,
    pub sketches: u64,
    /// When the oldest batch begins, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
    /// Batches that do not fit their checksum.
    pub damaged: u64,
    /// Entries that the next start brings into the ledger.
    pub unentered: u64,
    /// Bytes written to the flash, at most, and what for.
    pub bytes_written: u64,
    pub bytes_of_batches: u64,
    pub faults: Vec<String>,
}

impl Examined {
    pub fn is_healthy(&self) -> bool {
        self.damaged == 0 && self.faults.is_empty()
    }
}

/// Reads the whole file, which no agent may have open.
pub fn examine(path: &Path) -> Result<Examined, SpoolError> {
    // Without this a file would be made where there is none.
    let there = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
    drop(match there {
        Ok(connection) => connection,
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::CannotOpen) => return Ok(Examined::default()),
        Err(error) => return Err(error.into()),
    });
    let examined = connect(path).and_then(|connection| examine_open(&connection));
    match examined {
        Err(error) if is_in_use(&error) => Err(SpoolError::InUse),
        Err(error) if is_damage(&error) => Ok(Examined { faults: vec![error.to_string()], ..Examined::default() }),
        done => Ok(done?),
    }
}

fn examine_open(connection: &Connection) -> rusqlite::Result<Examined> {
    let layout: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if layout != LAYOUT {
        let fault = format!("its layout has number {layout}, and this build writes {LAYOUT}");
        return Ok(Examined { faults: vec![fault], ..Examined::default() });
    }
    let mut examined = Examined { faults: faults(connection, None)?, ..Examined::default() };
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|count| count as u64);
    examined.batches = count("SELECT count(*) FROM batch WHERE given_up = 0")?;
    examined.bytes = count("SELECT coalesce(sum(length), 0) FROM batch WHERE given_up = 0")?;
    examined.downsampled = count("SELECT count(*) FROM batch WHERE given_up = 0 AND fidelity = 1")?;
    examined.sketches = count("SELECT count(*) FROM batch WHERE given_up = 0 AND fidelity = 0")?;
    examined.unentered = count("SELECT (SELECT count(*) FROM batch WHERE given_up > 0) + (SELECT count(*) FROM loss)")?;
    examined.oldest_ms =
        connection.query_row("SELECT min(from_wall) FROM batch WHERE given_up = 0", [], |row| row.get(0)).optional()?.flatten();
    let mut statement = connection.prepare("SELECT checksum, bytes FROM batch LEFT JOIN blob USING (id) WHERE given_up = 0 ORDER BY id")?;
    let mut rows = statement.query([])?;
    loop {
        match rows.next() {
            Ok(None) => break,
            Ok(Some(row)) => {
                let (expected, blob): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.get(0)?, row.get(1)?);
                examined.damaged += u64::from(blob.is_none_or(|blob| Some(checksum(&blob)) != expected));
            }
            Err(error) => {
                examined.faults.push(error.to_string());
                break;
            }
        }
    }
    let wear = Wear::load(connection).unwrap_or_default();
    (examined.bytes_written, examined.bytes_of_batches) = (wear.written, wear.batches);
    Ok(examined)
}

/// What reading every batch has shown.
#[derive(Default)]
struct Verified {
    /// Batches whose bytes are not those that were written.
    damaged: Vec<BatchKey>,
    /// A row says another length or end than its batch, whose bytes are good.
    misfit: bool,
}

impl Spool {
    /// Reads every batch; those that cannot be sent are given up.
    pub fn verify(&mut self) -> Result<Vec<BatchKey>, SpoolError> {
        let reason = match self.verify_once() {
            Ok(Verified { misfit: false, damaged }) => return Ok(damaged),
            Ok(_) => "a row does not say what its batch says".into(),
            Err(SpoolError::Sqlite(error)) if is_damage(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        self.salvage_now(&reason)?;
        Ok(self.verify_once()?.damaged)
    }

    fn verify_once(&mut self) -> Result<Verified, SpoolError> {
        let mut verified = Verified::default();
        for held in self.held()? {
            match self.look(&held.key)? {
                Taken::Damaged => {
                    self.give_up_for(&held.key, Reason::SpoolLost)?;
                    verified.damaged.push(held.key);
                }
                Taken::Blob(blob) => {
                    let fits = wire::decode::<Batch>(&blob)
                        .is_ok_and(|batch| batch.first_seq == held.key.first_seq && batch.end_seq() == held.end_seq);
                    verified.misfit |= !fits || held.bytes != blob.len() as u64;
                }
                Taken::Gone => {}
            }
        }
        // What no batch needs may be broken as well.
        self.marks()?;
        self.given_up()?;
        Ok(verified)
    }

    /// Moves the whole file aside and goes on with what can be read of it: for faults that a start does not look for.
    pub fn rebuild(&mut self, reason: &str) -> Result<(), SpoolError> {
        self.salvage_now(reason)
    }
}

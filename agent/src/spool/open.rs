//! Opening the spool: as it is, or, where SQLite cannot use it, with what can be saved of it.
//!
//! Invariant: a damaged file keeps its name until its successor is whole and on the disk; it is then moved aside, never deleted. What
//! was lost stands in the successor before that, so that no death in between hides it. Not here: what can be read of a damaged file
//! (`salvage`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, params};
use wayside_common::{
    id::{Epoch, StreamId, StreamKind},
    record::Batch,
    time::Mono,
    wire,
};

use super::{
    Config, LAYOUT, SCHEMA, Spool, SpoolError, Wear, checksum, class_number,
    page::Pages,
    parsed, rank,
    salvage::{About, Name, Salvage, SavedMark, salvage},
    spare::CHECKPOINT,
};
use crate::{
    files::{Files, OnDisk, beside, set_aside},
    state::database::{connect, faults, is_damage, is_in_use, reserve},
};

/// Of the log: so that a full disk does not stop deletions, which free it.
const RESERVE: u64 = 256 * 1024;

/// Beside the database: its successor, while it is made, and when it is whole.
const NEW: &str = ".new";
const WHOLE: &str = ".whole";

/// What was wrong with the file, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    pub reason: String,
    /// Batches that go on, under their names.
    pub saved: u64,
    /// Entries that stand in for the rest.
    pub lost: u64,
    /// Not even the names of all streams are left, so there are no entries: nobody knows what was held.
    pub unknown: bool,
}

/// A file, opened or not.
enum Opened {
    Whole(Box<Spool>),
    Damaged(String),
}

impl Spool {
    /// Opens `spool.db` in `dir`. A file that SQLite cannot use is moved aside, and what can be read of it goes on; then the second part
    /// tells of it.
    pub fn open(dir: &Path, config: &Config) -> Result<(Self, Option<Damage>), SpoolError> {
        Self::open_in(Arc::new(OnDisk), dir, config)
    }

    /// The same in another kind of folder.
    pub fn open_in(files: Arc<dyn Files>, dir: &Path, config: &Config) -> Result<(Self, Option<Damage>), SpoolError> {
        let path = dir.join("spool.db");
        if files.len(&beside(&path, WHOLE)).is_some() {
            // The agent died after the successor of a damaged file was on the disk.
            take_place(&*files, &path)?;
        }
        let (mut spool, damage) = match open_file(&files, &path, config)? {
            Opened::Whole(spool) => (*spool, None),
            Opened::Damaged(reason) => {
                let damage = replace(&*files, &path, &reason)?;
                match open_file(&files, &path, config)? {
                    Opened::Whole(spool) => (*spool, Some(damage)),
                    Opened::Damaged(reason) => return Err(SpoolError::Value(reason)),
                }
            }
        };
        let damage = damage.or(spool.noted_loss()?);
        spool.keep_spare()?;
        Ok((spool, damage))
    }

    /// While it is in use the file has turned out to be damaged: the same as at a start.
    pub(super) fn salvage_now(&mut self, reason: &str) -> Result<(), SpoolError> {
        drop(std::mem::replace(&mut self.connection, Connection::open_in_memory()?));
        let damage = replace(&*self.files, &self.path, reason)?;
        let Opened::Whole(mut fresh) = open_file(&self.files, &self.path, &self.config)? else {
            return Err(SpoolError::Value(reason.to_owned()));
        };
        std::mem::swap(&mut fresh.connection, &mut self.connection);
        self.streams = std::mem::take(&mut fresh.streams);
        (self.normal, self.bulk, self.wear) = (fresh.normal, fresh.bulk, fresh.wear);
        self.acked.clear();
        self.sent.clear();
        self.sent_below = fresh.sent_below;
        self.on_their_way.clear();
        self.synced = None;
        self.damage = Some(damage);
        Ok(())
    }

    /// A loss of which nobody knows the extent, and which no ledger has yet.
    fn noted_loss(&self) -> Result<Option<Damage>, SpoolError> {
        let sql = "SELECT value FROM memory WHERE name = 'loss'";
        let reason: Option<Vec<u8>> = self.connection.query_row(sql, [], |row| row.get(0)).optional()?;
        Ok(reason.map(|reason| Damage { reason: String::from_utf8_lossy(&reason).into_owned(), unknown: true, ..Damage::default() }))
    }

    /// The loss that [`Damage::unknown`] tells of stands in the ledger.
    pub fn loss_entered(&mut self) -> Result<(), SpoolError> {
        self.connection.execute("DELETE FROM memory WHERE name = 'loss'", [])?;
        Ok(())
    }
}

fn open_file(files: &Arc<dyn Files>, path: &Path, config: &Config) -> Result<Opened, SpoolError> {
    match open_whole(files, path, config) {
        Ok(opened) => Ok(opened),
        Err(SpoolError::Sqlite(error)) if is_in_use(&error) => Err(SpoolError::InUse),
        Err(SpoolError::Sqlite(error)) if is_damage(&error) => Ok(Opened::Damaged(error.to_string())),
        Err(SpoolError::Value(what)) => Ok(Opened::Damaged(format!("it holds {what:?}"))),
        Err(error) => Err(error),
    }
}

fn open_whole(files: &Arc<dyn Files>, path: &Path, config: &Config) -> Result<Opened, SpoolError> {
    // SQLite would delete a log that has no database.
    if files.len(path).unwrap_or(0) == 0 && files.len(&beside(path, "-wal")).unwrap_or(0) > 0 {
        return Ok(Opened::Damaged("the database is empty and its log is not".into()));
    }
    let mut connection = connect(path)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
    let layout: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let empty: bool = connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    if layout != LAYOUT && !empty {
        return Ok(Opened::Damaged(format!("its layout has number {layout}, and this build writes {LAYOUT}")));
    }
    if empty {
        make(&mut connection)?;
    }
    for table in ["stream", "batch", "loss", "memory"] {
        if let Some(fault) = faults(&connection, Some(table))?.first() {
            return Ok(Opened::Damaged(fault.clone()));
        }
    }
    if let Err(error) = reserve(&mut connection, &**files, path, RESERVE) {
        tracing::warn!(%error, "the spool's log has no bytes in reserve");
    }
    let sent = super::sent::settle(&mut connection)?;
    let streams = streams(&connection)?;
    let bytes = |class: i64| {
        let sql = "SELECT coalesce(sum(length), 0) FROM batch WHERE given_up = 0 AND class = ?1";
        connection.query_row(sql, [class], |row| row.get::<_, i64>(0)).map(|bytes| bytes as u64)
    };
    let (normal, bulk) = (bytes(1)?, bytes(2)?);
    let ran: i64 = connection.query_row("SELECT coalesce(max(ran), 0) FROM batch", [], |row| row.get(0))?;
    let wear = Wear::load(&connection)?;
    Ok(Opened::Whole(Box::new(Spool {
        connection,
        files: Arc::clone(files),
        path: path.to_owned(),
        config: config.clone(),
        streams,
        normal,
        bulk,
        acked: Default::default(),
        sent,
        sent_below: Default::default(),
        on_their_way: Default::default(),
        ran_before: Duration::from_secs(ran as u64),
        now: Mono(0),
        synced: None,
        full_until: None,
        wear,
        damage: None,
    })))
}

/// All of the schema, or none.
fn make(connection: &mut Connection) -> Result<(), SpoolError> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "user_version", LAYOUT)?;
    Ok(transaction.commit()?)
}

pub(super) fn streams(connection: &Connection) -> Result<BTreeMap<(Epoch, StreamId), i64>, SpoolError> {
    let mut statement = connection.prepare("SELECT epoch, stream, id FROM stream")?;
    let mut rows = statement.query([])?;
    let mut streams = BTreeMap::new();
    while let Some(row) = rows.next()? {
        streams.insert((parsed(row.get(0)?)?, parsed(row.get(1)?)?), row.get(2)?);
    }
    Ok(streams)
}

/// Puts what can be saved into a new file, moves the damaged one aside and gives the new one its name.
fn replace(files: &dyn Files, path: &Path, reason: &str) -> Result<Damage, SpoolError> {
    let damage = match save_into(files, path, &beside(path, NEW), reason) {
        Ok(damage) => damage,
        Err(error) => {
            tracing::error!(%error, "nothing can be saved of the damaged spool now; it stays beside the new one");
            forget(files, &beside(path, NEW))?;
            set_aside(files, path)?;
            return Ok(Damage { reason: reason.to_owned(), unknown: true, ..Damage::default() });
        }
    };
    files.rename(&beside(path, NEW), &beside(path, WHOLE))?;
    take_place(files, path)?;
    Ok(damage)
}

/// Gives a whole successor the name of the damaged file.
fn take_place(files: &dyn Files, path: &Path) -> std::io::Result<()> {
    set_aside(files, path)?;
    files.rename(&beside(path, WHOLE), path)
}

fn forget(files: &dyn Files, path: &Path) -> std::io::Result<()> {
    for suffix in ["-journal", ""] {
        let leftover = beside(path, suffix);
        if files.len(&leftover).is_some() {
            files.remove(&leftover)?;
        }
    }
    Ok(())
}

fn save_into(files: &dyn Files, path: &Path, successor: &Path, reason: &str) -> Result<Damage, SpoolError> {
    forget(files, successor)?;
    let mut connection = Connection::open(successor)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    make(&mut connection)?;
    let log: PathBuf = beside(path, "-wal");
    let read_file = |offset: u64, into: &mut [u8]| files.read_at(path, offset, into).unwrap_or(0);
    let read_log = |offset: u64, into: &mut [u8]| files.read_at(&log, offset, into).unwrap_or(0);
    let pages = Pages::new(&read_file, files.len(path).unwrap_or(0), &read_log);
    let transaction = connection.transaction()?;
    let (mut rows, mut failed) = (BTreeMap::new(), None);
    let found = salvage(&pages, |id, name, about, blob| {
        if let Err(error) = put(&transaction, &mut rows, id, name, about, blob) {
            failed.get_or_insert(error);
        }
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    put_rest(&transaction, &mut rows, &found, reason)?;
    transaction.commit()?;
    let (saved, lost) = (found.saved.len() as u64, found.lost.len() as u64);
    Ok(Damage { reason: reason.to_owned(), saved, lost, unknown: found.unknown })
}

type Rows = BTreeMap<(Epoch, StreamId), i64>;

/// The row of a stream, made where it is not there yet.
fn stream_row(connection: &Connection, rows: &mut Rows, epoch: Epoch, stream: &StreamId) -> rusqlite::Result<i64> {
    if let Some(row) = rows.get(&(epoch, stream.clone())) {
        return Ok(*row);
    }
    connection.execute(
        "INSERT INTO stream (epoch, stream, next_seq, last_wall, committed) VALUES (?1, ?2, 0, 0, 0)",
        params![epoch.to_string(), stream.to_string()],
    )?;
    rows.insert((epoch, stream.clone()), connection.last_insert_rowid());
    Ok(connection.last_insert_rowid())
}

/// Under the number that it had, which tells its age, unless a leftover has that already.
fn put(connection: &Connection, rows: &mut Rows, id: i64, name: &Name, about: &About, blob: &[u8]) -> rusqlite::Result<()> {
    let (epoch, stream, first_seq) = name;
    let row = stream_row(connection, rows, *epoch, stream)?;
    let fidelity =
        wire::decode::<Batch>(blob).ok().filter(|_| stream.kind == StreamKind::Readings).map(|batch| rank(batch.body.fidelity()));
    connection
        .prepare(
            "INSERT INTO batch (stream, first_seq, end_seq, class, fidelity, sent, given_up, from_position, to_position, from_wall, to_wall,
             ran, length, id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8, ?9, ?10, ?11, ?12,
             CASE WHEN EXISTS (SELECT 1 FROM batch WHERE id = ?13) THEN NULL ELSE ?13 END)",
        )?
        .execute(params![
            row,
            *first_seq as i64,
            about.end_seq as i64,
            class_number(stream.kind.class()),
            fidelity,
            about.sent,
            about.positions.map(|(from, _)| from.0 as i64),
            about.positions.map(|(_, to)| to.0 as i64),
            about.span.0.0,
            about.span.1.0,
            about.ran,
            blob.len() as i64,
            id
        ])?;
    let id = connection.last_insert_rowid();
    connection.prepare("INSERT INTO blob (id, checksum, bytes) VALUES (?1, ?2, ?3)")?.execute(params![id, checksum(blob), blob])?;
    // Where the stream's own row is lost, its batches show how far it was.
    connection
        .prepare(
            "UPDATE stream SET next_seq = max(next_seq, ?2), last_position = max(coalesce(last_position, 0), ?3),
             last_wall = max(last_wall, ?4), committed = max(committed, ?4) WHERE id = ?1",
        )?
        .execute(params![row, about.end_seq as i64, about.positions.map(|(_, to)| to.0 as i64), about.span.1.0])?;
    Ok(())
}

fn put_rest(connection: &Connection, rows: &mut Rows, found: &Salvage, reason: &str) -> Result<(), SpoolError> {
    for ((epoch, stream), SavedMark { next_seq, last_position, last_wall, committed }) in &found.marks {
        let row = stream_row(connection, rows, *epoch, stream)?;
        connection.execute(
            "UPDATE stream SET next_seq = max(next_seq, ?2), last_position = coalesce(max(last_position, ?3), last_position, ?3),
             last_wall = max(last_wall, ?4), committed = max(committed, ?5) WHERE id = ?1",
            params![row, *next_seq as i64, last_position, last_wall, committed],
        )?;
    }
    for gap in &found.lost {
        connection.execute("INSERT INTO loss (gap) VALUES (?1)", params![wire::encode(gap)])?;
    }
    let note = found.unknown.then(|| ("loss".to_owned(), reason.as_bytes().to_vec()));
    for (name, value) in found.memory.clone().into_iter().chain(note) {
        connection.execute(
            "INSERT INTO memory (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            params![name, value],
        )?;
    }
    Ok(())
}

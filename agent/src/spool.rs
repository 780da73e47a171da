//! The spool: batches of normal and bulk streams on disk until the server has committed them.
//!
//! Invariant: a batch keeps its name and its seqs for ever, and its bytes unless it is degraded before it was ever handed out. It leaves
//! only after an ack ([`Spool::delete`]) or through [`Spool::make_room`] or [`Spool::give_up_for`] and then [`Spool::forget`], between which
//! its ledger entry becomes durable elsewhere. WAL with synchronous=NORMAL, and a sync at most [`SYNC_EVERY`] after the last: the
//! death of the process loses nothing committed, a power cut the newest seconds. Not here: vital streams and the ledger (`state`),
//! when to commit (`keeper`).

pub mod check;
mod memory;
mod open;
mod page;
mod room;
mod salvage;
mod sent;
mod spare;
mod wear;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Deserialize;
use wayside_common::{
    degraded::Fidelity,
    gap::{Extent, Gap, Reason},
    id::{Class, Digest, Epoch, StreamId, StreamKind},
    record::{Batch, Body},
    schedule::Position,
    sync::sender::BatchKey,
    time::{ClockStamp, Mono, Wall},
    wire,
};

pub use memory::Memory;
pub use open::Damage;
pub use room::Room;
pub use wear::Wear;

use crate::{config::duration::DurationText, files::Files, state::database};

/// How old a commit may be that a power cut undoes, while batches keep coming.
pub const SYNC_EVERY: Duration = Duration::from_secs(5);
/// Deletions of acked batches wait for company, at most so many.
const DELETE_TOGETHER: usize = 256;
/// Batches that were handed out last may be on their way just now.
const ON_THEIR_WAY: usize = 16;

/// `[spool]` of the configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// All batches together. Beyond it bulk goes before normal and old before new: readings are degraded, then batches are given up.
    pub max_bytes: u64,
    /// Batches of bulk streams; the rest is kept free for normal ones. Absent: three quarters of `max_bytes`.
    pub bulk_bytes: Option<u64>,
    /// Batches that have waited so long, while the agent ran, are given up.
    pub max_age: DurationText,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_bytes: 64 * 1024 * 1024, bulk_bytes: None, max_age: DurationText(Duration::from_secs(30 * 86_400)) }
    }
}

/// Some neighbouring records, numbered, not yet durable.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    pub stream: StreamId,
    pub first_seq: u64,
    pub body: Body,
    /// First and last, of a stream that carries its source's items.
    pub positions: Option<(Position, Position)>,
    /// Due or wall time of the first and the last record.
    pub span: (Wall, Wall),
}

impl Cut {
    pub fn end_seq(&self) -> u64 {
        self.first_seq + self.body.len() as u64
    }

    /// The ledger entry for records that nobody will see.
    pub fn lost(&self, epoch: Epoch, reason: Reason) -> Gap {
        Gap {
            epoch,
            stream: self.stream.clone(),
            extent: Extent::Exact { first_seq: self.first_seq, last_seq: self.end_seq().saturating_sub(1) },
            positions: self.positions,
            span: self.span,
            reason,
        }
    }
}

/// A batch that is durable and not yet acked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBatch {
    pub key: BatchKey,
    pub end_seq: u64,
    /// Length of its blob.
    pub bytes: u64,
}

/// How far one (epoch, stream) is durable. Survives the deletion of its batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub epoch: Epoch,
    pub stream: StreamId,
    /// One past the last durable seq.
    pub next_seq: u64,
    pub last_position: Option<Position>,
    pub last_wall: Wall,
    /// When that was committed.
    pub committed: Wall,
    /// Lowest seq that is still held; `None`: everything is acked or given up.
    pub lowest_held: Option<u64>,
}

/// What [`Spool::take`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    Blob(Vec<u8>),
    /// Acked or given up meanwhile.
    Gone,
    /// The bytes are not those that were written.
    Damaged,
}

#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the spool: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the spool holds {0:?}, which is not what it should be")]
    Value(String),
    #[error("another agent runs on this data folder")]
    InUse,
    #[error("the spool's file cannot be moved aside: {0}")]
    Aside(#[from] std::io::Error),
}

pub struct Spool {
    connection: Connection,
    files: Arc<dyn Files>,
    path: PathBuf,
    config: Config,
    /// Rows of `stream`.
    streams: BTreeMap<(Epoch, StreamId), i64>,
    /// Bytes of the batches that are neither acked nor given up.
    normal: u64,
    bulk: u64,
    /// Acked, and not yet deleted on the disk.
    acked: BTreeSet<i64>,
    /// Handed out in this run.
    sent: BTreeSet<i64>,
    sent_below: sent::SentBelow,
    on_their_way: VecDeque<i64>,
    /// How long the agent had run, in all its starts, when this one began.
    ran_before: Duration,
    /// The latest that a caller has said.
    now: Mono,
    synced: Option<Mono>,
    /// The disk has refused; when to try whether it still does.
    full_until: Option<Mono>,
    wear: Wear,
    /// What happened to the file since somebody asked.
    damage: Option<Damage>,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Layouts are told apart by `user_version`. The order of the columns is known to `salvage` as well.
const LAYOUT: i64 = 2;
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS stream (
    id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, stream TEXT NOT NULL, next_seq INTEGER NOT NULL, last_position INTEGER,
    last_wall INTEGER NOT NULL, committed INTEGER NOT NULL, UNIQUE (epoch, stream));
CREATE TABLE IF NOT EXISTS batch (
    id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first_seq INTEGER NOT NULL, end_seq INTEGER NOT NULL,
    class INTEGER NOT NULL, fidelity INTEGER, sent INTEGER NOT NULL, given_up INTEGER NOT NULL,
    from_position INTEGER, to_position INTEGER, from_wall INTEGER NOT NULL, to_wall INTEGER NOT NULL,
    ran INTEGER NOT NULL, length INTEGER NOT NULL, UNIQUE (stream, first_seq));
CREATE TABLE IF NOT EXISTS blob (id INTEGER PRIMARY KEY, checksum BLOB NOT NULL, bytes BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS given_up ON batch (given_up) WHERE given_up > 0;
CREATE TABLE IF NOT EXISTS loss (id INTEGER PRIMARY KEY, gap BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS memory (name TEXT PRIMARY KEY, value BLOB NOT NULL);
";

impl Spool {
    /// Encodes and commits `cuts` in one transaction: all of them, or none.
    pub fn append(&mut self, epoch: Epoch, clock: ClockStamp, cuts: &[Cut]) -> Result<Vec<HeldBatch>, SpoolError> {
        self.now = self.now.max(clock.mono);
        if self.full_until.is_some() {
            self.keep_spare()?;
        }
        let held = match self.append_once(epoch, clock, cuts) {
            Err(SpoolError::Sqlite(error)) if database::is_damage(&error) => {
                self.salvage_now(&error.to_string())?;
                self.append_once(epoch, clock, cuts)?
            }
            done => done.inspect_err(|error| self.spend_spare(error))?,
        };
        for HeldBatch { key, bytes, .. } in &held {
            *self.bytes_of(key.class) += bytes;
        }
        Ok(held)
    }

    fn append_once(&mut self, epoch: Epoch, clock: ClockStamp, cuts: &[Cut]) -> Result<Vec<HeldBatch>, SpoolError> {
        let sync = self.synced.is_none_or(|synced| self.now >= synced + SYNC_EVERY);
        self.connection.pragma_update(None, "synchronous", if sync { "FULL" } else { "NORMAL" })?;
        let ran = (self.ran_before + self.now.saturating_since(Mono(0))).as_secs() as i64;
        let transaction = self.connection.transaction()?;
        // In one transaction they cost next to nothing, and the pages that they free are used at once.
        let acked: BTreeSet<i64> = self.acked.iter().copied().take(DELETE_TOGETHER).collect();
        delete(&transaction, &acked)?;
        let mut held = Vec::with_capacity(cuts.len());
        let mut streams = Vec::new();
        for cut in cuts {
            let row = mark(&transaction, epoch, clock, cut)?;
            let lowest = lowest_held(&transaction, row, &self.acked)?;
            let batch = Batch {
                epoch,
                stream: cut.stream.clone(),
                first_seq: cut.first_seq,
                lowest_held: lowest.map_or(cut.first_seq, |lowest| cut.first_seq.min(lowest)),
                clock,
                body: cut.body.clone(),
            };
            let blob = wire::encode_batch(&batch);
            insert(&transaction, row, cut, ran, &blob)?;
            let key = BatchKey { class: cut.stream.kind.class(), epoch, first_seq: cut.first_seq, stream: cut.stream.clone() };
            held.push(HeldBatch { key, end_seq: cut.end_seq(), bytes: blob.len() as u64 });
            streams.push(((epoch, cut.stream.clone()), row));
        }
        transaction.commit()?;
        self.deleted(&acked);
        self.streams.extend(streams);
        if sync {
            self.synced = Some(self.now);
        }
        self.wear.committed(&self.connection, held.iter().map(|held| held.bytes).sum());
        Ok(held)
    }

    /// Every batch that is to be sent.
    pub fn held(&self) -> Result<Vec<HeldBatch>, SpoolError> {
        let names: BTreeMap<i64, &(Epoch, StreamId)> = self.streams.iter().map(|(name, row)| (*row, name)).collect();
        let mut statement =
            self.connection.prepare("SELECT id, stream, first_seq, end_seq, length FROM batch WHERE given_up = 0 ORDER BY id")?;
        let mut rows = statement.query([])?;
        let mut held = Vec::new();
        while let Some(row) = rows.next()? {
            let Some((epoch, stream)) = names.get(&row.get(1)?) else { continue };
            if self.acked.contains(&row.get(0)?) {
                continue;
            }
            let key =
                BatchKey { class: stream.kind.class(), epoch: *epoch, first_seq: row.get::<_, i64>(2)? as u64, stream: stream.clone() };
            held.push(HeldBatch { key, end_seq: row.get::<_, i64>(3)? as u64, bytes: row.get::<_, i64>(4)? as u64 });
        }
        Ok(held)
    }

    /// How far every (epoch, stream) is durable.
    pub fn marks(&self) -> Result<Vec<Mark>, SpoolError> {
        let mut statement =
            self.connection.prepare("SELECT id, epoch, stream, next_seq, last_position, last_wall, committed FROM stream ORDER BY id")?;
        let mut rows = statement.query([])?;
        let mut marks = Vec::new();
        while let Some(row) = rows.next()? {
            marks.push(Mark {
                epoch: parsed(row.get(1)?)?,
                stream: parsed(row.get(2)?)?,
                next_seq: row.get::<_, i64>(3)? as u64,
                last_position: row.get::<_, Option<i64>>(4)?.map(|p| Position(p as u64)),
                last_wall: Wall(row.get(5)?),
                committed: Wall(row.get(6)?),
                lowest_held: lowest_held(&self.connection, row.get(0)?, &self.acked)?,
            });
        }
        Ok(marks)
    }

    /// The bytes of a batch, to be sent now. From here on it is not degraded, and given up last of all. A full disk does not stop the
    /// sending, which is what frees it: then RAM remembers.
    pub fn take(&mut self, key: &BatchKey) -> Result<Taken, SpoolError> {
        let blob = match self.look(key)? {
            Taken::Blob(blob) => blob,
            other => return Ok(other),
        };
        let Some((row, sent)) = self.find(key, "sent")? else { return Ok(Taken::Gone) };
        if sent == 0 && !self.sent.contains(&row) {
            self.note_sent(key.class, row);
        }
        self.on_their_way.push_back(row);
        if self.on_their_way.len() > ON_THEIR_WAY {
            self.on_their_way.pop_front();
        }
        Ok(Taken::Blob(blob))
    }

    /// The bytes of a batch, for looking at them.
    fn look(&self, key: &BatchKey) -> Result<Taken, SpoolError> {
        let Some((row, _)) = self.find(key, "sent")? else { return Ok(Taken::Gone) };
        let read = self
            .connection
            .prepare("SELECT checksum, bytes FROM blob WHERE id = ?1")?
            .query_row([row], |found| Ok((found.get::<_, Vec<u8>>(0)?, found.get::<_, Vec<u8>>(1)?)))
            .optional();
        match read {
            Ok(Some((expected, blob))) if checksum(&blob) == expected => Ok(Taken::Blob(blob)),
            Ok(_) => Ok(Taken::Damaged),
            Err(error) if database::is_damage(&error) => Ok(Taken::Damaged),
            Err(error) => Err(error.into()),
        }
    }

    /// Frees batches that the server has committed. From now on they are gone; on the disk they go with the next of many. A death
    /// before that brings them back, and the server knows them.
    pub fn delete(&mut self, keys: &[BatchKey]) -> Result<(), SpoolError> {
        for key in keys {
            if let Some((row, length)) = self.find(key, "length")? {
                self.acked.insert(row);
                let bytes = self.bytes_of(key.class);
                *bytes = bytes.saturating_sub(length as u64);
            }
        }
        if self.acked.len() >= DELETE_TOGETHER { self.delete_acked() } else { Ok(()) }
    }

    /// Deletes on the disk what is acked: in large steps, or in small ones where the disk has no room for the log of a large one.
    pub fn delete_acked(&mut self) -> Result<(), SpoolError> {
        let mut together = DELETE_TOGETHER;
        while !self.acked.is_empty() {
            let rows: BTreeSet<i64> = self.acked.iter().copied().take(together).collect();
            let transaction = self.connection.transaction()?;
            match delete(&transaction, &rows).and_then(|()| Ok(transaction.commit()?)) {
                Ok(()) => self.deleted(&rows),
                Err(SpoolError::Sqlite(error)) if database::is_damage(&error) => return self.salvage_now(&error.to_string()),
                Err(error) if together > 8 => {
                    self.spend_spare(&error);
                    together = 8;
                }
                Err(error) => return Err(error),
            }
        }
        self.wear.committed(&self.connection, 0);
        Ok(())
    }

    fn deleted(&mut self, rows: &BTreeSet<i64>) {
        for row in rows {
            self.acked.remove(row);
            self.sent.remove(row);
        }
    }

    /// The row of a batch that is neither acked nor given up, and one of its columns.
    fn find(&self, key: &BatchKey, column: &str) -> Result<Option<(i64, i64)>, SpoolError> {
        let Some(stream) = self.streams.get(&(key.epoch, key.stream.clone())) else { return Ok(None) };
        let found = self
            .connection
            .prepare(&format!("SELECT id, {column} FROM batch WHERE stream = ?1 AND first_seq = ?2 AND given_up = 0"))?
            .query_row(params![stream, key.first_seq as i64], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(found.filter(|(row, _)| !self.acked.contains(row)))
    }

    pub fn bytes(&self) -> u64 {
        self.normal + self.bulk
    }

    /// What happened to the file since this was last asked.
    pub fn take_damage(&mut self) -> Option<Damage> {
        self.damage.take()
    }

    fn bytes_of(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Vital | Class::Normal => &mut self.normal,
            Class::Bulk => &mut self.bulk,
        }
    }

    /// Breaks things on purpose.
    #[cfg(test)]
    pub(crate) fn execute_batch(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.execute_batch(sql)
    }
}

/// What stands in no transaction yet is written at the end, as far as the disk allows.
impl Drop for Spool {
    fn drop(&mut self) {
        let _ = self.connection.pragma_update(None, "synchronous", "FULL");
        let _ = self.delete_acked();
        let _ = self.keep_sent();
        let _ = self.wear.save(&self.connection);
    }
}

/// Moves the mark of a stream on; its row.
fn mark(transaction: &Transaction<'_>, epoch: Epoch, clock: ClockStamp, cut: &Cut) -> rusqlite::Result<i64> {
    transaction
        .prepare(
            "INSERT INTO stream (epoch, stream, next_seq, last_position, last_wall, committed) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (epoch, stream) DO UPDATE SET next_seq = excluded.next_seq,
             last_position = coalesce(excluded.last_position, last_position), last_wall = excluded.last_wall,
             committed = excluded.committed RETURNING id",
        )?
        .query_row(
            params![
                epoch.to_string(),
                cut.stream.to_string(),
                cut.end_seq() as i64,
                cut.positions.map(|(_, to)| to.0 as i64),
                cut.span.1.0,
                clock.wall.0
            ],
            |row| row.get(0),
        )
}

fn insert(transaction: &Transaction<'_>, stream: i64, cut: &Cut, ran: i64, blob: &[u8]) -> rusqlite::Result<()> {
    let fidelity = (cut.stream.kind == StreamKind::Readings).then_some(rank(cut.body.fidelity()));
    let (from_position, to_position) = cut.positions.map(|(from, to)| (from.0 as i64, to.0 as i64)).unzip();
    transaction
        .prepare(
            "INSERT INTO batch (stream, first_seq, end_seq, class, fidelity, sent, given_up, from_position, to_position, from_wall, to_wall,
             ran, length) VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            stream,
            cut.first_seq as i64,
            cut.end_seq() as i64,
            class_number(cut.stream.kind.class()),
            fidelity,
            from_position,
            to_position,
            cut.span.0.0,
            cut.span.1.0,
            ran,
            blob.len() as i64
        ])?;
    transaction.prepare("INSERT INTO blob (id, checksum, bytes) VALUES (?1, ?2, ?3)")?.execute(params![
        transaction.last_insert_rowid(),
        checksum(blob),
        blob
    ])?;
    Ok(())
}

fn delete(transaction: &Transaction<'_>, rows: &BTreeSet<i64>) -> Result<(), SpoolError> {
    let mut batch = transaction.prepare("DELETE FROM batch WHERE id = ?1")?;
    let mut blob = transaction.prepare("DELETE FROM blob WHERE id = ?1")?;
    for row in rows {
        batch.execute([row])?;
        blob.execute([row])?;
    }
    Ok(())
}

fn lowest_held(connection: &Connection, stream: i64, acked: &BTreeSet<i64>) -> rusqlite::Result<Option<u64>> {
    let mut statement = connection.prepare("SELECT id, first_seq FROM batch WHERE stream = ?1 AND given_up = 0 ORDER BY first_seq")?;
    let mut rows = statement.query([stream])?;
    while let Some(row) = rows.next()? {
        if !acked.contains(&row.get(0)?) {
            return Ok(Some(row.get::<_, i64>(1)? as u64));
        }
    }
    Ok(None)
}

/// What `given_up` holds: 0 is not given up.
fn given_up(reason: Reason) -> i64 {
    1 + Reason::ALL.iter().position(|other| *other == reason).expect("it lists all") as i64
}

fn class_number(class: Class) -> i64 {
    match class {
        Class::Vital => 0,
        Class::Normal => 1,
        Class::Bulk => 2,
    }
}

fn rank(fidelity: Fidelity) -> i64 {
    match fidelity {
        Fidelity::Sketch => 0,
        Fidelity::Downsampled => 1,
        Fidelity::Raw => 2,
    }
}

/// Eight bytes are enough to find a broken page; who forges the disk can forge the checksum.
fn checksum(blob: &[u8]) -> Vec<u8> {
    Digest::of(blob).0[..8].to_vec()
}

fn parsed<T: FromStr>(text: String) -> Result<T, SpoolError> {
    text.parse().map_err(|_| SpoolError::Value(text))
}

#[cfg(test)]
mod tests;

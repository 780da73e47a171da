//! The spool: batches of normal and bulk streams on disk until the server has committed them.
//!
//! Invariant: a batch is written once and never changed; it leaves only after an ack ([`Spool::delete`]) or through
//! [`Spool::give_up`] and [`Spool::forget`], between which its ledger entry becomes durable elsewhere. A batch that was ever handed out
//! for sending is not given up, because the server may have it. WAL with synchronous=NORMAL: the death of the process loses
//! nothing committed. Not here: vital streams and the ledger (`state`), when to commit (`keeper`).

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use wayside_common::{
    gap::{Extent, Gap, Reason},
    id::{Class, Digest, Epoch, StreamId},
    record::{Batch, Body},
    schedule::Position,
    sync::sender::BatchKey,
    time::{ClockStamp, Wall},
    wire,
};

/// `[spool]` of the configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Batches beyond this are given up: bulk before normal, old before new.
    pub max_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_bytes: 64 * 1024 * 1024 }
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
    #[error("the spool holds {0:?}, which is not a name")]
    Name(String),
    #[error("the spool's file cannot be moved aside: {0}")]
    Aside(#[from] std::io::Error),
}

#[derive(Debug)]
pub struct Spool {
    connection: Connection,
    /// Of all blobs that are not given up.
    bytes: u64,
    max_bytes: u64,
    /// Handed out for sending while the disk refused to take that down.
    sent: Vec<i64>,
}

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS batch (
    id INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL, stream TEXT NOT NULL, first_seq INTEGER NOT NULL, end_seq INTEGER NOT NULL,
    class INTEGER NOT NULL, given_up INTEGER NOT NULL DEFAULT 0,
    from_position INTEGER, to_position INTEGER, from_wall INTEGER NOT NULL, to_wall INTEGER NOT NULL,
    length INTEGER NOT NULL, checksum BLOB NOT NULL, blob BLOB NOT NULL,
    UNIQUE (epoch, stream, first_seq));
CREATE TABLE IF NOT EXISTS sent (batch INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS stream (
    epoch TEXT NOT NULL, stream TEXT NOT NULL, next_seq INTEGER NOT NULL, last_position INTEGER,
    last_wall INTEGER NOT NULL, committed INTEGER NOT NULL, PRIMARY KEY (epoch, stream)) WITHOUT ROWID;
";

impl Spool {
    /// Opens `spool.db` in `dir`. A file that SQLite cannot use is moved aside; then the second part says why.
    pub fn open(dir: &Path, config: &Config) -> Result<(Self, Option<String>), SpoolError> {
        let path = dir.join("spool.db");
        let reason = match Self::open_file(&path, config) {
            Ok(spool) => return Ok((spool, None)),
            Err(SpoolError::Sqlite(error)) if is_damage(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        set_aside(&path)?;
        Ok((Self::open_file(&path, config)?, Some(reason)))
    }

    fn open_file(path: &Path, config: &Config) -> Result<Self, SpoolError> {
        let connection = Connection::open(path)?;
        // One agent per folder; and the log's index lies in RAM, not in a file of its own.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.busy_timeout(Duration::ZERO)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute_batch(SCHEMA)?;
        let bytes: i64 = connection.query_row("SELECT coalesce(sum(length), 0) FROM batch WHERE given_up = 0", [], |row| row.get(0))?;
        Ok(Self { connection, bytes: bytes as u64, max_bytes: config.max_bytes, sent: Vec::new() })
    }

    /// Encodes and commits `cuts` in one transaction: all of them, or none.
    pub fn append(&mut self, epoch: Epoch, clock: ClockStamp, cuts: &[Cut]) -> Result<Vec<HeldBatch>, SpoolError> {
        let transaction = self.connection.transaction()?;
        let mut held = Vec::with_capacity(cuts.len());
        let mut bytes = 0;
        for cut in cuts {
            let (epoch_text, stream) = (epoch.to_string(), cut.stream.to_string());
            let lowest: Option<i64> = transaction
                .prepare("SELECT min(first_seq) FROM batch WHERE epoch = ?1 AND stream = ?2 AND given_up = 0")?
                .query_row(params![epoch_text, stream], |row| row.get(0))?;
            let batch = Batch {
                epoch,
                stream: cut.stream.clone(),
                first_seq: cut.first_seq,
                lowest_held: lowest.map_or(cut.first_seq, |lowest| cut.first_seq.min(lowest as u64)),
                clock,
                body: cut.body.clone(),
            };
            let class = cut.stream.kind.class();
            let end_seq = cut.end_seq();
            let blob = wire::encode_batch(&batch);
            let blob_bytes = blob.len() as u64;
            let (from_position, to_position) = cut.positions.map(|(from, to)| (from.0 as i64, to.0 as i64)).unzip();
            transaction
                .prepare(
                    "INSERT INTO batch (epoch, stream, first_seq, end_seq, class, from_position, to_position, from_wall, to_wall, length,
                     checksum, blob) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                )?
                .execute(params![
                    epoch_text,
                    stream,
                    cut.first_seq as i64,
                    end_seq as i64,
                    rank(class),
                    from_position,
                    to_position,
                    cut.span.0.0,
                    cut.span.1.0,
                    blob.len() as i64,
                    checksum(&blob),
                    blob
                ])?;
            transaction
                .prepare(
                    "INSERT INTO stream (epoch, stream, next_seq, last_position, last_wall, committed) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (epoch, stream) DO UPDATE SET next_seq = excluded.next_seq,
                     last_position = coalesce(excluded.last_position, last_position), last_wall = excluded.last_wall,
                     committed = excluded.committed",
                )?
                .execute(params![epoch_text, stream, end_seq as i64, to_position, cut.span.1.0, clock.wall.0])?;
            bytes += blob_bytes;
            let key = BatchKey { class, epoch, first_seq: cut.first_seq, stream: cut.stream.clone() };
            held.push(HeldBatch { key, end_seq, bytes: blob_bytes });
        }
        transaction.commit()?;
        self.bytes += bytes;
        Ok(held)
    }

    /// Every batch that is to be sent.
    pub fn held(&self) -> Result<Vec<HeldBatch>, SpoolError> {
        let mut statement =
            self.connection.prepare("SELECT epoch, stream, first_seq, end_seq, length FROM batch WHERE given_up = 0 ORDER BY id")?;
        let mut rows = statement.query([])?;
        let mut held = Vec::new();
        while let Some(row) = rows.next()? {
            let stream: StreamId = name(row.get(1)?)?;
            let key = BatchKey { class: stream.kind.class(), epoch: name(row.get(0)?)?, first_seq: row.get::<_, i64>(2)? as u64, stream };
            held.push(HeldBatch { key, end_seq: row.get::<_, i64>(3)? as u64, bytes: row.get::<_, i64>(4)? as u64 });
        }
        Ok(held)
    }

    /// How far every (epoch, stream) is durable.
    pub fn marks(&self) -> Result<Vec<Mark>, SpoolError> {
        let mut statement = self.connection.prepare(
            "SELECT epoch, stream, next_seq, last_position, last_wall, committed, (SELECT min(first_seq) FROM batch
             WHERE batch.epoch = stream.epoch AND batch.stream = stream.stream AND given_up = 0) FROM stream",
        )?;
        let mut rows = statement.query([])?;
        let mut marks = Vec::new();
        while let Some(row) = rows.next()? {
            marks.push(Mark {
                epoch: name(row.get(0)?)?,
                stream: name(row.get(1)?)?,
                next_seq: row.get::<_, i64>(2)? as u64,
                last_position: row.get::<_, Option<i64>>(3)?.map(|p| Position(p as u64)),
                last_wall: Wall(row.get(4)?),
                committed: Wall(row.get(5)?),
                lowest_held: row.get::<_, Option<i64>>(6)?.map(|seq| seq as u64),
            });
        }
        Ok(marks)
    }

    /// The bytes of a batch, to be sent now. From here on it cannot be given up. A full disk does not stop the sending, which is
    /// what frees it: then RAM remembers.
    pub fn take(&mut self, key: &BatchKey) -> Result<Taken, SpoolError> {
        let found = self
            .connection
            .prepare("SELECT id, checksum, blob FROM batch WHERE epoch = ?1 AND stream = ?2 AND first_seq = ?3 AND given_up = 0")?
            .query_row(params![key.epoch.to_string(), key.stream.to_string(), key.first_seq as i64], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Vec<u8>>(2)?))
            })
            .optional()?;
        let Some((row, expected, blob)) = found else { return Ok(Taken::Gone) };
        if checksum(&blob) != expected {
            return Ok(Taken::Damaged);
        }
        let noted = self.connection.prepare("INSERT OR IGNORE INTO sent (batch) VALUES (?1)")?.execute([row]);
        if noted.is_err() && !self.sent.contains(&row) {
            self.sent.push(row);
        }
        Ok(Taken::Blob(blob))
    }

    /// Frees batches that the server has committed.
    pub fn delete(&mut self, keys: &[BatchKey]) -> Result<(), SpoolError> {
        let transaction = self.connection.transaction()?;
        let mut freed = 0;
        for key in keys {
            let row = transaction
                .prepare("DELETE FROM batch WHERE epoch = ?1 AND stream = ?2 AND first_seq = ?3 RETURNING id, length")?
                .query_row(params![key.epoch.to_string(), key.stream.to_string(), key.first_seq as i64], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
                })
                .optional()?;
            if let Some((row, length)) = row {
                transaction.prepare("DELETE FROM sent WHERE batch = ?1")?.execute([row])?;
                freed += length as u64;
            }
        }
        transaction.commit()?;
        self.bytes = self.bytes.saturating_sub(freed);
        Ok(())
    }

    /// Marks what has to go so that the rest fits: bulk before normal, old before new, nothing that was ever sent. From now on
    /// it is not handed out; [`Spool::forget`] deletes it once its entries, [`Spool::given_up`], are in the ledger.
    pub fn give_up(&mut self) -> Result<Vec<BatchKey>, SpoolError> {
        if self.bytes <= self.max_bytes {
            return Ok(Vec::new());
        }
        let transaction = self.connection.transaction()?;
        // A sixteenth more than needed, so that a full spool is not searched at every commit.
        let mut excess = self.bytes - self.max_bytes + self.max_bytes / 16;
        let mut keys = Vec::new();
        {
            let mut candidates = transaction.prepare(
                "SELECT id, epoch, stream, first_seq, length FROM batch
                 WHERE given_up = 0 AND id NOT IN (SELECT batch FROM sent) ORDER BY class DESC, id",
            )?;
            let mut rows = candidates.query([])?;
            while let Some(row) = rows.next()?
                && excess > 0
            {
                if self.sent.contains(&row.get(0)?) {
                    continue;
                }
                let stream: StreamId = name(row.get(2)?)?;
                let key =
                    BatchKey { class: stream.kind.class(), epoch: name(row.get(1)?)?, first_seq: row.get::<_, i64>(3)? as u64, stream };
                excess = excess.saturating_sub(row.get::<_, i64>(4)? as u64);
                keys.push((row.get::<_, i64>(0)?, row.get::<_, i64>(4)?, key));
            }
        }
        for (row, ..) in &keys {
            transaction.prepare("UPDATE batch SET given_up = ?2 WHERE id = ?1")?.execute([*row, given_up(Reason::Evicted)])?;
        }
        transaction.commit()?;
        self.bytes = self.bytes.saturating_sub(keys.iter().map(|(_, length, _)| *length as u64).sum());
        Ok(keys.into_iter().map(|(.., key)| key).collect())
    }

    /// Marks a batch as given up although it may have been sent: it cannot be read back, or the server has refused it.
    pub fn give_up_for(&mut self, key: &BatchKey, reason: Reason) -> Result<(), SpoolError> {
        self.connection.execute(
            "UPDATE batch SET given_up = ?4 WHERE epoch = ?1 AND stream = ?2 AND first_seq = ?3",
            params![key.epoch.to_string(), key.stream.to_string(), key.first_seq as i64, given_up(reason)],
        )?;
        Ok(())
    }

    /// The ledger entries of all batches that are given up and not yet forgotten: also of those from before a restart.
    pub fn given_up(&self) -> Result<Vec<Gap>, SpoolError> {
        let mut statement = self.connection.prepare(
            "SELECT epoch, stream, first_seq, end_seq, from_position, to_position, from_wall, to_wall, given_up FROM batch
             WHERE given_up > 0 ORDER BY id",
        )?;
        let mut rows = statement.query([])?;
        let mut gaps = Vec::new();
        while let Some(row) = rows.next()? {
            let (from, to): (Option<i64>, Option<i64>) = (row.get(4)?, row.get(5)?);
            gaps.push(Gap {
                epoch: name(row.get(0)?)?,
                stream: name(row.get(1)?)?,
                extent: Extent::Exact { first_seq: row.get::<_, i64>(2)? as u64, last_seq: (row.get::<_, i64>(3)? - 1) as u64 },
                positions: from.zip(to).map(|(from, to)| (Position(from as u64), Position(to as u64))),
                span: (Wall(row.get(6)?), Wall(row.get(7)?)),
                reason: Reason::ALL[row.get::<_, i64>(8)? as usize - 1],
            });
        }
        Ok(gaps)
    }

    /// Deletes what is given up: call it after its entries are durable in the ledger. Were it the other way round, a death between
    /// the two would be silent loss; this way it only enters the same ranges twice.
    pub fn forget(&mut self) -> Result<(), SpoolError> {
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM sent WHERE batch IN (SELECT id FROM batch WHERE given_up > 0)", [])?;
        transaction.execute("DELETE FROM batch WHERE given_up > 0", [])?;
        Ok(transaction.commit()?)
    }

    /// Drops the marks of epochs of which nothing is held any more, except those that `keep`.
    pub fn forget_marks(&mut self, keep: &[Epoch]) -> Result<(), SpoolError> {
        let old: Vec<String> =
            self.marks()?.into_iter().filter(|mark| !keep.contains(&mark.epoch)).map(|mark| mark.epoch.to_string()).collect();
        for epoch in old {
            self.connection.execute(
                "DELETE FROM stream WHERE epoch = ?1 AND NOT EXISTS (SELECT 1 FROM batch WHERE batch.epoch = ?1)",
                params![epoch],
            )?;
        }
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Breaks things on purpose.
    #[cfg(test)]
    pub(crate) fn execute_batch(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.execute_batch(sql)
    }

    #[cfg(test)]
    fn limit_pages(&self, pages: u32) {
        self.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).expect("SQLite knows the pragma");
    }
}

/// What `given_up` holds: 0 is not given up.
fn given_up(reason: Reason) -> i64 {
    1 + Reason::ALL.iter().position(|other| *other == reason).expect("it lists all") as i64
}

/// The order in which classes are given up, last first.
fn rank(class: Class) -> i64 {
    match class {
        Class::Vital => 0,
        Class::Normal => 1,
        Class::Bulk => 2,
    }
}

/// Eight bytes are enough to find a broken page; who forges the disk can forge the checksum.
fn checksum(blob: &[u8]) -> Vec<u8> {
    Digest::of(blob).0[..8].to_vec()
}

fn name<T: FromStr>(text: String) -> Result<T, SpoolError> {
    text.parse().map_err(|_| SpoolError::Name(text))
}

/// Is the file itself broken, as opposed to a full or locked disk?
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

fn set_aside(path: &Path) -> std::io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let from = PathBuf::from(format!("{}{suffix}", path.display()));
        if from.exists() {
            std::fs::rename(&from, format!("{}{suffix}.damaged", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wayside_common::{
        block::Block,
        reading::Reading,
        time::{Mono, WallQuality},
    };

    use super::*;
    use crate::scratch::Scratch;

    const EPOCH: Epoch = Epoch { counter: 1, nonce: 2 };
    const CLOCK: ClockStamp = ClockStamp { mono: Mono(9_000_000), wall: Wall(1_000_000), quality: WallQuality::Plausible };

    fn cut(stream: &str, first_seq: u64, rows: u64) -> Cut {
        // Times that no codec makes small: how much a batch takes is what some tests are about.
        let noise = |i: u64| Mono(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24);
        let readings: Vec<Reading> =
            (0..rows).map(|i| Reading { position: Position(first_seq + i), mono: noise(i), values: vec![] }).collect();
        let wall = |seq: u64| Wall(500_000).plus(Duration::from_secs(seq));
        Cut {
            stream: stream.parse().unwrap(),
            first_seq,
            body: Body::Readings(Block::pack(&[], &readings).unwrap()),
            positions: Some((Position(first_seq), Position(first_seq + rows - 1))),
            span: (wall(first_seq), wall(first_seq + rows - 1)),
        }
    }

    fn open(dir: &Scratch) -> Spool {
        let (spool, damage) = Spool::open(dir.path(), &Config::default()).unwrap();
        assert_eq!(damage, None);
        spool
    }

    fn decoded(taken: Taken) -> Batch {
        let Taken::Blob(blob) = taken else { panic!("{taken:?}") };
        wire::decode(&blob).unwrap()
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart_and_its_mark_outlives_the_ack() {
        let dir = Scratch::new();
        let mut spool = open(&dir);
        let held = spool.append(EPOCH, CLOCK, &[cut("imu0.readings", 0, 10), cut("imu0.readings", 10, 5)]).unwrap();
        drop(spool);
        let mut spool = open(&dir);
        assert_eq!(spool.held().unwrap(), held);
        let second = decoded(spool.take(&held[1].key).unwrap());
        assert_eq!((second.first_seq, second.end_seq(), second.lowest_held), (10, 15, 0));
        spool.delete(&[held[0].key.clone(), held[1].key.clone()]).unwrap();
        assert_eq!((spool.take(&held[0].key).unwrap(), spool.bytes()), (Taken::Gone, 0));
        let marks = spool.marks().unwrap();
        assert_eq!((marks.len(), marks[0].next_seq, marks[0].last_position), (1, 15, Some(Position(14))));
        assert_eq!((marks[0].last_wall, marks[0].committed), (Wall(514_000), Wall(1_000_000)));
        let held = spool.append(EPOCH, CLOCK, &[cut("imu0.readings", 15, 1)]).unwrap();
        assert_eq!(decoded(spool.take(&held[0].key).unwrap()).lowest_held, 15);
    }

    #[test]
    fn for_room_old_bulk_goes_first_and_nothing_that_was_sent() {
        let dir = Scratch::new();
        let (mut spool, _) = Spool::open(dir.path(), &Config { max_bytes: 1 }).unwrap();
        let cuts = [cut("cam0.frames", 0, 1), cut("imu0.readings", 0, 10), cut("imu0.readings", 10, 10), cut("imu0.readings", 20, 10)];
        let held = spool.append(EPOCH, CLOCK, &cuts).unwrap();
        spool.take(&held[1].key).unwrap();
        let all = spool.bytes();
        spool.max_bytes = all - 1;
        assert_eq!(spool.give_up().unwrap(), [held[2].key.clone()]);
        assert_eq!(spool.take(&held[2].key).unwrap(), Taken::Gone);
        drop(spool);

        let mut spool = open(&dir);
        let gaps = spool.given_up().unwrap();
        assert_eq!(gaps, [cuts[2].lost(EPOCH, Reason::Evicted)]);
        spool.forget().unwrap();
        assert_eq!(spool.given_up().unwrap(), []);
        spool.max_bytes = 1;
        assert_eq!(spool.give_up().unwrap(), [held[3].key.clone(), held[0].key.clone()]);
        assert_eq!(spool.held().unwrap(), [held[1].clone()]);
    }

    #[test]
    fn a_full_disk_refuses_the_whole_transaction_and_the_spool_works_afterwards() {
        let dir = Scratch::new();
        let mut spool = open(&dir);
        spool.limit_pages(12);
        let big: Vec<Cut> = (0..40).map(|i| cut("imu0.readings", i * 2_000, 2_000)).collect();
        assert!(spool.append(EPOCH, CLOCK, &big).is_err());
        assert_eq!((spool.held().unwrap(), spool.marks().unwrap()), (vec![], vec![]));
        spool.limit_pages(100_000);
        assert_eq!(spool.append(EPOCH, CLOCK, &big).unwrap().len(), 40);
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_a_damaged_batch_is_named() {
        let dir = Scratch::new();
        let mut spool = open(&dir);
        let held = spool.append(EPOCH, CLOCK, &[cut("imu0.readings", 0, 3)]).unwrap();
        spool.connection.execute("UPDATE batch SET blob = zeroblob(5)", []).unwrap();
        assert_eq!(spool.take(&held[0].key).unwrap(), Taken::Damaged);
        spool.give_up_for(&held[0].key, Reason::SpoolLost).unwrap();
        assert_eq!(spool.given_up().unwrap(), [cut("imu0.readings", 0, 3).lost(EPOCH, Reason::SpoolLost)]);
        drop(spool);

        for suffix in ["", "-wal", "-shm"] {
            let path = dir.path().join(format!("spool.db{suffix}"));
            if path.exists() {
                std::fs::write(path, [7; 5_000]).unwrap();
            }
        }
        let (spool, damage) = Spool::open(dir.path(), &Config::default()).unwrap();
        assert!(damage.is_some());
        assert_eq!(spool.held().unwrap(), []);
        assert!(dir.path().join("spool.db.damaged").exists());
    }

    #[test]
    fn marks_of_old_epochs_go_when_nothing_of_them_is_held() {
        let dir = Scratch::new();
        let mut spool = open(&dir);
        let second = Epoch { counter: 2, nonce: 3 };
        let held = spool.append(EPOCH, CLOCK, &[cut("imu0.readings", 0, 3)]).unwrap();
        spool.append(second, CLOCK, &[cut("imu0.readings", 0, 3)]).unwrap();
        spool.forget_marks(&[second]).unwrap();
        assert_eq!(spool.marks().unwrap().len(), 2);
        spool.delete(&[held[0].key.clone()]).unwrap();
        spool.forget_marks(&[second]).unwrap();
        assert_eq!(spool.marks().unwrap().len(), 1);
    }
}

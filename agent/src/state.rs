//! `state.db`: what the device must not forget. Epochs, the gap ledger, the vital stream, trust documents, the update, the slots.
//!
//! Invariant: synchronous=FULL, so what a method has returned survives a power cut; a transition and the report that tells of it
//! are one transaction. Nothing that happens to the spool touches this file. Not here: bulk (`spool`), what a transition means
//! (`updater`), what is known of a lost one (`state/lost`).

pub mod check;
pub mod database;
mod lost;

use std::{path::Path, str::FromStr, time::Duration};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use wayside_common::{
    fleet::{Generation, ModelRef, StreamHold},
    gap::{Extent, Gap, Reason},
    id::{Class, Digest, Epoch, SlotName, SourceName, StreamId},
    record::{Batch, Body, Fact, Report},
    schedule::Position,
    sync::sender::BatchKey,
    time::{ClockStamp, Wall},
    wire,
};

use crate::{
    files::{Files, OnDisk, set_aside},
    ledger::merged,
    spool::HeldBatch,
};
use database::{connect, faults, is_damage, is_in_use, reserve};

/// A hello carries at most this many entries; the rest follows when these are acked.
const LEDGER_IN_ONE_HELLO: i64 = 1_000;
/// So many entries outlive their ack.
const LEDGER_KEPT: i64 = 1_000;
/// Of the file and of its log: for the ledger and the reports of a device whose disk is full.
const RESERVE: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the state store: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the state store holds {0:?}, which is not what it should be")]
    Value(String),
    #[error("another agent runs on this data folder")]
    InUse,
    #[error("the damaged state store cannot be moved aside: {0}")]
    Aside(#[from] std::io::Error),
}

/// An epoch of an earlier start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastEpoch {
    pub epoch: Epoch,
    pub started: Wall,
    /// It ended with everything written.
    pub clean: bool,
}

/// Where the items of a timed source are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    pub at: Wall,
    pub period: Duration,
}

/// The model of one slot, and the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRow {
    pub slot: SlotName,
    pub active: ModelRef,
    pub previous: Option<Digest>,
}

/// What a hello tells of the gap ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Ledger {
    /// As in `Hello::ledger_base`.
    pub base: u64,
    /// The version that acks `gaps`.
    pub version: u64,
    pub gaps: Vec<Gap>,
}

#[derive(Debug)]
pub struct State {
    connection: Connection,
}

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS epoch (
    counter INTEGER PRIMARY KEY, epoch TEXT NOT NULL, started INTEGER NOT NULL, clean INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS anchor (source TEXT PRIMARY KEY, at INTEGER NOT NULL, period_us INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS timetable (source TEXT PRIMARY KEY, since INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounted (stream TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (
    version INTEGER PRIMARY KEY AUTOINCREMENT, epoch TEXT NOT NULL, stream TEXT NOT NULL, gap BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS vital (
    epoch TEXT NOT NULL, stream TEXT NOT NULL, first_seq INTEGER NOT NULL, end_seq INTEGER NOT NULL, blob BLOB NOT NULL,
    PRIMARY KEY (epoch, stream, first_seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vital_next (epoch TEXT, stream TEXT, next_seq INTEGER NOT NULL, PRIMARY KEY (epoch, stream)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trust (role TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS single (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slot (slot TEXT PRIMARY KEY, model BLOB NOT NULL, previous BLOB) WITHOUT ROWID;
";

impl State {
    /// Opens `state.db` in `dir`. A file that SQLite cannot use is moved aside; the new one says so in [`State::damage`] until
    /// [`State::repaired`].
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        Self::open_in(&OnDisk, dir)
    }

    /// The same in another kind of folder.
    pub fn open_in(files: &dyn Files, dir: &Path) -> Result<Self, StateError> {
        let path = dir.join("state.db");
        let reason = match Self::open_file(files, &path)? {
            Ok(state) => return Ok(state),
            Err(reason) => reason,
        };
        set_aside(files, &path)?;
        let mut state = Self::open_file(files, &path)?.map_err(StateError::Value)?;
        state.note_damage(&reason)?;
        Ok(state)
    }

    /// `Err` inside: the file is damaged.
    fn open_file(files: &dyn Files, path: &Path) -> Result<Result<Self, String>, StateError> {
        let open = || -> rusqlite::Result<Result<Connection, String>> {
            let mut connection = connect(path)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            // The store is small; so is its log.
            connection.pragma_update(None, "wal_autocheckpoint", 64)?;
            if let Some(fault) = faults(&connection, None)?.into_iter().next() {
                return Ok(Err(fault));
            }
            let transaction = connection.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            transaction.commit()?;
            if let Err(error) = reserve(&mut connection, files, path, RESERVE) {
                tracing::warn!(%error, "the state store has no bytes in reserve");
            }
            Ok(Ok(connection))
        };
        match open() {
            Ok(opened) => Ok(opened.map(|connection| Self { connection })),
            Err(error) if is_in_use(&error) => Err(StateError::InUse),
            Err(error) if is_damage(&error) => Ok(Err(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    // Epochs.

    /// The epochs of earlier starts, newest first.
    pub fn past_epochs(&self) -> Result<Vec<PastEpoch>, StateError> {
        let mut statement = self.connection.prepare("SELECT epoch, started, clean FROM epoch ORDER BY counter DESC LIMIT 8")?;
        let mut rows = statement.query([])?;
        let mut past = Vec::new();
        while let Some(row) = rows.next()? {
            past.push(PastEpoch { epoch: parsed(row.get(0)?)?, started: Wall(row.get(1)?), clean: row.get(2)? });
        }
        Ok(past)
    }

    /// Makes `epoch` the present one, enters what its start found missing, and takes over from the spool, which may forget it, how
    /// far each stream was `stored`; all in one transaction.
    pub fn begin_epoch(&mut self, epoch: Epoch, started: Wall, missing: &[Gap], stored: &[(StreamId, Position)]) -> Result<(), StateError> {
        let transaction = self.connection.transaction()?;
        transaction.execute(
            "INSERT INTO epoch (counter, epoch, started) VALUES (?1, ?2, ?3)",
            params![epoch.counter, epoch.to_string(), started.0],
        )?;
        for gap in missing {
            enter(&transaction, gap)?;
            if let Some((_, last)) = gap.positions {
                account(&transaction, &gap.stream, last)?;
            }
        }
        for (stream, last) in stored {
            account(&transaction, stream, *last)?;
        }
        transaction.execute("DELETE FROM epoch WHERE counter <= ?1", [i64::from(epoch.counter) - 16])?;
        transaction.execute("DELETE FROM vital_next WHERE epoch NOT IN (SELECT epoch FROM epoch)", [])?;
        Ok(transaction.commit()?)
    }

    /// Everything of `epoch` is written: the next start need not suspect a loss.
    pub fn end_epoch(&mut self, epoch: Epoch) -> Result<(), StateError> {
        self.connection.execute("UPDATE epoch SET clean = 1 WHERE epoch = ?1", [epoch.to_string()])?;
        Ok(())
    }

    /// The anchor of a timed source: the one it had with this period, or `proposed` from now on. A new one counts its positions
    /// anew, from the next epoch on.
    pub fn anchor(&mut self, source: &SourceName, proposed: Anchor, fixed: bool) -> Result<Anchor, StateError> {
        let period_us = proposed.period.as_micros() as i64;
        let known: Option<(i64, i64)> = self
            .connection
            .query_row("SELECT at, period_us FROM anchor WHERE source = ?1", [source.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match known {
            Some((at, period)) if period == period_us && (!fixed || at == proposed.at.0) => {
                Ok(Anchor { at: Wall(at), period: proposed.period })
            }
            _ => {
                let transaction = self.connection.transaction()?;
                transaction.execute(
                    "INSERT INTO anchor (source, at, period_us) VALUES (?1, ?2, ?3)
                     ON CONFLICT (source) DO UPDATE SET at = excluded.at, period_us = excluded.period_us",
                    params![source.as_str(), proposed.at.0, period_us],
                )?;
                transaction.execute(
                    "INSERT INTO timetable (source, since) VALUES (?1, (SELECT coalesce(max(counter), 0) + 1 FROM epoch))
                     ON CONFLICT (source) DO UPDATE SET since = excluded.since",
                    [source.as_str()],
                )?;
                transaction.execute("DELETE FROM accounted WHERE substr(stream, 1, length(?1) + 1) = ?1 || '.'", [source.as_str()])?;
                transaction.commit()?;
                Ok(proposed)
            }
        }
    }

    /// The counter of the first epoch whose positions are those of the source's present timetable.
    pub fn timetable_since(&self, source: &SourceName) -> Result<u32, StateError> {
        timetable_since(&self.connection, source)
    }

    // The gap ledger.

    pub fn enter_gaps(&mut self, gaps: &[Gap]) -> Result<(), StateError> {
        let transaction = self.connection.transaction()?;
        for gap in gaps {
            enter(&transaction, gap)?;
            if let Some((_, last)) = gap.positions
                && gap.epoch.counter >= timetable_since(&transaction, &gap.stream.source)?
            {
                account(&transaction, &gap.stream, last)?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// The entries that are not acked, oldest first.
    pub fn ledger(&self) -> Result<Ledger, StateError> {
        let acked: u64 = self.single("ledger_acked")?.unwrap_or(0);
        let older: i64 = self.connection.query_row("SELECT count(*) FROM ledger WHERE version <= ?1", [acked as i64], |row| row.get(0))?;
        let mut statement = self.connection.prepare("SELECT version, gap FROM ledger WHERE version > ?1 ORDER BY version LIMIT ?2")?;
        let mut rows = statement.query([acked as i64, LEDGER_IN_ONE_HELLO])?;
        let mut ledger = Ledger { base: if older > 0 { acked } else { 0 }, version: acked, gaps: Vec::new() };
        while let Some(row) = rows.next()? {
            ledger.version = row.get::<_, i64>(0)? as u64;
            ledger.gaps.push(decoded(&row.get::<_, Vec<u8>>(1)?)?);
        }
        Ok(ledger)
    }

    /// The server has the ledger up to `version`: more than before, or less, if it was restored from a backup. So the newest entries
    /// stay when they are acked.
    pub fn ledger_acked(&mut self, version: u64) -> Result<(), StateError> {
        let transaction = self.connection.transaction()?;
        save_single(&transaction, "ledger_acked", &version)?;
        transaction.execute(
            "DELETE FROM ledger WHERE version <= ?1 AND version <= (SELECT max(version) FROM ledger) - ?2",
            [version as i64, LEDGER_KEPT],
        )?;
        Ok(transaction.commit()?)
    }

    /// The highest position of `stream` that stands, or stood, in the ledger, or was stored when an epoch began.
    pub fn accounted(&self, stream: &StreamId) -> Result<Option<Position>, StateError> {
        let found = self
            .connection
            .query_row("SELECT position FROM accounted WHERE stream = ?1", [stream.to_string()], |row| row.get::<_, i64>(0))
            .optional()?;
        Ok(found.map(|position| Position(position as u64)))
    }

    // The vital stream.

    /// Appends reports to the vital stream.
    pub fn report(&mut self, epoch: Epoch, clock: ClockStamp, facts: Vec<Fact>) -> Result<Option<HeldBatch>, StateError> {
        let transaction = self.connection.transaction()?;
        let held = append_reports(&transaction, epoch, clock, facts)?;
        transaction.commit()?;
        Ok(held)
    }

    pub fn held(&self) -> Result<Vec<HeldBatch>, StateError> {
        let mut statement = self.connection.prepare("SELECT epoch, stream, first_seq, end_seq, length(blob) FROM vital")?;
        let mut rows = statement.query([])?;
        let mut held = Vec::new();
        while let Some(row) = rows.next()? {
            let key = BatchKey {
                class: Class::Vital,
                epoch: parsed(row.get(0)?)?,
                first_seq: row.get::<_, i64>(2)? as u64,
                stream: parsed(row.get(1)?)?,
            };
            held.push(HeldBatch { key, end_seq: row.get::<_, i64>(3)? as u64, bytes: row.get::<_, i64>(4)? as u64 });
        }
        Ok(held)
    }

    /// What is held of each (epoch, stream) of the vital class; none of them is said to be closed.
    pub fn vital_holds(&self) -> Result<Vec<StreamHold>, StateError> {
        let mut statement = self.connection.prepare(
            "SELECT epoch, stream, next_seq, (SELECT min(first_seq) FROM vital
             WHERE vital.epoch = vital_next.epoch AND vital.stream = vital_next.stream) FROM vital_next",
        )?;
        let mut rows = statement.query([])?;
        let mut holds = Vec::new();
        while let Some(row) = rows.next()? {
            let next = row.get::<_, i64>(2)? as u64;
            let lowest_held = row.get::<_, Option<i64>>(3)?.map_or(next, |seq| seq as u64);
            holds.push(StreamHold { epoch: parsed(row.get(0)?)?, stream: parsed(row.get(1)?)?, lowest_held, next, closed: false });
        }
        Ok(holds)
    }

    pub fn vital(&self, key: &BatchKey) -> Result<Option<Vec<u8>>, StateError> {
        let sql = "SELECT blob FROM vital WHERE epoch = ?1 AND stream = ?2 AND first_seq = ?3";
        let at = params![key.epoch.to_string(), key.stream.to_string(), key.first_seq as i64];
        Ok(self.connection.query_row(sql, at, |row| row.get(0)).optional()?)
    }

    pub fn delete_vital(&mut self, keys: &[BatchKey]) -> Result<(), StateError> {
        let transaction = self.connection.transaction()?;
        for key in keys {
            transaction.execute(
                "DELETE FROM vital WHERE epoch = ?1 AND stream = ?2 AND first_seq = ?3",
                params![key.epoch.to_string(), key.stream.to_string(), key.first_seq as i64],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// The server can never store this batch: it goes, and the ledger says so.
    pub fn refuse_vital(&mut self, key: &BatchKey, now: Wall) -> Result<(), StateError> {
        let transaction = self.connection.transaction()?;
        let at = params![key.epoch.to_string(), key.stream.to_string(), key.first_seq as i64];
        let sql = "DELETE FROM vital WHERE epoch = ?1 AND stream = ?2 AND first_seq = ?3 RETURNING end_seq, blob";
        let found: Option<(i64, Vec<u8>)> = transaction.query_row(sql, at, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((end_seq, blob)) = found else { return Ok(()) };
        // A blob that not even its writer can read tells no time.
        let wall = wire::decode::<Batch>(&blob).map_or(now, |batch| batch.clock.wall);
        let extent = Extent::Exact { first_seq: key.first_seq, last_seq: end_seq as u64 - 1 };
        let (epoch, stream) = (key.epoch, key.stream.clone());
        enter(&transaction, &Gap { epoch, stream, extent, positions: None, span: (wall, wall), reason: Reason::Refused })?;
        Ok(transaction.commit()?)
    }

    // Trust, the update, the slots.

    pub fn trust(&self, role: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.connection.query_row("SELECT document FROM trust WHERE role = ?1", [role], |row| row.get(0)).optional()?)
    }

    /// The highest generation ever obeyed.
    pub fn generation(&self) -> Result<Generation, StateError> {
        self.single("generation").map(|found| found.unwrap_or_default())
    }

    /// The update's own record, as it was last written.
    pub fn update(&self) -> Result<Option<Vec<u8>>, StateError> {
        self.single("update")
    }

    pub fn slots(&self) -> Result<Vec<SlotRow>, StateError> {
        let mut statement = self.connection.prepare("SELECT slot, model, previous FROM slot")?;
        let mut rows = statement.query([])?;
        let mut slots = Vec::new();
        while let Some(row) = rows.next()? {
            let previous: Option<Vec<u8>> = row.get(2)?;
            slots.push(SlotRow {
                slot: parsed(row.get(0)?)?,
                active: decoded(&row.get::<_, Vec<u8>>(1)?)?,
                previous: previous.map(|digest| decoded(&digest)).transpose()?,
            });
        }
        Ok(slots)
    }

    /// Writes what a transition of the updater changes, and its reports, in one transaction.
    pub fn transition(&mut self, epoch: Epoch, clock: ClockStamp, change: Transition) -> Result<Option<HeldBatch>, StateError> {
        let transaction = self.connection.transaction()?;
        for (role, document) in &change.trust {
            transaction.execute(
                "INSERT INTO trust (role, document) VALUES (?1, ?2) ON CONFLICT (role) DO UPDATE SET document = excluded.document",
                params![role, document],
            )?;
        }
        if let Some(generation) = change.generation {
            save_single(&transaction, "generation", &generation)?;
        }
        if let Some(update) = change.update {
            save_single(&transaction, "update", &update)?;
        }
        if let Some(row) = change.slot {
            transaction.execute(
                "INSERT INTO slot (slot, model, previous) VALUES (?1, ?2, ?3)
                 ON CONFLICT (slot) DO UPDATE SET model = excluded.model, previous = excluded.previous",
                params![row.slot.as_str(), wire::encode(&row.active), row.previous.map(|digest| wire::encode(&digest))],
            )?;
        }
        let held = append_reports(&transaction, epoch, clock, change.facts)?;
        transaction.commit()?;
        Ok(held)
    }

    /// Has a store failed on this device, unrepaired since?
    pub fn storage_fault(&self) -> Result<bool, StateError> {
        self.single("storage_fault").map(|found| found.unwrap_or(false))
    }

    pub fn set_storage_fault(&mut self) -> Result<(), StateError> {
        save_single(&self.connection, "storage_fault", &true)
    }

    /// Breaks things on purpose.
    #[cfg(test)]
    pub(crate) fn execute_batch(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.execute_batch(sql)
    }

    /// The newest signed time, by an answer to this device's own question.
    pub fn signed_time(&self) -> Result<Option<Wall>, StateError> {
        self.single("signed_time")
    }

    pub fn set_signed_time(&mut self, at: Wall) -> Result<(), StateError> {
        save_single(&self.connection, "signed_time", &at)
    }

    fn single<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let found: Option<Vec<u8>> =
            self.connection.query_row("SELECT value FROM single WHERE name = ?1", [name], |row| row.get(0)).optional()?;
        found.map(|bytes| decoded(&bytes)).transpose()
    }
}

/// What one step of the updater writes; what is empty stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transition {
    pub trust: Vec<(String, Vec<u8>)>,
    pub generation: Option<Generation>,
    pub update: Option<Vec<u8>>,
    pub slot: Option<SlotRow>,
    pub facts: Vec<Fact>,
}

/// The stream that the agent itself reports on; no source may have this name.
pub fn reports_stream() -> StreamId {
    "agent.reports".parse().expect("it is a stream's name")
}

/// Enters one gap. Where it continues the newest entry of its stream it is merged into it, under a new version; counts stay exact.
fn enter(transaction: &Transaction<'_>, gap: &Gap) -> Result<(), StateError> {
    let (epoch, stream) = (gap.epoch.to_string(), gap.stream.to_string());
    let newest: Option<(i64, Vec<u8>)> = transaction
        .query_row(
            "SELECT version, gap FROM ledger WHERE epoch = ?1 AND stream = ?2 ORDER BY version DESC LIMIT 1",
            params![epoch, stream],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let mut entry = gap.clone();
    if let Some((version, bytes)) = newest
        && let Some(merged) = merged(&decoded(&bytes)?, gap)
    {
        entry = merged;
        transaction.execute("DELETE FROM ledger WHERE version = ?1", [version])?;
    }
    transaction.execute("INSERT INTO ledger (epoch, stream, gap) VALUES (?1, ?2, ?3)", params![epoch, stream, wire::encode(&entry)])?;
    Ok(())
}

/// The mark never falls, and outlives the records and the entries that it was taken from.
fn account(transaction: &Transaction<'_>, stream: &StreamId, last: Position) -> Result<(), StateError> {
    transaction.execute(
        "INSERT INTO accounted (stream, position) VALUES (?1, ?2)
         ON CONFLICT (stream) DO UPDATE SET position = max(position, excluded.position)",
        params![stream.to_string(), last.0 as i64],
    )?;
    Ok(())
}

fn timetable_since(connection: &Connection, source: &SourceName) -> Result<u32, StateError> {
    let sql = "SELECT since FROM timetable WHERE source = ?1";
    Ok(connection.query_row(sql, [source.as_str()], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn append_reports(
    transaction: &Transaction<'_>,
    epoch: Epoch,
    clock: ClockStamp,
    facts: Vec<Fact>,
) -> Result<Option<HeldBatch>, StateError> {
    if facts.is_empty() {
        return Ok(None);
    }
    let stream = reports_stream();
    let (epoch_text, stream_text) = (epoch.to_string(), stream.to_string());
    let first_seq = transaction
        .query_row("SELECT next_seq FROM vital_next WHERE epoch = ?1 AND stream = ?2", params![epoch_text, stream_text], |row| {
            row.get::<_, i64>(0)
        })
        .optional()?
        .unwrap_or(0) as u64;
    let lowest: Option<i64> = transaction.query_row(
        "SELECT min(first_seq) FROM vital WHERE epoch = ?1 AND stream = ?2",
        params![epoch_text, stream_text],
        |row| row.get(0),
    )?;
    let reports: Vec<Report> = facts.into_iter().map(|fact| Report { mono: clock.mono, clock, fact: fact.within_limits() }).collect();
    let end_seq = first_seq + reports.len() as u64;
    let batch = Batch {
        epoch,
        stream: stream.clone(),
        first_seq,
        lowest_held: lowest.map_or(first_seq, |lowest| lowest as u64),
        clock,
        body: Body::Reports(reports),
    };
    let blob = wire::encode_batch(&batch);
    let bytes = blob.len() as u64;
    transaction.execute(
        "INSERT INTO vital (epoch, stream, first_seq, end_seq, blob) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![epoch_text, stream_text, first_seq as i64, end_seq as i64, blob],
    )?;
    transaction.execute(
        "INSERT INTO vital_next (epoch, stream, next_seq) VALUES (?1, ?2, ?3)
         ON CONFLICT (epoch, stream) DO UPDATE SET next_seq = excluded.next_seq",
        params![epoch_text, stream_text, end_seq as i64],
    )?;
    Ok(Some(HeldBatch { key: BatchKey { class: Class::Vital, epoch, first_seq, stream }, end_seq, bytes }))
}

fn save_single<T: serde::Serialize>(connection: &Connection, name: &str, value: &T) -> Result<(), StateError> {
    connection.execute(
        "INSERT INTO single (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        params![name, wire::encode(value)],
    )?;
    Ok(())
}

fn parsed<T: FromStr>(text: String) -> Result<T, StateError> {
    text.parse().map_err(|_| StateError::Value(text))
}

fn decoded<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, StateError> {
    wire::decode(bytes).map_err(|error| StateError::Value(error.to_string()))
}

#[cfg(test)]
mod tests {
    use wayside_common::{
        gap::{Extent, Reason},
        time::{Mono, WallQuality},
    };

    use super::*;
    use crate::scratch::Scratch;

    const EPOCH: Epoch = Epoch { counter: 1, nonce: 2 };
    const CLOCK: ClockStamp = ClockStamp { mono: Mono(9_000_000), wall: Wall(1_000_000), quality: WallQuality::Plausible };

    fn gap(seqs: (u64, u64), positions: Option<(u64, u64)>, reason: Reason) -> Gap {
        Gap {
            epoch: EPOCH,
            stream: "imu0.readings".parse().unwrap(),
            extent: Extent::Exact { first_seq: seqs.0, last_seq: seqs.1 },
            positions: positions.map(|(from, to)| (Position(from), Position(to))),
            span: (Wall(seqs.0 as i64), Wall(seqs.1 as i64)),
            reason,
        }
    }

    #[test]
    fn an_epoch_is_there_after_a_restart_and_unclean_until_it_is_ended() {
        let dir = Scratch::new();
        let mut state = State::open(dir.path()).unwrap();
        assert_eq!(state.past_epochs().unwrap(), []);
        state.begin_epoch(EPOCH, Wall(5), &[], &[]).unwrap();
        drop(state);
        let mut state = State::open(dir.path()).unwrap();
        assert_eq!(state.past_epochs().unwrap(), [PastEpoch { epoch: EPOCH, started: Wall(5), clean: false }]);
        state.end_epoch(EPOCH).unwrap();
        let second = Epoch { counter: 2, nonce: 1 };
        state.begin_epoch(second, Wall(6), &[gap((0, 3), Some((0, 3)), Reason::Evicted)], &[]).unwrap();
        let past = state.past_epochs().unwrap();
        assert_eq!((past[0].epoch, past[0].clean, past[1].clean), (second, false, true));
        assert_eq!(state.accounted(&"imu0.readings".parse().unwrap()).unwrap(), Some(Position(3)));
        assert!(state.begin_epoch(second, Wall(7), &[], &[]).is_err(), "a counter is used once");
    }

    #[test]
    fn a_second_agent_on_the_folder_is_refused() {
        let dir = Scratch::new();
        let state = State::open(dir.path()).unwrap();
        assert!(matches!(State::open(dir.path()), Err(StateError::InUse)));
        drop(state);
        State::open(dir.path()).unwrap();
    }

    #[test]
    fn an_anchor_is_kept_until_the_timetable_changes() {
        let dir = Scratch::new();
        let mut state = State::open(dir.path()).unwrap();
        let source: SourceName = "imu0".parse().unwrap();
        let anchor = |at, period| Anchor { at: Wall(at), period: Duration::from_millis(period) };
        assert_eq!(state.anchor(&source, anchor(100, 10), false).unwrap(), anchor(100, 10));
        assert_eq!(state.anchor(&source, anchor(900, 10), false).unwrap(), anchor(100, 10));
        assert_eq!(state.anchor(&source, anchor(900, 20), false).unwrap(), anchor(900, 20));
        assert_eq!(state.anchor(&source, anchor(50, 20), true).unwrap(), anchor(50, 20));
    }

    #[test]
    fn ledger_entries_that_touch_are_one_and_are_told_until_they_are_acked() {
        let dir = Scratch::new();
        let mut state = State::open(dir.path()).unwrap();
        let parts = [
            gap((0, 9), Some((0, 9)), Reason::Evicted),
            gap((10, 19), Some((10, 19)), Reason::Evicted),
            gap((20, 29), Some((20, 29)), Reason::DiskFull),
            gap((31, 40), Some((31, 40)), Reason::DiskFull),
        ];
        state.enter_gaps(&parts).unwrap();
        let Ledger { base, version, gaps } = state.ledger().unwrap();
        assert_eq!(base, 0);
        assert_eq!(gaps, [gap((0, 19), Some((0, 19)), Reason::Evicted), parts[2].clone(), parts[3].clone()]);
        state.enter_gaps(&[gap((41, 50), Some((41, 50)), Reason::DiskFull)]).unwrap();
        state.ledger_acked(version).unwrap();
        let later = state.ledger().unwrap();
        assert_eq!((later.base, later.gaps), (version, vec![gap((31, 50), Some((31, 50)), Reason::DiskFull)]));
        state.ledger_acked(later.version).unwrap();
        assert_eq!(state.ledger().unwrap(), Ledger { base: later.version, version: later.version, gaps: vec![] });
        // The server was restored from a backup that knows nothing of this device.
        state.ledger_acked(0).unwrap();
        let again = state.ledger().unwrap();
        assert_eq!((again.base, again.version, again.gaps.len()), (0, later.version, 3));
        assert_eq!(state.accounted(&"imu0.readings".parse().unwrap()).unwrap(), Some(Position(50)));
    }

    #[test]
    fn a_transition_and_its_report_are_both_there_after_a_restart() {
        let dir = Scratch::new();
        let mut state = State::open(dir.path()).unwrap();
        let row = SlotRow {
            slot: "vehicles".parse().unwrap(),
            active: ModelRef { name: "vehicles".parse().unwrap(), version: 2, digest: Digest::of(b"new") },
            previous: Some(Digest::of(b"old")),
        };
        let change = Transition {
            trust: vec![("targets".into(), b"{}".to_vec())],
            generation: Some(Generation(4)),
            update: Some(vec![1, 2, 3]),
            slot: Some(row.clone()),
            facts: vec![Fact::Stopping],
        };
        let held = state.transition(EPOCH, CLOCK, change).unwrap().expect("there was a fact");
        let second = state.report(EPOCH, CLOCK, vec![Fact::Stopping, Fact::Stopping]).unwrap().expect("there were facts");
        assert_eq!((second.key.first_seq, second.end_seq), (1, 3));
        drop(state);

        let mut state = State::open(dir.path()).unwrap();
        assert_eq!(state.trust("targets").unwrap(), Some(b"{}".to_vec()));
        assert_eq!((state.generation().unwrap(), state.update().unwrap()), (Generation(4), Some(vec![1, 2, 3])));
        assert_eq!(state.slots().unwrap(), [row]);
        assert_eq!(state.held().unwrap(), [held.clone(), second.clone()]);
        let batch: Batch = wire::decode(&state.vital(&second.key).unwrap().unwrap()).unwrap();
        assert_eq!((batch.first_seq, batch.lowest_held, batch.len()), (1, 0, 2));
        state.delete_vital(&[held.key, second.key]).unwrap();
        assert_eq!(state.held().unwrap(), []);
        let hold = StreamHold { epoch: EPOCH, stream: reports_stream(), lowest_held: 3, next: 3, closed: false };
        assert_eq!(state.vital_holds().unwrap(), [hold]);
    }
}

//! Making room: readings step down the ladder raw → downsampled → sketch, and only then batches are given up.
//!
//! Invariant: what was ever handed out for sending is not degraded, and is given up only when nothing else is left and it is not on
//! its way just now; its ledger entry then says "unknown", because the server may have it. Bulk goes before normal, old before new.
//! Not here: writing the ledger (`state`, through `keeper`).

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension, Row, params};
use wayside_common::{
    degraded::{Degraded, Fidelity},
    gap::{Extent, Gap, Reason},
    id::{Class, Epoch, StreamId},
    record::{Batch, Body},
    schedule::Position,
    sync::sender::BatchKey,
    time::Wall,
    wire,
};

use super::{HeldBatch, Spool, SpoolError, checksum, class_number, given_up, parsed, rank};
use crate::state::database::is_damage;

/// In one transaction at most so many batches step down: each is decoded and encoded.
const STEPS: usize = 64;

/// What [`Spool::make_room`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Now with fewer bytes.
    pub degraded: Vec<HeldBatch>,
    pub given_up: Vec<BatchKey>,
    /// There is still too much: call it again.
    pub more: bool,
}

/// A row that may have to go.
struct Candidate {
    row: i64,
    key: BatchKey,
    end_seq: u64,
    length: u64,
}

/// How many bytes have to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Excess {
    /// From bulk, or from anything where bulk has nothing left.
    all: u64,
    bulk: u64,
}

impl Excess {
    fn of_bulk(self) -> u64 {
        self.all.max(self.bulk)
    }

    fn freed(&mut self, class: Class, bytes: u64) {
        self.all = self.all.saturating_sub(bytes);
        if class == Class::Bulk {
            self.bulk = self.bulk.saturating_sub(bytes);
        }
    }
}

impl Spool {
    /// Brings the spool back inside its budgets, or a part of the way. What is given up is not handed out from now on;
    /// [`Spool::forget`] deletes it once its entries, [`Spool::given_up`], are in the ledger.
    pub fn make_room(&mut self) -> Result<Room, SpoolError> {
        let mut room = Room::default();
        self.give_up_old(&mut room)?;
        let mut excess = self.excess();
        if excess == Excess::default() {
            return Ok(room);
        }
        let mut steps = STEPS;
        for from in [Fidelity::Raw, Fidelity::Downsampled] {
            steps -= self.degrade(from, steps, &mut excess, &mut room)?;
            if steps == 0 {
                room.more = excess != Excess::default();
                return Ok(room);
            }
        }
        for (class, sent) in [(Class::Bulk, false), (Class::Bulk, true), (Class::Normal, false), (Class::Normal, true)] {
            self.give_up_class(class, sent, &mut excess, &mut room)?;
        }
        Ok(room)
    }

    /// A sixteenth more than needed, so that a full spool is not searched at every commit.
    fn excess(&self) -> Excess {
        let bulk_bytes = self.config.bulk_bytes.unwrap_or(self.config.max_bytes / 4 * 3);
        let over = |bytes: u64, max: u64| if bytes > max { bytes - max + max / 16 } else { 0 };
        Excess { all: over(self.bytes(), self.config.max_bytes), bulk: over(self.bulk, bulk_bytes) }
    }

    fn give_up_old(&mut self, room: &mut Room) -> Result<(), SpoolError> {
        let ran = (self.ran_before + std::time::Duration::from_micros(self.now.0)).as_secs() as i64;
        let oldest_allowed = ran - self.config.max_age.0.as_secs() as i64;
        // The time of a row never falls, so the first one tells whether any is old.
        let first = "SELECT ran FROM batch WHERE given_up = 0 ORDER BY id LIMIT 1";
        let first: Option<i64> = self.connection.prepare(first)?.query_row([], |row| row.get(0)).optional()?;
        if first.is_none_or(|first| first >= oldest_allowed) {
            return Ok(());
        }
        let candidates = self.candidates("given_up = 0 AND ran < ?1", oldest_allowed, None, u64::MAX, STEPS)?;
        room.more |= candidates.len() >= STEPS;
        self.mark_given_up(candidates, Reason::TooOld, room)
    }

    fn give_up_class(&mut self, class: Class, sent: bool, excess: &mut Excess, room: &mut Room) -> Result<(), SpoolError> {
        let needed = if class == Class::Bulk { excess.of_bulk() } else { excess.all };
        if needed == 0 {
            return Ok(());
        }
        let candidates = self.candidates("given_up = 0 AND class = ?1", class_number(class), Some(sent), needed, usize::MAX)?;
        candidates.iter().for_each(|candidate| excess.freed(class, candidate.length));
        self.mark_given_up(candidates, Reason::Evicted, room)
    }

    /// The oldest rows that `filter` lets through, sent ones or others, until `bytes` are together.
    fn candidates(&self, filter: &str, value: i64, sent: Option<bool>, bytes: u64, most: usize) -> Result<Vec<Candidate>, SpoolError> {
        let on_their_way: BTreeSet<i64> = self.on_their_way.iter().copied().collect();
        let names: std::collections::BTreeMap<i64, &(Epoch, StreamId)> = self.streams.iter().map(|(name, row)| (*row, name)).collect();
        let mut statement = self
            .connection
            .prepare(&format!("SELECT id, stream, first_seq, end_seq, length, sent FROM batch WHERE {filter} ORDER BY id"))?;
        let mut rows = statement.query([value])?;
        let (mut found, mut together) = (Vec::new(), 0);
        while let Some(row) = rows.next()?
            && together < bytes
            && found.len() < most
        {
            let id = row.get(0)?;
            let Some((epoch, stream)) = names.get(&row.get(1)?) else { continue };
            let was_sent = row.get::<_, bool>(5)? || self.sent.contains(&id);
            if on_their_way.contains(&id) || self.acked.contains(&id) || sent.is_some_and(|sent| sent != was_sent) {
                continue;
            }
            let key =
                BatchKey { class: stream.kind.class(), epoch: *epoch, first_seq: row.get::<_, i64>(2)? as u64, stream: stream.clone() };
            let length = row.get::<_, i64>(4)? as u64;
            together += length;
            found.push(Candidate { row: id, key, end_seq: row.get::<_, i64>(3)? as u64, length });
        }
        Ok(found)
    }

    fn mark_given_up(&mut self, candidates: Vec<Candidate>, reason: Reason, room: &mut Room) -> Result<(), SpoolError> {
        if candidates.is_empty() {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        let mut statement = transaction.prepare("UPDATE batch SET given_up = ?2, sent = max(sent, ?3) WHERE id = ?1")?;
        for Candidate { row, .. } in &candidates {
            statement.execute(params![row, given_up(reason), self.sent.contains(row)])?;
        }
        drop(statement);
        transaction.commit()?;
        for Candidate { key, length, .. } in candidates {
            let bytes = self.bytes_of(key.class);
            *bytes = bytes.saturating_sub(length);
            room.given_up.push(key);
        }
        Ok(())
    }

    /// The oldest batches of readings that have this fidelity and were never sent take one step down, at most so many; how many did.
    fn degrade(&mut self, from: Fidelity, most: usize, excess: &mut Excess, room: &mut Room) -> Result<usize, SpoolError> {
        if excess.of_bulk() == 0 {
            return Ok(0);
        }
        // By how much a batch will shrink shows only when it is done, so more than enough are looked at.
        let candidates = self.candidates("given_up = 0 AND fidelity = ?1", rank(from), Some(false), u64::MAX, most)?;
        let transaction = self.connection.transaction()?;
        let (mut done, mut damaged) = (Vec::new(), Vec::new());
        for candidate in candidates {
            if excess.of_bulk() == 0 {
                break;
            }
            let stored = transaction
                .prepare("SELECT checksum, bytes FROM blob WHERE id = ?1")?
                .query_row([candidate.row], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))
                .optional()?;
            let Some(blob) = stored.filter(|(sum, blob)| checksum(blob) == *sum).and_then(|(_, blob)| one_step_down(&blob)) else {
                damaged.push(candidate);
                continue;
            };
            let blob = blob.filter(|blob| (blob.len() as u64) < candidate.length);
            let fidelity = match &blob {
                Some(_) if from == Fidelity::Raw => Fidelity::Downsampled,
                // A batch of a few readings does not get smaller; it counts as if it stood at the end of the ladder.
                _ => Fidelity::Sketch,
            };
            let length = blob.as_ref().map_or(candidate.length, |blob| blob.len() as u64);
            transaction.prepare("UPDATE batch SET fidelity = ?2, length = ?3 WHERE id = ?1")?.execute(params![
                candidate.row,
                rank(fidelity),
                length as i64
            ])?;
            if let Some(blob) = blob {
                transaction.prepare("UPDATE blob SET checksum = ?2, bytes = ?3 WHERE id = ?1")?.execute(params![
                    candidate.row,
                    checksum(&blob),
                    blob
                ])?;
            }
            excess.freed(Class::Bulk, candidate.length - length);
            done.push((candidate, length));
        }
        transaction.commit()?;
        self.wear.committed(&self.connection, 0);
        let steps = done.len() + damaged.len();
        for (Candidate { key, end_seq, length: before, .. }, bytes) in done {
            self.bulk = self.bulk.saturating_sub(before - bytes);
            if bytes < before {
                room.degraded.push(HeldBatch { key, end_seq, bytes });
            }
        }
        damaged.iter().for_each(|candidate| excess.freed(Class::Bulk, candidate.length));
        self.mark_given_up(damaged, Reason::SpoolLost, room)?;
        Ok(steps)
    }

    /// Marks a batch as given up although it may have been sent: it cannot be read back, or the server has refused it.
    pub fn give_up_for(&mut self, key: &BatchKey, reason: Reason) -> Result<(), SpoolError> {
        let Some((row, length)) = self.find(key, "length")? else { return Ok(()) };
        // What the server has refused it does not have.
        let maybe_stored = reason != Reason::Refused;
        self.connection
            .execute("UPDATE batch SET given_up = ?2, sent = sent AND ?3 WHERE id = ?1", params![row, given_up(reason), maybe_stored])?;
        let bytes = self.bytes_of(key.class);
        *bytes = bytes.saturating_sub(length as u64);
        Ok(())
    }

    /// The ledger entries of all batches that are given up and not yet forgotten, also of those from before a restart; and of what a
    /// damaged file has lost.
    pub fn given_up(&self) -> Result<Vec<Gap>, SpoolError> {
        let mut statement = self.connection.prepare(
            "SELECT epoch, stream.stream, first_seq, end_seq, from_position, to_position, from_wall, to_wall, given_up, sent
             FROM batch JOIN stream ON stream.id = batch.stream WHERE given_up > 0 ORDER BY batch.id",
        )?;
        let mut rows = statement.query([])?;
        let mut gaps = Vec::new();
        while let Some(row) = rows.next()? {
            gaps.push(gap(row)?);
        }
        let mut statement = self.connection.prepare("SELECT gap FROM loss ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            gaps.push(wire::decode(&row.get::<_, Vec<u8>>(0)?).map_err(|error| SpoolError::Value(error.to_string()))?);
        }
        Ok(gaps)
    }

    /// Deletes what is given up: call it after its entries are durable in the ledger. Were it the other way round, a death between
    /// the two would be silent loss; this way it only enters the same ranges twice.
    pub fn forget(&mut self) -> Result<(), SpoolError> {
        match self.forget_once() {
            Err(SpoolError::Sqlite(error)) if is_damage(&error) => {
                self.salvage_now(&error.to_string())?;
                self.forget_once()
            }
            done => done,
        }
    }

    fn forget_once(&mut self) -> Result<(), SpoolError> {
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM blob WHERE id IN (SELECT id FROM batch WHERE given_up > 0)", [])?;
        transaction.execute("DELETE FROM batch WHERE given_up > 0", [])?;
        transaction.execute("DELETE FROM loss", [])?;
        transaction.commit()?;
        self.wear.committed(&self.connection, 0);
        Ok(())
    }

    /// Drops the marks of epochs of which nothing is held any more, except those that `keep`.
    pub fn forget_marks(&mut self, keep: &[Epoch]) -> Result<(), SpoolError> {
        self.delete_acked()?;
        let epochs: BTreeSet<Epoch> = self.streams.keys().map(|(epoch, _)| *epoch).filter(|epoch| !keep.contains(epoch)).collect();
        for epoch in epochs {
            self.connection.execute(
                "DELETE FROM stream WHERE epoch = ?1
                 AND NOT EXISTS (SELECT 1 FROM batch JOIN stream AS other ON other.id = batch.stream WHERE other.epoch = ?1)",
                [epoch.to_string()],
            )?;
        }
        self.streams = super::open::streams(&self.connection)?;
        Ok(())
    }
}

/// The blob of the same records in one step less; `None` inside: there is no step; `None`: it cannot be read.
fn one_step_down(blob: &[u8]) -> Option<Option<Vec<u8>>> {
    let batch: Batch = wire::decode(blob).ok()?;
    let degraded = match &batch.body {
        Body::Readings(block) => Some(Degraded::downsample(block).ok()?),
        Body::Degraded(degraded) => degraded.sketch().ok()?,
        _ => None,
    };
    Some(degraded.map(|degraded| wire::encode_batch(&Batch { body: Body::Degraded(degraded), ..batch })))
}

fn gap(row: &Row<'_>) -> Result<Gap, SpoolError> {
    let (from, to): (Option<i64>, Option<i64>) = (row.get(4)?, row.get(5)?);
    let (first_seq, end_seq) = (row.get::<_, i64>(2)? as u64, row.get::<_, i64>(3)? as u64);
    let extent = match row.get::<_, bool>(9)? {
        false => Extent::Exact { first_seq, last_seq: end_seq - 1 },
        true => Extent::Unknown { after_seq: first_seq.checked_sub(1) },
    };
    let reason = Reason::ALL.get((row.get::<_, i64>(8)? as usize).wrapping_sub(1)).copied();
    Ok(Gap {
        epoch: parsed(row.get(0)?)?,
        stream: parsed(row.get(1)?)?,
        extent,
        positions: from.zip(to).map(|(from, to)| (Position(from as u64), Position(to as u64))),
        span: (Wall(row.get(6)?), Wall(row.get(7)?)),
        reason: reason.ok_or_else(|| SpoolError::Value("a reason of a later build".into()))?,
    })
}

//! A `state.db` that was damaged or is gone: what the new one takes over from the spool's memory, and what stops until a repair.
//!
//! Invariant: an epoch that is begun after the loss has a higher counter than every one that the spool remembers; positions go on from the
//! anchors that it remembers. Updates stop, because a device that has forgotten which generations it obeyed could be made to obey an
//! older one. Not here: the memory itself (`spool`).

use rusqlite::params;
use wayside_common::{
    gap::{Extent, Gap, Reason},
    time::Wall,
};

use super::{State, StateError, enter, parsed, reports_stream, save_single};
use crate::spool::Memory;

impl State {
    /// Why the store is a new one in place of one that was lost, until somebody repairs the device.
    pub fn damage(&self) -> Result<Option<String>, StateError> {
        self.single("damage")
    }

    /// Somebody has looked after the device: updates go on, from the root that came with it.
    pub fn repaired(&mut self) -> Result<(), StateError> {
        self.connection.execute("DELETE FROM single WHERE name IN ('damage', 'storage_fault')", [])?;
        Ok(())
    }

    pub(super) fn note_damage(&mut self, reason: &str) -> Result<(), StateError> {
        let transaction = self.connection.transaction()?;
        save_single(&transaction, "damage", &reason)?;
        save_single(&transaction, "storage_fault", &true)?;
        Ok(transaction.commit()?)
    }

    /// What the spool is to remember.
    pub fn memory(&self) -> Result<Memory, StateError> {
        let epochs = self.past_epochs()?.into_iter().map(|past| (past.epoch, past.started)).collect();
        let mut statement =
            self.connection.prepare("SELECT source, at, period_us, coalesce(since, 0) FROM anchor LEFT JOIN timetable USING (source)")?;
        let mut rows = statement.query([])?;
        let mut anchors = Vec::new();
        while let Some(row) = rows.next()? {
            anchors.push((parsed(row.get(0)?)?, Wall(row.get(1)?), row.get::<_, i64>(2)? as u64, row.get(3)?));
        }
        Ok(Memory { epochs, anchors })
    }

    /// Takes over what the spool remembers, if this store knows of no epoch and the spool does; says whether it did. The reports that were
    /// lost with the old store stand in the ledger then.
    pub fn take_over(&mut self, memory: &Memory, now: Wall) -> Result<bool, StateError> {
        if memory.epochs.is_empty() || !self.past_epochs()?.is_empty() {
            return Ok(false);
        }
        if self.damage()?.is_none() {
            self.note_damage("state.db is gone")?;
        }
        let transaction = self.connection.transaction()?;
        // Of two epochs with one counter, which a cloned device leaves, the first one stays: the counter is what must not come again.
        for (epoch, started) in &memory.epochs {
            transaction.execute(
                "INSERT OR IGNORE INTO epoch (counter, epoch, started) VALUES (?1, ?2, ?3)",
                params![epoch.counter, epoch.to_string(), started.0],
            )?;
        }
        for (source, at, period_us, since) in &memory.anchors {
            transaction.execute(
                "INSERT INTO anchor (source, at, period_us) VALUES (?1, ?2, ?3)",
                params![source.as_str(), at.0, *period_us as i64],
            )?;
            transaction.execute("INSERT INTO timetable (source, since) VALUES (?1, ?2)", params![source.as_str(), since])?;
        }
        let newest = memory.epochs.iter().map(|(epoch, _)| *epoch).max().expect("it was just seen that there is one");
        let since = memory.epochs.iter().map(|(_, started)| *started).min().unwrap_or(now);
        let reports = Gap {
            epoch: newest,
            stream: reports_stream(),
            extent: Extent::Unknown { after_seq: None },
            positions: None,
            span: (since.min(now), now),
            reason: Reason::SpoolLost,
        };
        enter(&transaction, &reports)?;
        transaction.commit()?;
        Ok(true)
    }
}

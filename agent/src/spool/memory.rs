//! What the spool remembers for a `state.db` that may be lost: which epochs there were, and from where timed sources count.
//!
//! Invariant: it is written when an epoch begins, after `state.db` and before the first record, and synced. Not here: using it (`epoch`).

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use wayside_common::{
    id::{Epoch, SourceName},
    time::Wall,
    wire,
};

use super::{Spool, SpoolError};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Newest first, with the time of its start.
    pub epochs: Vec<(Epoch, Wall)>,
    /// Source, time of position 0, period in microseconds, counter of the first epoch that counts so.
    pub anchors: Vec<(SourceName, Wall, u64, u32)>,
}

impl Spool {
    /// What was last remembered; of a spool that knows nothing, what its marks show.
    pub fn memory(&self) -> Result<Memory, SpoolError> {
        let mut memory = load(&self.connection)?;
        for mark in self.marks()? {
            if !memory.epochs.iter().any(|(epoch, _)| *epoch == mark.epoch) {
                memory.epochs.push((mark.epoch, mark.committed));
            }
        }
        memory.epochs.sort_unstable_by_key(|(epoch, _)| std::cmp::Reverse(*epoch));
        Ok(memory)
    }

    pub fn remember(&mut self, memory: &Memory) -> Result<(), SpoolError> {
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        self.connection.execute(
            "INSERT INTO memory (name, value) VALUES ('state', ?1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            params![wire::encode(memory)],
        )?;
        self.synced = Some(self.now);
        Ok(())
    }
}

fn load(connection: &Connection) -> Result<Memory, SpoolError> {
    let found: Option<Vec<u8>> = connection.query_row("SELECT value FROM memory WHERE name = 'state'", [], |row| row.get(0)).optional()?;
    Ok(found.and_then(|bytes| wire::decode(&bytes).ok()).unwrap_or_default())
}

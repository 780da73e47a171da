//! Who may read and write a file just now: the locks of SQLite's VFS, on files and on a log's shared index.
//!
//! Invariant: at most one holder is reserved, pending or exclusive on a file; a slot of the index has any number of sharers or one
//! exclusive holder. Not here: waiting, which is SQLite's.

use std::collections::BTreeMap;

use super::model::FileId;

/// One open file of one connection.
pub type Handle = u64;

/// SQLite's numbers: none, shared, reserved, pending, exclusive.
pub type Level = i32;
pub const NONE: Level = 0;
pub const SHARED: Level = 1;
pub const RESERVED: Level = 2;
pub const PENDING: Level = 3;
#[cfg(test)]
const EXCLUSIVE: Level = 4;

#[derive(Debug, Default)]
pub struct Locks {
    files: BTreeMap<FileId, BTreeMap<Handle, Level>>,
    /// Per handle: the slots of the index that it shares, and those that it has for itself.
    index: BTreeMap<FileId, BTreeMap<Handle, (u8, u8)>>,
}

impl Locks {
    /// Raises the lock of `handle` to `wanted`; `false`: somebody else is in the way.
    pub fn raise(&mut self, file: FileId, handle: Handle, wanted: Level) -> bool {
        let holders = self.files.entry(file).or_default();
        let mine = holders.get(&handle).copied().unwrap_or(NONE);
        if mine >= wanted {
            return true;
        }
        let others = holders.iter().filter(|(other, _)| **other != handle).map(|(_, level)| *level).max().unwrap_or(NONE);
        let granted = match wanted {
            SHARED => others < PENDING,
            RESERVED => others < RESERVED,
            _ if others >= RESERVED => false,
            _ if others >= SHARED => {
                // New readers are kept out while the old ones end.
                holders.insert(handle, PENDING);
                false
            }
            _ => true,
        };
        if granted {
            holders.insert(handle, wanted);
        }
        granted
    }

    pub fn lower(&mut self, file: FileId, handle: Handle, to: Level) {
        let Some(holders) = self.files.get_mut(&file) else { return };
        if to == NONE {
            holders.remove(&handle);
        } else if let Some(level) = holders.get_mut(&handle) {
            *level = to.min(*level);
        }
    }

    pub fn is_reserved(&self, file: FileId) -> bool {
        self.files.get(&file).is_some_and(|holders| holders.values().any(|level| *level >= RESERVED))
    }

    pub fn take_slots(&mut self, file: FileId, handle: Handle, slots: u8, exclusive: bool) -> bool {
        let holders = self.index.entry(file).or_default();
        let others = holders.iter().filter(|(other, _)| **other != handle);
        let taken = others.fold(0, |taken, (_, (shared, own))| taken | own | if exclusive { *shared } else { 0 });
        if taken & slots != 0 {
            return false;
        }
        let mine = holders.entry(handle).or_default();
        *(if exclusive { &mut mine.1 } else { &mut mine.0 }) |= slots;
        true
    }

    pub fn free_slots(&mut self, file: FileId, handle: Handle, slots: u8) {
        if let Some(mine) = self.index.get_mut(&file).and_then(|holders| holders.get_mut(&handle)) {
            *mine = (mine.0 & !slots, mine.1 & !slots);
        }
    }

    /// The handle is closed.
    pub fn forget(&mut self, file: FileId, handle: Handle) {
        self.lower(file, handle, NONE);
        if let Some(holders) = self.index.get_mut(&file) {
            holders.remove(&handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writes_and_only_when_nobody_reads() {
        let mut locks = Locks::default();
        assert!(locks.raise(1, 7, SHARED) && locks.raise(1, 8, SHARED));
        assert!(locks.raise(1, 7, RESERVED) && !locks.raise(1, 8, RESERVED));
        assert!(!locks.raise(1, 7, EXCLUSIVE), "one still reads");
        assert!(!locks.raise(1, 9, SHARED), "nobody new may read");
        locks.lower(1, 8, NONE);
        assert!(locks.raise(1, 7, EXCLUSIVE) && locks.is_reserved(1) && !locks.is_reserved(2));
        locks.forget(1, 7);
        assert!(locks.raise(1, 9, SHARED));

        assert!(locks.take_slots(1, 7, 0b11, false) && locks.take_slots(1, 8, 0b10, false));
        assert!(!locks.take_slots(1, 8, 0b01, true) && locks.take_slots(1, 8, 0b100, true));
        assert!(!locks.take_slots(1, 7, 0b100, false));
        locks.free_slots(1, 7, 0b11);
        assert!(locks.take_slots(1, 8, 0b01, true));
    }
}

//! The gap ledger: what was numbered and is not stored, or was never sensed, and why.
//!
//! Invariant: a count is exact or unknown with a time span, never guessed. Not here: the ledger's table (`state` on the device,
//! `db` on the server) and the bounds on its size.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    id::{Epoch, StreamId},
    schedule::Position,
    time::Wall,
};

/// One stretch of a stream that has no records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The epoch in which the stretch begins.
    pub epoch: Epoch,
    pub stream: StreamId,
    pub extent: Extent,
    /// First and last position, where the source has numbered ones.
    pub positions: Option<(Position, Position)>,
    /// From when to when, by the device's wall clock.
    pub span: (Wall, Wall),
    pub reason: Reason,
}

/// How much is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// These records, first and last seq: they were numbered, held and then given up.
    Exact { first_seq: u64, last_seq: u64 },
    /// All after this seq (from the first where `None`); how many is not known to the device.
    Unknown { after_seq: Option<u64> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Numbered, not yet durable, when the agent died.
    Crash,
    /// The agent was not running.
    NotRunning,
    /// Given up for room in the spool.
    Evicted,
    /// The disk refused the write.
    DiskFull,
    /// The spool was damaged and moved aside.
    SpoolLost,
    /// Older than the age limit.
    TooOld,
    /// Acked once, and missing in the server that answers now.
    LostByServer,
    /// The server said that it can never store them.
    Refused,
}

impl Reason {
    pub const ALL: [Self; 8] =
        [Self::Crash, Self::NotRunning, Self::Evicted, Self::DiskFull, Self::SpoolLost, Self::TooOld, Self::LostByServer, Self::Refused];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::NotRunning => "not_running",
            Self::Evicted => "evicted",
            Self::DiskFull => "disk_full",
            Self::SpoolLost => "spool_lost",
            Self::TooOld => "too_old",
            Self::LostByServer => "lost_by_server",
            Self::Refused => "refused",
        }
    }
}
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

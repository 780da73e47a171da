//! What a source's thread hands to its pipeline: one position, read.
//!
//! Invariant: `wall` is the due time where there is one, whatever the clock said at the read. Not here: reading (`sense`).

use wayside_common::{
    schedule::Position,
    time::{Mono, Wall},
};

use crate::source::Item;

/// One position, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensed {
    pub position: Position,
    /// When it was due; of a source without timetable, or if it was read too late for that, when it was read.
    pub mono: Mono,
    /// When it was due; of a source without timetable, when it was read.
    pub wall: Wall,
    pub item: Result<Item, String>,
}

//! What a device says: records, dense in seq per (epoch, stream), cut into batches that never change once they are cut.
//!
//! Invariant: a record's name is (device, epoch, stream, seq); the device is known from the link, never from the content.
//! Record i of a batch has seq `first_seq + i`. Not here: how a batch is stored or sent.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    block::Block,
    degraded::{Degraded, Fidelity},
    fleet::{ModelRef, Outcome, UpdateReport},
    id::{Digest, Epoch, SlotName, StreamId, StreamKind},
    schedule::Position,
    time::{ClockStamp, Mono},
};

// The server refuses a batch with anything beyond these, and the device would send it for ever; so who makes a record stays
// inside them.

/// Numbers up to here are the same in SQLite, JSON and JavaScript.
pub const MAX_NUMBER: u64 = 1 << 53;
/// What a source calls an item, and the path of a target.
pub const MAX_ITEM: usize = 256;
/// A label, and the name of a drift feature.
pub const MAX_LABEL: usize = 64;
pub const MAX_REASON: usize = 4096;
pub const MAX_SAMPLE_JPEG: usize = 64 * 1024;
/// Numbers of an embedding.
pub const MAX_EMBEDDING: usize = 4096;

/// Some neighbouring records of one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    pub epoch: Epoch,
    pub stream: StreamId,
    pub first_seq: u64,
    /// The lowest seq of (epoch, stream) that the device still held when the batch was cut: what lies below and is not
    /// stored is a hole, even if the ledger is lost.
    pub lowest_held: u64,
    /// Both clocks when the batch was cut.
    pub clock: ClockStamp,
    pub body: Body,
}

impl Batch {
    pub fn len(&self) -> u64 {
        self.body.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.body.len() == 0
    }

    /// The seq after the last record.
    pub fn end_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.len())
    }
}

/// The records; the variant must be the one of the stream's kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    Reports(Vec<Report>),
    Frames(Vec<Frame>),
    Predictions(Vec<Prediction>),
    Sketches(Vec<Sketch>),
    Readings(Block),
    Samples(Vec<Sample>),
    /// What is left of readings, in the stream of readings.
    Degraded(Degraded),
}

impl Body {
    pub fn kind(&self) -> StreamKind {
        match self {
            Self::Reports(_) => StreamKind::Reports,
            Self::Frames(_) => StreamKind::Frames,
            Self::Predictions(_) => StreamKind::Predictions,
            Self::Sketches(_) => StreamKind::Sketches,
            Self::Readings(_) | Self::Degraded(_) => StreamKind::Readings,
            Self::Samples(_) => StreamKind::Samples,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Reports(records) => records.len(),
            Self::Frames(records) => records.len(),
            Self::Predictions(records) => records.len(),
            Self::Sketches(records) => records.len(),
            Self::Readings(block) => block.len(),
            Self::Samples(records) => records.len(),
            Self::Degraded(degraded) => degraded.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn fidelity(&self) -> Fidelity {
        match self {
            Self::Degraded(degraded) => degraded.fidelity(),
            _ => Fidelity::Raw,
        }
    }
}

/// A box in pixels of the decoded frame, top left first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roi {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

/// What a model answered: the label it chose and how sure it was. Confidence is never a gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Digest of the package that answered.
    pub model: Digest,
    pub label: String,
    /// Softmax of the chosen label, 0 to 1.
    pub confidence: f32,
    /// Softmax of the best label minus that of the second best.
    pub margin: f32,
    /// Of decode, preprocessing and inference in the worker.
    pub micros: u32,
}

/// Why a position has no prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoAnswer {
    /// The worker died on it or while it was waiting.
    WorkerCrash,
    /// The worker was still busy with earlier frames.
    Busy,
    /// The picture could not be decoded, or the window had a missing value.
    BadInput,
    /// No model is in the slot.
    NoModel,
    /// The worker did not answer within the model's time.
    Timeout,
}

/// One position of a camera.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    pub position: Position,
    pub mono: Mono,
    /// What the source calls it: a file name, empty where it has none; at most 256 bytes.
    pub item: String,
    pub answer: Result<Answer, NoAnswer>,
}

/// One window of a sensor's readings, judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    pub slot: SlotName,
    /// First and last position of the window.
    pub from: Position,
    pub to: Position,
    pub mono: Mono,
    pub answer: Result<Answer, NoAnswer>,
}

/// Counts of one drift feature over one time window. Merging two is exact addition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sketch {
    pub slot: SlotName,
    pub model: Digest,
    /// As in the package's `reference.json`, which also has the bin edges.
    pub feature: String,
    /// Number of the time window since the start of the epoch.
    pub window: u64,
    pub mono: Mono,
    /// Always 32 bins.
    pub counts: Vec<u32>,
}

/// A frame or window that is worth a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub position: Position,
    pub mono: Mono,
    pub slot: SlotName,
    pub item: String,
    pub answer: Answer,
    /// Why it was chosen.
    pub why: SampleReason,
    /// JPEG of the region of interest as the source had it.
    pub jpeg: Vec<u8>,
    /// The model's embedding; empty where it has none.
    pub embedding: Vec<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SampleReason {
    LowMargin,
    Random,
}

/// A vital fact about the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub mono: Mono,
    pub clock: ClockStamp,
    pub fact: Fact,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fact {
    Started {
        agent_version: String,
    },
    Update(UpdateReport),
    /// A slot runs this model from now on.
    Active {
        slot: SlotName,
        model: ModelRef,
    },
    WorkerDied {
        slot: SlotName,
        model: Digest,
        reason: String,
    },
    SourceFault {
        source: crate::id::SourceName,
        reason: String,
    },
    /// A store could not be written or read as it should.
    StorageFault {
        store: String,
        reason: String,
    },
    Stopping,
}

impl Fact {
    /// The same fact, with texts and numbers that came from elsewhere brought inside the limits.
    pub fn within_limits(mut self) -> Self {
        match &mut self {
            Self::Started { agent_version } => cut(agent_version, MAX_LABEL),
            Self::Update(UpdateReport { generation, target, outcome, .. }) => {
                generation.0 = generation.0.min(MAX_NUMBER);
                if let Some(path) = target {
                    cut(path, MAX_ITEM);
                }
                if let Outcome::Refused { reason, .. } = outcome {
                    cut(reason, MAX_REASON);
                }
            }
            Self::WorkerDied { reason, .. } | Self::SourceFault { reason, .. } | Self::StorageFault { reason, .. } => {
                cut(reason, MAX_REASON)
            }
            Self::Active { .. } | Self::Stopping => {}
        }
        self
    }
}

/// Between two characters.
fn cut(text: &mut String, max: usize) {
    text.truncate((0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use crate::fleet::{Generation, Stage};

    #[test]
    fn a_fact_from_elsewhere_is_brought_inside_the_limits() {
        let refused = |generation, target: &str, reason: &str| {
            Fact::Update(UpdateReport {
                generation: Generation(generation),
                slot: None,
                target: Some(target.to_string()),
                outcome: Outcome::Refused { stage: Stage::Verifying, reason: reason.to_string() },
            })
        };
        let fault = |reason: &str| Fact::StorageFault { store: "spool".to_string(), reason: reason.to_string() };
        struct Case(Fact, Fact);
        let cases = [
            Case(refused(7, "a/1", "no"), refused(7, "a/1", "no")),
            Case(
                refused(u64::MAX, &"p".repeat(MAX_ITEM + 1), &"r".repeat(MAX_REASON + 1)),
                refused(MAX_NUMBER, &"p".repeat(MAX_ITEM), &"r".repeat(MAX_REASON)),
            ),
            // Not in the middle of a character of two bytes.
            Case(fault(&["x", &"ä".repeat(MAX_REASON)].concat()), fault(&["x", &"ä".repeat(MAX_REASON / 2 - 1)].concat())),
            Case(fault(&"ä".repeat(MAX_REASON)), fault(&"ä".repeat(MAX_REASON / 2))),
        ];
        for Case(fact, expected) in cases {
            assert_eq!(fact.within_limits(), expected);
        }
    }
}

//! What just happened, for whoever watches: small, bounded, and lost to those who are too slow.
//!
//! Invariant: publishing never waits and never fails; nothing is decided on an event, the store is the truth. Not here: how events
//! reach a browser (`api::events`).

use serde::Serialize;
use tokio::sync::broadcast;
use wayside_common::id::{DeviceId, SlotName, SourceName};

/// How far a watcher may fall behind before it misses events.
const KEPT: usize = 1024;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    Device {
        device: DeviceId,
        online: bool,
    },
    /// The newest frame of a batch.
    Frame {
        device: DeviceId,
        source: SourceName,
        position: u64,
        wall_ms: i64,
        label: Option<String>,
        confidence: Option<f32>,
    },
    /// The newest prediction of a batch.
    Prediction {
        device: DeviceId,
        slot: SlotName,
        wall_ms: i64,
        label: Option<String>,
        confidence: Option<f32>,
    },
    Readings {
        device: DeviceId,
        source: SourceName,
        count: u64,
    },
    Thumbnail {
        device: DeviceId,
        slot: SlotName,
        label: Option<String>,
    },
    Sketches {
        device: DeviceId,
    },
    Samples {
        device: DeviceId,
        count: u64,
    },
    Gaps {
        device: DeviceId,
        new: u64,
    },
    /// What runs in a device's slots has changed.
    Slots {
        device: DeviceId,
    },
    /// A release, or its state on one device, has changed.
    Release {
        id: String,
        device: Option<DeviceId>,
        state: String,
    },
    Retrain {
        id: String,
        state: String,
    },
    /// A person must look.
    Alert {
        device: Option<DeviceId>,
        text: String,
    },
}

/// Clones publish to the same watchers.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl Events {
    pub fn publish(&self, event: Event) {
        // An error says that nobody watches.
        let _ = self.0.send(event);
    }

    pub fn watch(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

//! What the pipeline asks of a slot, and what the updater asks of the workers: the seam to the processes that run models.
//!
//! Invariant: nothing here decodes a picture or runs a network. Not here: processes (`supervisor`), the work itself (`worker`).

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;
use wayside_common::{
    fleet::ModelRef,
    id::SlotName,
    record::{Answer, NoAnswer, Roi},
    sketch::histogram::Edges,
};
use wayside_models::{
    manifest::{InputKind, WindowInput},
    package::Package,
};

/// One input of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    Frame {
        jpeg: Arc<Vec<u8>>,
        roi: Option<Roi>,
        /// A small picture is wanted too.
        thumbnail: bool,
    },
    /// Row by row, in the order of the manifest's columns.
    Window { rows: Vec<Vec<f64>> },
}

/// What the worker says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub answer: Answer,
    /// Values of the drift features, by name.
    pub drift: Vec<(String, f64)>,
    /// Empty where the model has none.
    pub embedding: Vec<f32>,
    pub thumbnail: Option<Vec<u8>>,
    /// JPEG of the region of interest, where it differs from the frame.
    pub crop: Option<Vec<u8>>,
}

/// A slot's model, whichever runs just now.
#[async_trait]
pub trait Judge: Send + Sync {
    /// One question at a time; the answer comes within the model's time, or the reason for none.
    async fn judge(&self, question: Question) -> Result<Judged, NoAnswer>;
}

/// Tries and exchanges models.
#[async_trait]
pub trait Workshop: Send + Sync {
    /// Runs the golden samples of the package in `dir` in a worker of its own.
    async fn self_test(&self, dir: &Path) -> Result<(), String>;

    /// From now on the slot's questions go to the package in `dir`: its worker is ready before the old one ends, and the switch
    /// lies between two questions.
    async fn swap(&self, slot: &SlotName, dir: &Path) -> Result<(), String>;
}

/// What the core has to know of a slot's present model.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub model: ModelRef,
    /// How windows are cut for it; `None`: it takes frames.
    pub window: Option<WindowInput>,
    /// Drift features with their bins.
    pub features: Vec<(String, Edges)>,
}

impl Loaded {
    pub fn of(package: &Package) -> Self {
        let window = match &package.manifest().input.kind {
            InputKind::Window(window) => Some(window.clone()),
            InputKind::Image(_) => None,
        };
        let features = package.reference().features.iter().map(|feature| (feature.name.clone(), feature.edges.clone())).collect();
        Self { model: package.model_ref(), window, features }
    }
}

/// A slot as the pipeline sees it.
#[derive(Clone)]
pub struct Slot {
    pub name: SlotName,
    pub judge: Arc<dyn Judge>,
    /// `None`: there is no model in the slot.
    pub loaded: watch::Receiver<Option<Arc<Loaded>>>,
}

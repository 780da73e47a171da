//! What runs a network: an engine loads it, a session answers.
//!
//! Invariant: a session gives the manifest's outputs in the manifest's order, or an error; a hostile network is an error, not a
//! panic. Memory that a network asks for is not bounded here: that is the worker process's limit. Not here: preprocessing.

use crate::{manifest::Manifest, tensor::Tensor};

pub mod onnx;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("the network cannot be loaded: {0}")]
    Load(String),
    #[error("the network cannot be run: {0}")]
    Run(String),
}

pub trait Engine {
    fn load(&self, network: &[u8], manifest: &Manifest) -> Result<Box<dyn Session>, EngineError>;
}

/// A loaded network.
pub trait Session: Send {
    /// `input` has the manifest's shape; one tensor per output of the manifest comes back, in its order.
    fn run(&mut self, input: &Tensor) -> Result<Vec<Tensor>, EngineError>;
}

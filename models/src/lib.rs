//! What runs a model and what a model is: packages, preprocessing, the engine, the golden check, the linear head.
//!
//! Invariant: nothing here panics, allocates without bound or names a path because of what stands in a package or a picture. One
//! boundary lies outside: memory that the network itself asks for at run time is limited by the worker's process. Not here:
//! where frames come from, what becomes of an answer, tasks, the network.

pub mod engine;
pub mod golden;
pub mod head;
pub mod malformed;
pub mod manifest;
pub mod model;
mod onnx_file;
pub mod package;
pub mod preprocess;
pub mod reference;
pub mod tensor;
pub mod thumbnail;

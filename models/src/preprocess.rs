//! From a JPEG or a window of readings to the network's input, exactly as the manifest says.
//!
//! Invariant: the result is a function of the manifest and the input alone. Not here: which frame, which window, when.

pub mod image;
pub mod window;

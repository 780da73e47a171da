//! The model registry: packages as blobs, the documents that vouch for them, and the key that assigns them.
//!
//! Invariant: a package is in the registry only whole, under the digest of its bytes, with a chunk index that covers it. Not here: which device
//! gets it (`rollout`), what a package is (`models::package`).

pub mod blob;
pub mod packages;
pub mod self_test;
pub mod signer;
pub mod trust;
#[cfg(test)]
pub mod fixture;

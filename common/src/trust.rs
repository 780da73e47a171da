//! Who may say which model runs: TUF 1.0 documents, verified from bytes.
//!
//! Invariant: a document's content is looked at only after a threshold of distinct keys of its role signed those very bytes in
//! canonical form; a [`set::TrustedSet`] holds nothing unverified. Time is an argument. Not here: where documents are kept
//! or how they travel. Snapshot and timestamp roles are not read yet.

pub mod role;
pub mod set;
pub mod signed;

//! What the agent and the server must agree on: names, time, records, topics, bytes on the wire.
//!
//! Invariant: everything here is a function of its arguments. The crate is `no_std`, so a clock, a file, a socket or a
//! thread is a compile error, not a review comment. It is *not* a place for shared convenience code.
#![no_std]

extern crate alloc;

pub mod backoff;
pub mod blob;
pub mod block;
pub mod degraded;
pub mod enrolment;
pub mod fleet;
pub mod gap;
pub mod id;
pub mod reading;
pub mod record;
pub mod schedule;
pub mod sketch;
pub mod sync;
pub mod time;
pub mod topic;
pub mod trust;
pub mod trusted_time;
pub mod wire;

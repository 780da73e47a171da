//! Moving records from a device to a server so that each is stored once: the sender's machine and the receiver's function.
//!
//! Invariant: a record may be deleted on the device only after an [`receiver::Ack`] covers its seq. Not here: MQTT, SQLite.

pub mod receiver;
pub mod sender;

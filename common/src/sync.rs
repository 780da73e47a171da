//! Moving records from a device to a server so that each is stored once: the sender's machine and the receiver's function.
//!
//! The protocol. A device numbers the records of each stream densely from 0, anew in each epoch (start of the agent), and cuts
//! neighbours into batches that never change their name. After it has connected it says **hello**: of each (epoch, stream) the
//! lowest seq that it still holds and the next one, whether the epoch is over, and the part of its gap ledger that is not acked.
//! It sends **batches**, oldest first, vital ones before all others; each carries the bytes sent so far in this epoch. The server
//! commits the records and the stream's row (watermark and ranges above it) in one transaction, and answers each batch with an
//! **ack** that holds this row, and a **credit**: up to which byte the device may go on, and for how long. An ack speaks of all
//! that was ever committed of its stream, a credit of an absolute mark; so either may be lost, late, doubled or out of order.
//! A batch that can never be stored is **refused** by name; the device enters it into the ledger. Silence is answered with one
//! batch at a time, after times that double. The ledger is acked by version, after its commit, in the same way.
//!
//! Invariant: a record may be deleted on the device only after an [`receiver::Ack`] covers its seq. Not here: MQTT, SQLite.

pub mod credit;
pub mod receiver;
pub mod sender;

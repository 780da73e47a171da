//! The link to the server: a lossy pipe that carries packets both ways.
//!
//! Invariant: nothing that was handed over counts as arrived; only the server's own acks do (`uplink`). Not here: what packets
//! mean.

pub mod mqtt;

use async_trait::async_trait;
use wayside_common::{
    fleet::{Generation, SlotStatus},
    topic::{Topic, Up},
    wire::{FromDevice, ToDevice},
};

/// What happens on the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A session stands and the device's topics are subscribed.
    Up,
    Down(String),
    Received {
        topic: Topic,
        bytes: Vec<u8>,
    },
}

/// How much effort a packet is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// Sent once; the next one replaces it.
    Lossy,
    /// Sent until the broker has it, as long as this connection lives.
    Acked,
}

/// What a hello tells of the updater.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Installed {
    pub slots: Vec<SlotStatus>,
    pub generation: Generation,
    pub root_version: u64,
    pub targets_version: u64,
}

/// A packet that is no batch: it is sent if there is a connection, and lost if there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    pub up: Up,
    pub packet: FromDevice,
    pub care: Care,
}

/// What comes down and concerns the updater.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrived {
    /// A connection stands: what was asked for before may be lost.
    Connected,
    Packet(ToDevice),
}

#[async_trait]
pub trait Link: Send {
    /// What happens next. May be dropped and called again without loss.
    async fn next(&mut self) -> LinkEvent;

    /// Hands a packet over. `false`: there is no connection, or no room.
    fn publish(&mut self, up: Up, bytes: Vec<u8>, care: Care) -> bool;

    /// Throws the connection away, with all that is on its way, and makes a new one.
    fn rebuild(&mut self);

    /// Says goodbye properly; returns when that is done or after a short while.
    async fn close(&mut self);
}

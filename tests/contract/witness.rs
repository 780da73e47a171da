//! The server's side of a test: an `Ingest` that writes down what it is given and answers as it is told.
//!
//! Invariant: what a device published stands here exactly as often as the adapter handed it over. Not here: any broker.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, time::timeout};
use wayside_common::{
    id::DeviceId,
    topic::{Down, Up},
    wire::ToDevice,
};
use wayside_sync_server::broker::{Ingest, Reply, Taken};

use crate::device::DEADLINE;

#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Took { device: String, up: Up, bytes: Vec<u8> },
    Connected(String),
    Disconnected(String),
}

/// What the next publishes get as an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    Commit,
    /// Commits, and says "say hello" to the device.
    CommitAndReply,
    Unavailable,
    /// Says nothing until the answer is another one.
    Wait,
}

pub struct Witness {
    seen: Mutex<Vec<Seen>>,
    count: watch::Sender<usize>,
    answer: watch::Sender<Answer>,
}

impl Witness {
    pub fn new() -> Self {
        Self { seen: Mutex::default(), count: watch::Sender::new(0), answer: watch::Sender::new(Answer::Commit) }
    }

    pub fn answer(&self, answer: Answer) {
        self.answer.send_replace(answer);
    }

    pub fn all(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    /// The payloads of one device, in the order in which they were taken.
    pub fn of(&self, device: &str) -> Vec<Vec<u8>> {
        let took = |seen: &Seen| match seen {
            Seen::Took { device: of, bytes, .. } if of == device => Some(bytes.clone()),
            _ => None,
        };
        self.lock().iter().filter_map(took).collect()
    }

    /// Returns when something has been seen that fits.
    pub async fn until(&self, fits: impl Fn(&[Seen]) -> bool) {
        self.within(DEADLINE, fits).await.unwrap_or_else(|all| panic!("not seen before the deadline; seen: {all:?}"));
    }

    async fn within(&self, span: Duration, fits: impl Fn(&[Seen]) -> bool) -> Result<(), Vec<Seen>> {
        let mut count = self.count.subscribe();
        timeout(span, count.wait_for(|_| fits(&self.lock()))).await.map_err(|_| self.all())?.expect("the sender lives");
        Ok(())
    }

    pub async fn until_taken(&self, device: &str, bytes: &[u8]) {
        self.until(|all| all.iter().any(|seen| matches!(seen, Seen::Took { device: d, bytes: b, .. } if d == device && b == bytes))).await;
    }

    fn note(&self, seen: Seen) {
        self.lock().push(seen);
        self.count.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap()
    }
}

#[async_trait]
impl Ingest for Witness {
    async fn take(&self, device: &DeviceId, up: Up, bytes: &[u8]) -> Taken {
        self.note(Seen::Took { device: device.to_string(), up, bytes: bytes.to_vec() });
        let mut answer = self.answer.subscribe();
        let answer = *answer.wait_for(|answer| *answer != Answer::Wait).await.expect("the sender lives");
        match answer {
            Answer::CommitAndReply => Taken::Committed(vec![Reply { down: Down::Cmd, packet: ToDevice::SayHello }]),
            Answer::Unavailable => Taken::Unavailable("told so".into()),
            Answer::Commit | Answer::Wait => Taken::Committed(Vec::new()),
        }
    }

    async fn connected(&self, device: &DeviceId) {
        self.note(Seen::Connected(device.to_string()));
    }

    async fn disconnected(&self, device: &DeviceId) {
        self.note(Seen::Disconnected(device.to_string()));
    }
}

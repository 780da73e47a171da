//! The sender: a machine that decides which durable batch goes out next and which may be deleted.
//!
//! Invariant: `Delete` is asked for only after an ack covers the whole batch. At most [`Limits::in_flight`] batches are
//! unanswered; what stays unanswered is sent again after a time that doubles, one batch first, each time another one. Not here:
//! the batches' bytes (spool), the connection (link).

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use core::{ops::Bound, time::Duration};

use crate::{
    id::{Class, Epoch, StreamId},
    sync::receiver::Ack,
    time::Mono,
};

/// A batch in a store of the device. The order is the order of sending: vital first, then old before new.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchKey {
    pub class: Class,
    pub epoch: Epoch,
    pub first_seq: u64,
    pub stream: StreamId,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A session with the server stands; nothing of an earlier one counts as on its way.
    Connected,
    Disconnected,
    /// A batch is durable, and goes up to but not including `end_seq`.
    Held {
        key: BatchKey,
        end_seq: u64,
    },
    /// A batch was given up; the ledger says why.
    GivenUp(BatchKey),
    Ack(Ack),
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Send(BatchKey),
    /// Committed by the server: free the room.
    Delete(BatchKey),
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub in_flight: usize,
    /// How long to wait for the first ack; doubles up to `resend_max` while none comes.
    pub resend: Duration,
    pub resend_max: Duration,
}

#[derive(Debug)]
struct Held {
    end_seq: u64,
    sent: Option<Mono>,
}

/// See the module.
#[derive(Debug)]
pub struct Sender {
    limits: Limits,
    held: BTreeMap<BatchKey, Held>,
    in_flight: usize,
    /// The batch that last went alone. The next one to go alone comes after it, so one that is never answered holds up no other.
    went_alone: Option<BatchKey>,
    link: Link,
    actions: VecDeque<Action>,
}

#[derive(Debug, PartialEq)]
enum Link {
    Down,
    /// `patience` is the present resend time; while nothing is answered, batches go `alone`.
    Up {
        patience: Duration,
        alone: bool,
    },
}

impl Sender {
    pub fn new(limits: Limits) -> Self {
        Self { limits, held: BTreeMap::new(), in_flight: 0, went_alone: None, link: Link::Down, actions: VecDeque::new() }
    }

    pub fn handle(&mut self, now: Mono, event: Event) {
        match event {
            Event::Connected => {
                self.forget_flights();
                self.link = Link::Up { patience: self.limits.resend, alone: false };
            }
            Event::Disconnected => {
                self.forget_flights();
                self.link = Link::Down;
            }
            Event::Held { key, end_seq } => {
                self.held.insert(key, Held { end_seq, sent: None });
            }
            Event::GivenUp(key) => {
                if self.held.remove(&key).is_some_and(|held| held.sent.is_some()) {
                    self.in_flight -= 1;
                }
            }
            Event::Ack(ack) => self.acked(&ack),
            Event::Tick => self.resend_what_is_late(now),
        }
        self.fill_the_window(now);
    }

    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When the oldest unanswered batch is late.
    pub fn deadline(&self) -> Option<Mono> {
        let Link::Up { patience, .. } = self.link else { return None };
        self.held.values().filter_map(|held| held.sent).min().map(|sent| sent + patience)
    }

    /// Nothing is held that the server has not committed.
    pub fn done(&self) -> bool {
        self.held.is_empty()
    }

    /// How many batches wait for their commit.
    pub fn backlog(&self) -> usize {
        self.held.len()
    }

    fn acked(&mut self, ack: &Ack) {
        let covered: Vec<BatchKey> = self
            .held
            .iter()
            .filter(|(key, held)| key.epoch == ack.epoch && key.stream == ack.stream && ack.row.covers(key.first_seq, held.end_seq))
            .map(|(key, _)| key.clone())
            .collect();
        for key in covered {
            if self.held.remove(&key).is_some_and(|held| held.sent.is_some()) {
                self.in_flight -= 1;
            }
            self.actions.push_back(Action::Delete(key));
        }
        if let Link::Up { patience, alone } = &mut self.link {
            *patience = self.limits.resend;
            *alone = false;
        }
    }

    fn resend_what_is_late(&mut self, now: Mono) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        self.forget_flights();
        if let Link::Up { patience, alone } = &mut self.link {
            *patience = (*patience * 2).min(self.limits.resend_max);
            *alone = true;
        }
    }

    fn forget_flights(&mut self) {
        self.held.values_mut().for_each(|held| held.sent = None);
        self.in_flight = 0;
    }

    fn fill_the_window(&mut self, now: Mono) {
        let Link::Up { alone, .. } = self.link else { return };
        if alone {
            return self.send_one_alone(now);
        }
        let room = self.limits.in_flight.saturating_sub(self.in_flight);
        for (key, held) in self.held.iter_mut().filter(|(_, held)| held.sent.is_none()).take(room) {
            held.sent = Some(now);
            self.in_flight += 1;
            self.actions.push_back(Action::Send(key.clone()));
        }
    }

    fn send_one_alone(&mut self, now: Mono) {
        if self.in_flight > 0 {
            return;
        }
        let after = self.went_alone.take().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.held.range((after, Bound::Unbounded)).next().or_else(|| self.held.iter().next());
        let Some(key) = next.map(|(key, _)| key.clone()) else { return };
        if let Some(held) = self.held.get_mut(&key) {
            held.sent = Some(now);
            self.in_flight += 1;
            self.actions.push_back(Action::Send(key.clone()));
        }
        self.went_alone = Some(key);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::sync::receiver::StreamRow;

    const EPOCH: Epoch = Epoch { counter: 1, nonce: 9 };

    fn key(stream: &str, first_seq: u64) -> BatchKey {
        let stream: StreamId = stream.parse().unwrap();
        BatchKey { class: stream.kind.class(), epoch: EPOCH, first_seq, stream }
    }

    struct Timeline(Sender);

    impl Timeline {
        fn event(&mut self, seconds: u64, event: Event) {
            self.0.handle(Mono(seconds * 1_000_000), event);
        }
        fn expect(&mut self, expected: &[Action]) {
            let actions: Vec<Action> = core::iter::from_fn(|| self.0.poll()).collect();
            assert_eq!(actions, expected);
        }
        fn hold(&mut self, seconds: u64, stream: &str, first_seq: u64) {
            self.event(seconds, Event::Held { key: key(stream, first_seq), end_seq: first_seq + 10 });
        }
        fn ack(&mut self, seconds: u64, stream: &str, watermark: u64) {
            let row = StreamRow { watermark, ranges: vec![] };
            self.event(seconds, Event::Ack(Ack { epoch: EPOCH, stream: stream.parse().unwrap(), row, incarnation: 1 }));
        }
    }

    fn timeline() -> Timeline {
        let limits = Limits { in_flight: 2, resend: Duration::from_secs(5), resend_max: Duration::from_secs(60) };
        Timeline(Sender::new(limits))
    }

    #[test]
    fn nothing_is_sent_without_a_link_and_vital_goes_first() {
        let mut t = timeline();
        t.hold(0, "imu0.readings", 0);
        t.hold(0, "imu0.readings", 10);
        t.hold(0, "agent.reports", 0);
        t.expect(&[]);
        t.event(1, Event::Connected);
        t.expect(&[Action::Send(key("agent.reports", 0)), Action::Send(key("imu0.readings", 0))]);
        t.ack(2, "agent.reports", 10);
        t.expect(&[Action::Delete(key("agent.reports", 0)), Action::Send(key("imu0.readings", 10))]);
    }

    #[test]
    fn only_an_ack_that_covers_the_whole_batch_deletes_it() {
        let mut t = timeline();
        t.event(0, Event::Connected);
        t.hold(0, "imu0.readings", 0);
        t.expect(&[Action::Send(key("imu0.readings", 0))]);
        t.ack(1, "imu0.readings", 9);
        t.ack(1, "imu1.readings", 10);
        t.expect(&[]);
        t.ack(1, "imu0.readings", 10);
        t.expect(&[Action::Delete(key("imu0.readings", 0))]);
        assert!(t.0.done());
    }

    #[test]
    fn silence_is_answered_with_one_batch_and_growing_patience() {
        let mut t = timeline();
        t.event(0, Event::Connected);
        t.hold(0, "imu0.readings", 0);
        t.hold(0, "imu0.readings", 10);
        t.expect(&[Action::Send(key("imu0.readings", 0)), Action::Send(key("imu0.readings", 10))]);
        assert_eq!(t.0.deadline(), Some(Mono(5_000_000)));
        t.event(4, Event::Tick);
        t.expect(&[]);
        t.event(5, Event::Tick);
        t.expect(&[Action::Send(key("imu0.readings", 0))]);
        assert_eq!(t.0.deadline(), Some(Mono(15_000_000)));
        t.ack(7, "imu0.readings", 10);
        t.expect(&[Action::Delete(key("imu0.readings", 0)), Action::Send(key("imu0.readings", 10))]);
        assert_eq!(t.0.deadline(), Some(Mono(12_000_000)));
    }

    #[test]
    fn a_batch_that_is_never_answered_holds_up_no_other() {
        let mut t = timeline();
        t.event(0, Event::Connected);
        for first_seq in [0, 10, 20, 30] {
            t.hold(0, "imu0.readings", first_seq);
        }
        let send = |first_seq| Action::Send(key("imu0.readings", first_seq));
        t.expect(&[send(0), send(10)]);
        // The server refuses 0 and 10 for good, and answers everything else.
        for (second, alone) in [(5, 0), (15, 10), (35, 20)] {
            t.event(second, Event::Tick);
            t.expect(&[send(alone)]);
        }
        let ack = |seconds, to, t: &mut Timeline| {
            let row = StreamRow { watermark: 0, ranges: vec![(20, to)] };
            t.event(seconds, Event::Ack(Ack { epoch: EPOCH, stream: "imu0.readings".parse().unwrap(), row, incarnation: 1 }));
        };
        ack(36, 30, &mut t);
        t.expect(&[Action::Delete(key("imu0.readings", 20)), send(0), send(10)]);
        t.event(41, Event::Tick);
        t.expect(&[send(30)]);
        ack(42, 40, &mut t);
        t.expect(&[Action::Delete(key("imu0.readings", 30)), send(0), send(10)]);
        // Round again.
        t.event(47, Event::Tick);
        t.expect(&[send(0)]);
    }

    #[test]
    fn a_reconnect_sends_again_what_was_on_its_way() {
        let mut t = timeline();
        t.event(0, Event::Connected);
        t.hold(0, "cam0.frames", 0);
        t.expect(&[Action::Send(key("cam0.frames", 0))]);
        t.event(1, Event::Disconnected);
        t.expect(&[]);
        assert_eq!(t.0.deadline(), None);
        t.event(2, Event::Connected);
        t.expect(&[Action::Send(key("cam0.frames", 0))]);
    }

    #[test]
    fn a_batch_that_was_given_up_leaves_room() {
        let mut t = timeline();
        t.event(0, Event::Connected);
        for first_seq in [0, 10, 20] {
            t.hold(0, "imu0.readings", first_seq);
        }
        t.expect(&[Action::Send(key("imu0.readings", 0)), Action::Send(key("imu0.readings", 10))]);
        t.event(1, Event::GivenUp(key("imu0.readings", 0)));
        t.expect(&[Action::Send(key("imu0.readings", 20))]);
    }
}

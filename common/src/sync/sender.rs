//! The sender: a machine that decides which durable batch goes out next and which may be deleted.
//!
//! Invariant: `Delete` is asked for only after an ack covers the whole batch. At most [`Limits::in_flight`] batches are
//! unanswered, and no more bytes are sent than the server's credit allows. What stays unanswered is sent again after a time that
//! doubles; then, and without credit, one batch goes at a time, each time another one. Not here: the batches' bytes (spool), the
//! connection (link).

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use core::{ops::Bound, time::Duration};

use crate::{
    id::{Class, Epoch, StreamId},
    sync::{
        credit::{Credit, Lease},
        receiver::Ack,
    },
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
    /// A session with the server stands; nothing of an earlier one counts as on its way, and no credit of it holds.
    Connected,
    Disconnected,
    /// A batch of `bytes` is durable, and goes up to but not including `end_seq`. Said again when it was degraded to fewer bytes.
    Held {
        key: BatchKey,
        end_seq: u64,
        bytes: u64,
    },
    /// A batch was given up; the ledger says why.
    GivenUp(BatchKey),
    Ack(Ack),
    Credit(Credit),
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `sent` goes with the batch: the bytes of all batches sent in this epoch, this one included.
    Send { key: BatchKey, sent: u64 },
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

#[derive(Clone, Copy, Debug)]
struct Held {
    end_seq: u64,
    bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Sender {
    limits: Limits,
    held: BTreeMap<BatchKey, Held>,
    /// The same, by stream: first seq to key, so that an ack need not look at every batch.
    by_stream: BTreeMap<(Epoch, StreamId), BTreeMap<u64, BatchKey>>,
    /// Unanswered, and since when.
    flying: BTreeMap<BatchKey, Mono>,
    /// The batch that last went alone. The next one to go alone comes after it, so one that is never answered holds up no other.
    went_alone: Option<BatchKey>,
    lease: Lease,
    /// Bytes of batches sent in this epoch.
    sent: u64,
    link: Link,
    /// Spreads the waits of devices that begin at the same moment.
    random: u64,
    actions: VecDeque<Action>,
}

#[derive(Debug, PartialEq)]
enum Link {
    Down,
    /// `patience` is the present resend time; while nothing is answered, batches go `alone`, and not before `not_before`.
    Up {
        patience: Duration,
        alone: bool,
        not_before: Mono,
    },
}

impl Sender {
    /// `seed`: any number that differs between devices.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            held: BTreeMap::new(),
            by_stream: BTreeMap::new(),
            flying: BTreeMap::new(),
            went_alone: None,
            lease: Lease::default(),
            sent: 0,
            link: Link::Down,
            random: seed | 1,
            actions: VecDeque::new(),
        }
    }

    pub fn handle(&mut self, now: Mono, event: Event) {
        match event {
            Event::Connected => {
                self.flying.clear();
                self.lease.end();
                self.link = Link::Up { patience: self.limits.resend, alone: false, not_before: now };
            }
            Event::Disconnected => {
                self.flying.clear();
                self.lease.end();
                self.link = Link::Down;
            }
            Event::Held { key, end_seq, bytes } => {
                let stream = self.by_stream.entry((key.epoch, key.stream.clone())).or_default();
                stream.insert(key.first_seq, key.clone());
                self.held.insert(key, Held { end_seq, bytes });
            }
            Event::GivenUp(key) => self.drop_batch(&key),
            Event::Ack(ack) => self.acked(&ack),
            Event::Credit(credit) => self.lease.extend(now, credit),
            Event::Tick => self.resend_what_is_late(now),
        }
        self.fill_the_window(now);
    }

    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When the oldest unanswered batch is late, or the next one may go alone.
    pub fn deadline(&self) -> Option<Mono> {
        let Link::Up { patience, not_before, .. } = self.link else { return None };
        let late = self.flying.values().min().map(|sent| *sent + patience);
        late.or((!self.held.is_empty()).then_some(not_before))
    }

    /// Since when the oldest unanswered batch waits.
    pub fn waits_since(&self) -> Option<Mono> {
        self.flying.values().min().copied()
    }

    /// Nothing is held that the server has not committed.
    pub fn done(&self) -> bool {
        self.held.is_empty()
    }

    /// How many batches wait for their commit.
    pub fn backlog(&self) -> usize {
        self.held.len()
    }

    /// Bytes of batches sent in this epoch.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    fn acked(&mut self, ack: &Ack) {
        let Some(stream) = self.by_stream.get(&(ack.epoch, ack.stream.clone())) else { return self.answered() };
        let highest = ack.row.ranges.last().map_or(ack.row.watermark, |(_, to)| *to);
        let covers = |key: &&BatchKey| self.held.get(key).is_some_and(|held| ack.row.covers(key.first_seq, held.end_seq));
        let covered: Vec<BatchKey> = stream.range(..highest).map(|(_, key)| key).filter(covers).cloned().collect();
        for key in covered {
            self.drop_batch(&key);
            self.actions.push_back(Action::Delete(key));
        }
        self.answered();
    }

    fn answered(&mut self) {
        if let Link::Up { patience, alone, .. } = &mut self.link {
            *patience = self.limits.resend;
            *alone = false;
        }
    }

    fn drop_batch(&mut self, key: &BatchKey) {
        self.held.remove(key);
        self.flying.remove(key);
        let name = (key.epoch, key.stream.clone());
        if let Some(stream) = self.by_stream.get_mut(&name) {
            stream.remove(&key.first_seq);
            if stream.is_empty() {
                self.by_stream.remove(&name);
            }
        }
    }

    fn resend_what_is_late(&mut self, now: Mono) {
        let Link::Up { patience, alone, not_before } = &mut self.link else { return };
        if self.flying.values().min().is_none_or(|sent| now < *sent + *patience) {
            return;
        }
        self.flying.clear();
        *patience = (*patience * 2).min(self.limits.resend_max);
        *alone = true;
        *not_before = now;
    }

    fn fill_the_window(&mut self, now: Mono) {
        let Link::Up { alone, .. } = self.link else { return };
        if alone || !self.lease.covers(now, self.sent) {
            return self.send_one_alone(now);
        }
        let room = self.limits.in_flight.saturating_sub(self.flying.len());
        let waiting = self.held.keys().filter(|key| !self.flying.contains_key(key));
        let next: Vec<BatchKey> = waiting.take(room).cloned().collect();
        for key in next {
            if !self.lease.covers(now, self.sent) {
                return;
            }
            self.send(now, key);
        }
    }

    fn send_one_alone(&mut self, now: Mono) {
        let Link::Up { patience, not_before, .. } = self.link else { return };
        if !self.flying.is_empty() || now < not_before {
            return;
        }
        let after = self.went_alone.take().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.held.range((after, Bound::Unbounded)).next().or_else(|| self.held.iter().next());
        let Some(key) = next.map(|(key, _)| key.clone()) else { return };
        // If its answer brings no credit, the next one waits for between half and the whole of the resend time.
        let pause = patience / 2 + (patience / 2).mul_f64(self.random());
        if let Link::Up { not_before, .. } = &mut self.link {
            *not_before = now + pause;
        }
        self.went_alone = Some(key.clone());
        self.send(now, key);
    }

    fn send(&mut self, now: Mono, key: BatchKey) {
        self.sent = self.sent.saturating_add(self.held.get(&key).map_or(0, |held| held.bytes));
        self.flying.insert(key.clone(), now);
        self.actions.push_back(Action::Send { key, sent: self.sent });
    }

    /// 0 to 1: a xorshift (G. Marsaglia, 2003); a wait needs no better one.
    fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random as f64 / u64::MAX as f64
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

    #[derive(Debug, PartialEq)]
    enum Did {
        Send(BatchKey),
        Delete(BatchKey),
    }

    impl Timeline {
        fn connected(&mut self, seconds: u64) {
            self.event(seconds, Event::Connected);
            self.event(seconds, Event::Credit(Credit { until: u64::MAX, ttl_ms: u32::MAX }));
        }
        fn event(&mut self, seconds: u64, event: Event) {
            self.0.handle(Mono(seconds * 1_000_000), event);
        }
        fn expect(&mut self, expected: &[Did]) {
            let did = |action| match action {
                Action::Send { key, .. } => Did::Send(key),
                Action::Delete(key) => Did::Delete(key),
            };
            let actions: Vec<Did> = core::iter::from_fn(|| self.0.poll()).map(did).collect();
            assert_eq!(actions, expected);
        }
        fn hold(&mut self, seconds: u64, stream: &str, first_seq: u64) {
            self.event(seconds, Event::Held { key: key(stream, first_seq), end_seq: first_seq + 10, bytes: 100 });
        }
        fn ack(&mut self, seconds: u64, stream: &str, watermark: u64) {
            let row = StreamRow { watermark, ranges: vec![] };
            self.event(seconds, Event::Ack(Ack { epoch: EPOCH, stream: stream.parse().unwrap(), row, incarnation: 1 }));
        }
    }

    fn timeline() -> Timeline {
        let limits = Limits { in_flight: 2, resend: Duration::from_secs(5), resend_max: Duration::from_secs(60) };
        Timeline(Sender::new(limits, 7))
    }

    #[test]
    fn nothing_is_sent_without_a_link_and_vital_goes_first() {
        let mut t = timeline();
        t.hold(0, "imu0.readings", 0);
        t.hold(0, "imu0.readings", 10);
        t.hold(0, "agent.reports", 0);
        t.expect(&[]);
        t.connected(1);
        t.expect(&[Did::Send(key("agent.reports", 0)), Did::Send(key("imu0.readings", 0))]);
        t.ack(2, "agent.reports", 10);
        t.expect(&[Did::Delete(key("agent.reports", 0)), Did::Send(key("imu0.readings", 10))]);
    }

    #[test]
    fn only_an_ack_that_covers_the_whole_batch_deletes_it() {
        let mut t = timeline();
        t.connected(0);
        t.hold(0, "imu0.readings", 0);
        t.expect(&[Did::Send(key("imu0.readings", 0))]);
        t.ack(1, "imu0.readings", 9);
        t.ack(1, "imu1.readings", 10);
        t.expect(&[]);
        t.ack(1, "imu0.readings", 10);
        t.expect(&[Did::Delete(key("imu0.readings", 0))]);
        assert!(t.0.done());
    }

    #[test]
    fn silence_is_answered_with_one_batch_and_growing_patience() {
        let mut t = timeline();
        t.connected(0);
        t.hold(0, "imu0.readings", 0);
        t.hold(0, "imu0.readings", 10);
        t.expect(&[Did::Send(key("imu0.readings", 0)), Did::Send(key("imu0.readings", 10))]);
        assert_eq!(t.0.deadline(), Some(Mono(5_000_000)));
        t.event(4, Event::Tick);
        t.expect(&[]);
        t.event(5, Event::Tick);
        t.expect(&[Did::Send(key("imu0.readings", 0))]);
        assert_eq!(t.0.deadline(), Some(Mono(15_000_000)));
        t.ack(7, "imu0.readings", 10);
        t.expect(&[Did::Delete(key("imu0.readings", 0)), Did::Send(key("imu0.readings", 10))]);
        assert_eq!(t.0.deadline(), Some(Mono(12_000_000)));
    }

    #[test]
    fn a_batch_that_is_never_answered_holds_up_no_other() {
        let mut t = timeline();
        t.connected(0);
        for first_seq in [0, 10, 20, 30] {
            t.hold(0, "imu0.readings", first_seq);
        }
        let send = |first_seq| Did::Send(key("imu0.readings", first_seq));
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
        t.expect(&[Did::Delete(key("imu0.readings", 20)), send(0), send(10)]);
        t.event(41, Event::Tick);
        t.expect(&[send(30)]);
        ack(42, 40, &mut t);
        t.expect(&[Did::Delete(key("imu0.readings", 30)), send(0), send(10)]);
        // Round again.
        t.event(47, Event::Tick);
        t.expect(&[send(0)]);
    }

    #[test]
    fn a_reconnect_sends_again_what_was_on_its_way() {
        let mut t = timeline();
        t.connected(0);
        t.hold(0, "cam0.frames", 0);
        t.expect(&[Did::Send(key("cam0.frames", 0))]);
        t.event(1, Event::Disconnected);
        t.expect(&[]);
        assert_eq!(t.0.deadline(), None);
        t.connected(2);
        t.expect(&[Did::Send(key("cam0.frames", 0))]);
    }

    #[test]
    fn a_batch_that_was_given_up_leaves_room() {
        let mut t = timeline();
        t.connected(0);
        for first_seq in [0, 10, 20] {
            t.hold(0, "imu0.readings", first_seq);
        }
        t.expect(&[Did::Send(key("imu0.readings", 0)), Did::Send(key("imu0.readings", 10))]);
        t.event(1, Event::GivenUp(key("imu0.readings", 0)));
        t.expect(&[Did::Send(key("imu0.readings", 20))]);
    }

    #[test]
    fn without_credit_one_batch_goes_at_a_time_and_not_at_once_after_its_ack() {
        let mut t = timeline();
        for first_seq in [0, 10, 20, 30] {
            t.hold(0, "imu0.readings", first_seq);
        }
        let send = |first_seq| Did::Send(key("imu0.readings", first_seq));
        t.event(0, Event::Connected);
        t.expect(&[send(0)]);
        t.ack(1, "imu0.readings", 10);
        t.expect(&[Did::Delete(key("imu0.readings", 0))]);
        let next = t.0.deadline().expect("one may go alone later");
        assert!((Mono(2_500_000)..=Mono(5_000_000)).contains(&next), "{next:?}");
        t.event(5, Event::Tick);
        t.expect(&[send(10)]);
        // 200 bytes are sent; the credit is for one batch more.
        let credit = Credit { until: 201, ttl_ms: 10_000 };
        t.event(6, Event::Credit(credit));
        t.expect(&[send(20)]);
        t.event(6, Event::Credit(credit));
        t.ack(7, "imu0.readings", 20);
        t.expect(&[Did::Delete(key("imu0.readings", 10))]);
        assert_eq!(t.0.sent(), 300);
    }

    #[test]
    fn a_credit_that_has_run_out_in_time_is_none() {
        let mut t = timeline();
        t.event(0, Event::Connected);
        t.event(0, Event::Credit(Credit { until: 1_000_000, ttl_ms: 10_000 }));
        t.event(11, Event::Tick);
        for first_seq in [0, 10, 20] {
            t.hold(11, "imu0.readings", first_seq);
        }
        t.expect(&[Did::Send(key("imu0.readings", 0))]);
    }
}

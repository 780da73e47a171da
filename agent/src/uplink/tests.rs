//! The uplink against a link in RAM and stores on disk.

use async_trait::async_trait;
use wayside_common::{
    block::Block,
    gap::{Extent, Gap, Reason},
    reading::Reading,
    record::{Batch, Body},
    schedule::Position,
    sync::{
        credit::Credit,
        receiver::{Ack, StreamRow},
    },
    topic::Down,
};

use super::*;
use crate::{scratch::Scratch, spool::Cut};

/// Both ends of a link that the test drives.
struct Wire {
    tell: mpsc::UnboundedSender<LinkEvent>,
    said: mpsc::UnboundedReceiver<(Up, FromDevice)>,
}

struct InRam {
    events: mpsc::UnboundedReceiver<LinkEvent>,
    say: mpsc::UnboundedSender<(Up, FromDevice)>,
}

#[async_trait]
impl Link for InRam {
    async fn next(&mut self) -> LinkEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
    fn publish(&mut self, up: Up, bytes: Vec<u8>, _: Care) -> bool {
        self.say.send((up, wire::decode(&bytes).expect("the uplink sends what can be read"))).is_ok()
    }
    fn rebuild(&mut self) {}
    async fn close(&mut self) {}
}

struct Bed {
    wire: Wire,
    spool: Store<Spool>,
    state: Store<State>,
    held: mpsc::Sender<Event>,
    installed: watch::Sender<Installed>,
    stop: watch::Sender<Option<Mono>>,
    hello_due: Arc<Notify>,
    clock: Clock,
    task: tokio::task::JoinHandle<Drained>,
    arrived: mpsc::Receiver<Arrived>,
    _outbox: mpsc::Sender<Outgoing>,
    _given_up: mpsc::Receiver<GivenUp>,
    _fault: watch::Sender<bool>,
    _dir: Scratch,
}

const CREDIT: Credit = Credit { until: u64::MAX, ttl_ms: 60_000 };
const EPOCH: Epoch = Epoch { counter: 1, nonce: 1 };

fn bed() -> Bed {
    let (bed, uplink) = idle_bed();
    Bed { task: tokio::spawn(uplink.run()), ..bed }
}

/// The uplink is not started.
fn idle_bed() -> (Bed, Uplink) {
    let dir = Scratch::new();
    let clock = Clock::start();
    let (spool, _) = Spool::open(dir.path(), &crate::spool::Config::default()).unwrap();
    let (spool, state) = (Store::new(spool), Store::new(State::open(dir.path()).unwrap()));
    let (tell, events) = mpsc::unbounded_channel();
    let (say, said) = mpsc::unbounded_channel();
    let (held, held_seen) = mpsc::channel(10);
    let (outbox, outbox_seen) = mpsc::channel(10);
    let (arrived, arrived_seen) = mpsc::channel(10);
    let (given_up, given_up_seen) = mpsc::channel(10);
    let (installed, installed_seen) = watch::channel(Installed::default());
    let (fault, fault_seen) = watch::channel(false);
    let (stop, stop_seen) = watch::channel(None);
    let hello_due = Arc::new(Notify::new());
    let uplink = Uplink {
        identity: Identity {
            fleet: "demo".parse().unwrap(),
            device: "imu-1".parse().unwrap(),
            class: "imu".parse().unwrap(),
            epoch: EPOCH,
            started: Wall(1),
        },
        clock,
        link: Box::new(InRam { events, say }),
        sender: Sender::new(LIMITS, 1),
        spool: spool.clone(),
        state: state.clone(),
        held: held_seen,
        outbox: outbox_seen,
        arrived,
        given_up,
        hello_due: Arc::clone(&hello_due),
        installed: installed_seen,
        storage_fault: fault_seen,
        stop: stop_seen,
    };
    let task = tokio::spawn(std::future::pending());
    let wire = Wire { tell, said };
    let bed = Bed {
        wire,
        spool,
        state,
        held,
        installed,
        stop,
        hello_due,
        clock,
        task,
        arrived: arrived_seen,
        _outbox: outbox,
        _given_up: given_up_seen,
        _fault: fault,
        _dir: dir,
    };
    (bed, uplink)
}

#[test]
fn a_link_is_wedged_when_it_is_silent_although_something_waits() {
    struct Case {
        what: &'static str,
        heard: u64,
        waits: &'static [(u64, bool)],
        wedged: Option<u64>,
    }
    let cases = [
        Case { what: "nothing waits", heard: 5, waits: &[], wedged: None },
        Case { what: "what comes after a long rest has its own time", heard: 0, waits: &[(60, true)], wedged: Some(80) },
        Case { what: "an answer to something else counts", heard: 65, waits: &[(60, true), (70, true)], wedged: Some(85) },
        Case { what: "each wait counts from its own start", heard: 61, waits: &[(60, true), (61, false), (120, true)], wedged: Some(140) },
        Case { what: "all is answered", heard: 61, waits: &[(60, true), (61, false)], wedged: None },
    ];
    let at = |second: u64| Mono(second * 1_000_000);
    for Case { what, heard, waits, wedged } in cases {
        let mut connection = Connection::new(at(heard));
        waits.iter().for_each(|(second, waits)| connection.waits(*waits, at(*second)));
        assert_eq!(connection.wedged_at(), wedged.map(at), "{what}");
    }
}

#[tokio::test]
async fn a_hello_that_cannot_be_made_is_not_tried_again_at_once() {
    let (bed, mut uplink) = idle_bed();
    bed.state.with(|state| state.execute_batch("ALTER TABLE ledger RENAME TO away").unwrap()).await;
    let mut connection = Connection::new(Mono(0));
    (connection.up, connection.ledger_said) = (true, Some(Mono(0)));
    let before = uplink.clock.mono();
    uplink.say_hello(&mut connection).await;
    assert!(connection.ledger_said.is_some_and(|said| said >= before), "{:?}", connection.ledger_said);
    assert!(uplink.wake_at(&connection) >= before + HELLO_AGAIN);
}

impl Bed {
    async fn store(&self, first_seq: u64, rows: u64) {
        let readings: Vec<Reading> =
            (first_seq..first_seq + rows).map(|p| Reading { position: Position(p), mono: Mono(p), values: vec![] }).collect();
        let cut = Cut {
            stream: "imu0.readings".parse().unwrap(),
            first_seq,
            body: Body::Readings(Block::pack(&[], &readings).unwrap()),
            positions: Some((Position(first_seq), Position(first_seq + rows - 1))),
            span: (Wall(0), Wall(1)),
        };
        let clock = self.clock.stamp();
        let held = self.spool.with(move |spool| spool.append(EPOCH, clock, &[cut])).await.unwrap().remove(0);
        self.held.send(Event::Held { key: held.key, end_seq: held.end_seq, bytes: held.bytes }).await.unwrap();
    }

    fn ack(&self, watermark: u64) {
        let row = StreamRow { watermark, ranges: vec![] };
        let ack = Ack { epoch: EPOCH, stream: "imu0.readings".parse().unwrap(), row, incarnation: 1 };
        self.receive(Down::Ack, &ToDevice::Ack { ack, credit: CREDIT });
    }

    fn receive(&self, down: Down, packet: &ToDevice) {
        let topic = Topic::Down("demo".parse().unwrap(), "imu-1".parse().unwrap(), down);
        self.wire.tell.send(LinkEvent::Received { topic, bytes: wire::encode(packet) }).unwrap();
    }

    async fn hello(&mut self) -> Hello {
        match self.wire.said.recv().await {
            Some((Up::State, FromDevice::Hello(hello))) => hello,
            other => panic!("{other:?} instead of a hello"),
        }
    }

    async fn batch(&mut self) -> Batch {
        match self.wire.said.recv().await {
            Some((Up::Batch, FromDevice::Batch { batch, .. })) => batch,
            other => panic!("{other:?} instead of a batch"),
        }
    }
}

#[tokio::test]
async fn a_connection_begins_with_a_hello_and_only_an_ack_deletes() {
    let mut bed = bed();
    bed.store(0, 5).await;
    bed.wire.tell.send(LinkEvent::Up).unwrap();
    let hello = bed.hello().await;
    assert_eq!((hello.epoch, hello.streams.len(), hello.streams[0].next), (EPOCH, 1, 5));
    assert_eq!(bed.batch().await.first_seq, 0);
    assert_eq!(bed.arrived.recv().await, Some(Arrived::Connected));

    // Before its ack a lost connection sends it again.
    bed.wire.tell.send(LinkEvent::Down("test".into())).unwrap();
    bed.wire.tell.send(LinkEvent::Up).unwrap();
    bed.hello().await;
    assert_eq!(bed.batch().await.first_seq, 0);
    bed.ack(4);
    bed.store(5, 2).await;
    assert_eq!(bed.batch().await.first_seq, 5);
    assert_eq!(bed.spool.with(|spool| spool.held().unwrap().len()).await, 2);
    bed.ack(7);
    let deadline = bed.clock.mono() + Duration::from_secs(20);
    bed.stop.send_replace(Some(deadline));
    assert_eq!(bed.task.await.unwrap(), Drained { left: 0 });
    assert_eq!(bed.spool.with(|spool| spool.held().unwrap()).await, []);
}

#[tokio::test]
async fn the_ledger_travels_until_it_is_acked_and_changes_are_told() {
    let mut bed = bed();
    bed.wire.tell.send(LinkEvent::Up).unwrap();
    assert_eq!(bed.hello().await.ledger, []);
    let gap = Gap {
        epoch: EPOCH,
        stream: "imu0.readings".parse().unwrap(),
        extent: Extent::Exact { first_seq: 0, last_seq: 4 },
        positions: Some((Position(0), Position(4))),
        span: (Wall(0), Wall(1)),
        reason: Reason::DiskFull,
    };
    let entered = gap.clone();
    bed.state.with(move |state| state.enter_gaps(&[entered])).await.unwrap();
    bed.hello_due.notify_one();
    let hello = bed.hello().await;
    assert_eq!(hello.ledger, [gap]);
    bed.receive(Down::Ack, &ToDevice::HelloAck { ledger_version: hello.ledger_version, credit: CREDIT });
    bed.receive(Down::Desired, &ToDevice::Desired(vec![7]));
    assert_eq!(bed.arrived.recv().await, Some(Arrived::Connected));
    assert_eq!(bed.arrived.recv().await, Some(Arrived::Packet(ToDevice::Desired(vec![7]))));
    bed.installed.send_modify(|installed| installed.generation = wayside_common::fleet::Generation(3));
    let hello = bed.hello().await;
    assert_eq!((hello.generation.0, hello.ledger), (3, vec![]));
    let slots = vec![wayside_common::fleet::SlotStatus { slot: "motion".parse().unwrap(), active: None }];
    bed.installed.send_modify(|installed| installed.slots = slots.clone());
    assert_eq!(bed.wire.said.recv().await, Some((Up::State, FromDevice::Slots(slots))));
}

//! The keeper: takes cut batches, commits them in groups, and enters into the ledger what could not be kept.
//!
//! Invariant: a batch that came in is either announced as held or stands in the ledger, or waits in RAM for a ledger that the
//! disk refuses as well. Not here: SQL (`spool`, `state`), sending (`uplink`).

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use wayside_common::{
    gap::{Extent, Gap, Reason},
    id::{Class, Epoch, StreamId},
    record::Fact,
    sync::sender,
};

use crate::{
    ledger,
    report::Reporter,
    spool::{Cut, HeldBatch, Spool},
    store::Store,
};

/// How long a commit waits for company; with the batcher's age it stays below the commit interval.
const GATHER: Duration = Duration::from_millis(100);
const MOST_IN_ONE_COMMIT: usize = 64;

pub struct Keeper {
    pub spool: Store<Spool>,
    pub reporter: Reporter,
    pub cuts: mpsc::Receiver<Cut>,
    /// Batches that the uplink gives up: it could not read them back, or the server has refused them.
    pub given_up: mpsc::Receiver<GivenUp>,
    /// Set once a store has failed.
    pub storage_fault: watch::Sender<bool>,
}

/// A batch that nobody can send any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    pub key: sender::BatchKey,
    pub reason: Reason,
    /// For people.
    pub why: String,
}

/// What the task remembers.
#[derive(Default)]
struct Memory {
    /// Entries that are not in the ledger yet.
    waiting: Vec<Gap>,
    /// Of what the spool has given up and not yet forgotten, what waits or is entered already: it is not entered twice.
    taken: BTreeSet<(Epoch, StreamId, u64)>,
    /// The last append failed.
    failing: bool,
    /// The last attempt to write the ledger failed.
    ledger_failing: bool,
    /// A fault that no store could take down yet.
    fault: Option<Fact>,
}

impl Keeper {
    /// Ends when nobody can send a cut any more; then everything that came is kept or accounted for.
    pub async fn run(mut self) {
        let mut memory = Memory::default();
        self.settle(&mut memory).await;
        loop {
            tokio::select! {
                biased;
                Some(given_up) = self.given_up.recv() => self.mourn(given_up, &mut memory).await,
                cut = self.cuts.recv() => {
                    let Some(cut) = cut else { break };
                    let cuts = self.gather(cut).await;
                    self.keep(cuts, &mut memory).await;
                    self.look_for_damage(&mut memory).await;
                    self.make_room(&mut memory).await;
                }
            }
        }
        self.enter(&mut memory).await;
    }

    async fn gather(&mut self, first: Cut) -> Vec<Cut> {
        let until = Instant::now() + GATHER;
        let mut cuts = vec![first];
        while cuts.len() < MOST_IN_ONE_COMMIT
            && let Ok(Some(cut)) = timeout_at(until, self.cuts.recv()).await
        {
            cuts.push(cut);
        }
        cuts
    }

    async fn keep(&mut self, cuts: Vec<Cut>, memory: &mut Memory) {
        let (epoch, clock) = (self.reporter.epoch, self.reporter.clock.stamp());
        let (cuts, kept) = self
            .spool
            .with(move |spool| {
                let kept = spool.append(epoch, clock, &cuts);
                (cuts, kept)
            })
            .await;
        match kept {
            Ok(held) => {
                if memory.failing {
                    tracing::info!("batches can be stored again");
                }
                memory.failing = false;
                for HeldBatch { key, end_seq, bytes } in held {
                    let _ = self.reporter.held.send(sender::Event::Held { key, end_seq, bytes }).await;
                }
            }
            Err(error) => {
                cuts.iter().for_each(|cut| ledger::push(&mut memory.waiting, cut.lost(epoch, Reason::DiskFull)));
                if !memory.failing {
                    tracing::error!(%error, "batches cannot be stored; what is dropped stands in the ledger");
                    self.fault(error.to_string(), memory);
                }
                memory.failing = true;
            }
        }
        self.enter(memory).await;
    }

    /// A file that turned out to be damaged was replaced with what could be saved of it.
    async fn look_for_damage(&mut self, memory: &mut Memory) {
        let Some(damage) = self.spool.with(Spool::take_damage).await else { return };
        tracing::error!(reason = damage.reason, saved = damage.saved, lost = damage.lost, "the spool was damaged");
        self.fault(damage.reason, memory);
        self.settle(memory).await;
    }

    /// Degrades and gives up what does not fit. The ledger entries are durable before anything is deleted.
    async fn make_room(&mut self, memory: &mut Memory) {
        loop {
            let room = match self.spool.with(Spool::make_room).await {
                Ok(room) => room,
                Err(error) => return tracing::error!(%error, "the spool cannot make room"),
            };
            for HeldBatch { key, end_seq, bytes } in room.degraded {
                let _ = self.reporter.held.send(sender::Event::Held { key, end_seq, bytes }).await;
            }
            let settle = !room.given_up.is_empty();
            for key in room.given_up {
                let _ = self.reporter.held.send(sender::Event::GivenUp(key)).await;
            }
            if settle {
                self.settle(memory).await;
            }
            if !room.more {
                return;
            }
        }
    }

    async fn mourn(&mut self, given_up: GivenUp, memory: &mut Memory) {
        let GivenUp { key, reason, why } = given_up;
        tracing::error!(stream = %key.stream, first_seq = key.first_seq, why, "a batch is given up");
        let marked = key.clone();
        let marking = match key.class {
            Class::Vital => {
                let now = self.reporter.clock.wall();
                self.reporter.state.with(move |state| state.refuse_vital(&marked, now)).await.map_err(|error| error.to_string())
            }
            Class::Normal | Class::Bulk => {
                self.spool.with(move |spool| spool.give_up_for(&marked, reason)).await.map_err(|error| error.to_string())
            }
        };
        if let Err(error) = marking {
            // It stays held, and is given up again when it is sent again.
            return tracing::error!(error, "the batch cannot be marked as given up");
        }
        let _ = self.reporter.held.send(sender::Event::GivenUp(key)).await;
        if reason == Reason::SpoolLost {
            self.fault("a batch is damaged".into(), memory);
        }
        self.settle(memory).await;
        self.reporter.hello_due.notify_one();
    }

    /// Brings what is given up into the ledger and then out of the spool; also what a death in between has left.
    async fn settle(&mut self, memory: &mut Memory) {
        match self.spool.with(|spool| spool.given_up()).await {
            Ok(gaps) if gaps.is_empty() => return,
            Ok(gaps) => {
                gaps.into_iter().filter(|gap| memory.taken.insert(name(gap))).for_each(|gap| ledger::push(&mut memory.waiting, gap))
            }
            Err(error) => return tracing::error!(%error, "the spool cannot say what it gave up"),
        }
        if !self.enter(memory).await {
            return;
        }
        match self.spool.with(Spool::forget).await {
            Ok(()) => memory.taken.clear(),
            Err(error) => tracing::error!(%error, "what was given up cannot be deleted"),
        }
    }

    /// Writes the waiting entries, and the fault; `false`: the disk refused, they go on waiting.
    async fn enter(&mut self, memory: &mut Memory) -> bool {
        if memory.waiting.is_empty() && memory.fault.is_none() {
            return true;
        }
        let (gaps, fault) = (memory.waiting.clone(), memory.fault.is_some());
        let entered = self.reporter.state.with(move |state| {
            if fault {
                state.set_storage_fault()?;
            }
            state.enter_gaps(&gaps)
        });
        match entered.await {
            Ok(()) => {
                memory.waiting.clear();
                memory.ledger_failing = false;
                self.reporter.hello_due.notify_one();
                if let Some(fault) = memory.fault.take() {
                    self.reporter.report(fault).await;
                }
                true
            }
            Err(error) => {
                if !memory.ledger_failing {
                    tracing::error!(%error, "the ledger cannot be written; its entries wait in RAM");
                }
                memory.ledger_failing = true;
                false
            }
        }
    }

    /// From now on every hello says that a store has failed.
    fn fault(&mut self, reason: String, memory: &mut Memory) {
        self.storage_fault.send_replace(true);
        self.reporter.hello_due.notify_one();
        memory.fault = Some(Fact::StorageFault { store: "spool".into(), reason });
    }
}

/// What tells one batch that was given up from another.
fn name(gap: &Gap) -> (Epoch, StreamId, u64) {
    let first_seq = match gap.extent {
        Extent::Exact { first_seq, .. } => first_seq,
        Extent::Unknown { after_seq } => after_seq.unwrap_or(0),
    };
    (gap.epoch, gap.stream.clone(), first_seq)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;
    use wayside_common::{block::Block, reading::Reading, record::Body, schedule::Position, time::Mono, time::Wall};

    use super::*;
    use crate::{clock::Clock, scratch::Scratch, spool, state::State};

    #[tokio::test]
    async fn what_is_given_up_is_entered_once_however_often_the_disk_refuses() {
        let dir = Scratch::new();
        let state = Store::new(State::open(dir.path()).unwrap());
        let (mut spool, _) = Spool::open(dir.path(), &spool::Config { max_bytes: 1, ..spool::Config::default() }).unwrap();
        let epoch = Epoch { counter: 1, nonce: 1 };
        let reading = Reading { position: Position(0), mono: Mono(0), values: vec![] };
        let cut = Cut {
            stream: "imu0.readings".parse().unwrap(),
            first_seq: 0,
            body: Body::Readings(Block::pack(&[], &[reading]).unwrap()),
            positions: Some((Position(0), Position(0))),
            span: (Wall(0), Wall(0)),
        };
        let clock = Clock::start();
        spool.append(epoch, clock.stamp(), std::slice::from_ref(&cut)).unwrap();
        spool.make_room().unwrap();
        let (held, _held_seen) = mpsc::channel(10);
        let reporter = Reporter { epoch, clock, state: state.clone(), held, hello_due: Arc::new(Notify::new()) };
        let ((_cuts, cuts), (_given_up, given_up), (storage_fault, _)) = (mpsc::channel(1), mpsc::channel(1), watch::channel(false));
        let mut keeper = Keeper { spool: Store::new(spool), reporter, cuts, given_up, storage_fault };
        let batches = keeper.spool.clone();
        let on_state = |sql: &'static str| state.with(move |state| state.execute_batch(sql).unwrap());
        let on_spool = |sql: &'static str| batches.with(move |spool| spool.execute_batch(sql).unwrap());

        let mut memory = Memory::default();
        on_state("ALTER TABLE ledger RENAME TO away").await;
        keeper.settle(&mut memory).await;
        keeper.settle(&mut memory).await;
        assert_eq!(memory.waiting, [cut.lost(epoch, Reason::Evicted)]);
        on_state("ALTER TABLE away RENAME TO ledger").await;
        on_spool("CREATE TRIGGER no BEFORE DELETE ON batch BEGIN SELECT raise(ABORT, 'no'); END").await;
        keeper.settle(&mut memory).await;
        on_spool("DROP TRIGGER no").await;
        keeper.settle(&mut memory).await;
        assert_eq!(state.with(|state| state.ledger().unwrap().gaps).await, [cut.lost(epoch, Reason::Evicted)]);
        assert_eq!(keeper.spool.with(|spool| spool.given_up().unwrap()).await, []);
    }
}

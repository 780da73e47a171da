//! The keeper: takes cut batches, commits them in groups, and enters into the ledger what could not be kept.
//!
//! Invariant: a batch that came in is either announced as held or stands in the ledger, or waits in RAM for a ledger that the
//! disk refuses as well. Not here: SQL (`spool`, `state`), sending (`uplink`).

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use wayside_common::{
    gap::{Gap, Reason},
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
    /// Batches that the uplink could not read back.
    pub damaged: mpsc::Receiver<sender::BatchKey>,
    /// Set once a store has failed.
    pub storage_fault: watch::Sender<bool>,
}

impl Keeper {
    /// Ends when nobody can send a cut any more; then everything that came is kept or accounted for.
    pub async fn run(mut self) {
        let mut waiting = Vec::new();
        let mut failing = false;
        self.settle(&mut waiting).await;
        loop {
            tokio::select! {
                cut = self.cuts.recv() => {
                    let Some(cut) = cut else { break };
                    let cuts = self.gather(cut).await;
                    failing = self.keep(cuts, &mut waiting, failing).await;
                    self.make_room(&mut waiting).await;
                }
                Some(key) = self.damaged.recv() => self.mourn(key, &mut waiting).await,
            }
        }
        self.enter(&mut waiting).await;
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

    /// Commits; gives whether the store is failing.
    async fn keep(&mut self, cuts: Vec<Cut>, waiting: &mut Vec<Gap>, was_failing: bool) -> bool {
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
                for HeldBatch { key, end_seq } in held {
                    let _ = self.reporter.held.send(sender::Event::Held { key, end_seq }).await;
                }
                self.enter(waiting).await;
                false
            }
            Err(error) => {
                cuts.iter().for_each(|cut| ledger::push(waiting, cut.lost(epoch, Reason::DiskFull)));
                if !was_failing {
                    tracing::error!(%error, "batches cannot be stored; what is dropped stands in the ledger");
                    self.fault("spool", error.to_string()).await;
                }
                self.enter(waiting).await;
                true
            }
        }
    }

    /// Gives up what does not fit. Its ledger entries are durable before it is deleted.
    async fn make_room(&mut self, waiting: &mut Vec<Gap>) {
        match self.spool.with(Spool::give_up).await {
            Ok(keys) if keys.is_empty() => {}
            Ok(keys) => {
                for key in keys {
                    let _ = self.reporter.held.send(sender::Event::GivenUp(key)).await;
                }
                self.settle(waiting).await;
            }
            Err(error) => tracing::error!(%error, "the spool cannot make room"),
        }
    }

    /// A batch whose bytes are not those that were written.
    async fn mourn(&mut self, key: sender::BatchKey, waiting: &mut Vec<Gap>) {
        tracing::error!(stream = %key.stream, first_seq = key.first_seq, "a batch in the spool is damaged");
        let damaged = key.clone();
        if let Err(error) = self.spool.with(move |spool| spool.give_up_damaged(&damaged)).await {
            tracing::error!(%error, "the damaged batch cannot be marked");
        }
        let _ = self.reporter.held.send(sender::Event::GivenUp(key)).await;
        self.fault("spool", "a batch is damaged".into()).await;
        self.settle(waiting).await;
    }

    /// Brings what is given up into the ledger and then out of the spool; also what a death in between has left.
    async fn settle(&mut self, waiting: &mut Vec<Gap>) {
        match self.spool.with(|spool| spool.given_up()).await {
            Ok(gaps) if gaps.is_empty() => return,
            Ok(gaps) => gaps.into_iter().for_each(|gap| ledger::push(waiting, gap)),
            Err(error) => return tracing::error!(%error, "the spool cannot say what it gave up"),
        }
        if self.enter(waiting).await
            && let Err(error) = self.spool.with(Spool::forget).await
        {
            tracing::error!(%error, "what was given up cannot be deleted");
        }
    }

    /// Writes the waiting entries; `false`: the disk refused, they go on waiting.
    async fn enter(&mut self, waiting: &mut Vec<Gap>) -> bool {
        if waiting.is_empty() {
            return true;
        }
        let gaps = waiting.clone();
        match self.reporter.state.with(move |state| state.enter_gaps(&gaps)).await {
            Ok(()) => {
                waiting.clear();
                self.reporter.hello_due.notify_one();
                true
            }
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be written; its entries wait");
                false
            }
        }
    }

    async fn fault(&mut self, store: &str, reason: String) {
        self.storage_fault.send_replace(true);
        if let Err(error) = self.reporter.state.with(|state| state.set_storage_fault()).await {
            tracing::error!(%error, "the storage fault cannot be noted");
        }
        self.reporter.hello_due.notify_one();
        self.reporter.report(Fact::StorageFault { store: store.into(), reason }).await;
    }
}

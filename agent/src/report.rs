//! Telling the server a vital fact: durable first, then on its way.
//!
//! Invariant: when [`Reporter::report`] returns, the fact is in `state.db`, or the log says why not. Not here: sending.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use wayside_common::{id::Epoch, record::Fact, sync::sender};

use crate::{
    clock::Clock,
    spool::HeldBatch,
    state::{State, StateError, Transition},
    store::Store,
};

/// A handle that any task may hold.
#[derive(Clone, Debug)]
pub struct Reporter {
    pub epoch: Epoch,
    pub clock: Clock,
    pub state: Store<State>,
    /// To the uplink: what is durable now.
    pub held: mpsc::Sender<sender::Event>,
    /// To the uplink: something that a hello tells has changed.
    pub hello_due: Arc<Notify>,
}

impl Reporter {
    pub async fn report(&self, fact: Fact) {
        let (epoch, clock) = (self.epoch, self.clock.stamp());
        match self.state.with(move |state| state.report(epoch, clock, vec![fact])).await {
            Ok(held) => self.announce(held).await,
            Err(error) => tracing::error!(%error, "a report could not be stored"),
        }
    }

    /// Writes a step of the updater together with its reports.
    pub async fn transition(&self, change: Transition) -> Result<(), StateError> {
        let (epoch, clock) = (self.epoch, self.clock.stamp());
        let held = self.state.with(move |state| state.transition(epoch, clock, change)).await?;
        self.announce(held).await;
        Ok(())
    }

    /// Reports what others find out, until nobody can find out anything more.
    pub async fn forward(self, mut facts: mpsc::Receiver<Fact>) {
        while let Some(fact) = facts.recv().await {
            self.report(fact).await;
        }
    }

    async fn announce(&self, held: Option<HeldBatch>) {
        if let Some(HeldBatch { key, end_seq, bytes }) = held {
            // The uplink ends last; if it is gone, the batch is sent after the next start.
            let _ = self.held.send(sender::Event::Held { key, end_seq, bytes }).await;
        }
    }
}

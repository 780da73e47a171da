//! Renews this device's certificate while the agent runs.
//!
//! Invariant: the new identity is on the disk before a connection is made with it; a try that fails is made again, ever more rarely, and the
//! old identity stays. Not here: the renewal itself (`enroll`), connections (`link`).

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use wayside_common::backoff::full_jitter;

use super::{identity::Identity, is_refusal, renew};
use crate::clock::Timekeeper;

const BACKOFF_BASE: Duration = Duration::from_secs(2);
const BACKOFF_CAP: Duration = Duration::from_secs(600);
/// How long the task trusts its own reckoning: the clock may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

pub struct Renewal {
    pub data_dir: PathBuf,
    pub identity: watch::Sender<Arc<Identity>>,
    pub time: Timekeeper,
    /// A broker did not take the certificate.
    pub refused: Arc<Notify>,
}

impl Renewal {
    /// Never ends by itself.
    pub async fn run(self) {
        let mut tries = 0;
        loop {
            if tries == 0 {
                self.until_due().await;
            } else {
                let random = getrandom::u64().unwrap_or(u64::MAX);
                sleep(full_jitter(BACKOFF_BASE, BACKOFF_CAP, tries - 1, random).max(BACKOFF_BASE / 2)).await;
            }
            match self.renew().await {
                Ok(()) => tries = 0,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), tries, "this device's certificate is not renewed");
                    // Who is refused by name asks rarely: a person has to let it in again.
                    tries = if is_refusal(&error) { u32::from(u8::MAX) } else { tries.saturating_add(1) };
                }
            }
        }
    }

    async fn until_due(&self) {
        loop {
            let due = self.identity.borrow().renew_at().unwrap_or_default();
            let left = due.0.saturating_sub(self.time.now().at.0);
            let Ok(left) = u64::try_from(left) else { return };
            let left = Duration::from_millis(left.max(10));
            tokio::select! {
                () = sleep(left.min(LOOK_AGAIN)) => if left <= LOOK_AGAIN { return },
                () = self.refused.notified() => return,
            }
        }
    }

    async fn renew(&self) -> anyhow::Result<()> {
        let identity = self.identity.borrow().clone();
        let renewed = renew(&identity, &self.time).await?;
        let (saved, data_dir) = (renewed.clone(), self.data_dir.clone());
        tokio::task::spawn_blocking(move || saved.save(&data_dir)).await??;
        tracing::info!("this device has a new certificate");
        self.identity.send_replace(Arc::new(renewed));
        Ok(())
    }
}

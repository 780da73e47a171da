//! The composition root: makes the parts of a running server and connects them.
//!
//! Invariant: nothing is decided here; parts stop in the reverse order of their start. Not here: signals and configuration files (`cli::serve`).

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    api::{
        self, Shared, Token,
        control::{self, Control},
    },
    broker::{self, Broker},
    clock,
    config::Config,
    db::{self, Db},
    events::Events,
    ingest::Intake,
    keys,
    pipeline::Pipeline,
    registry::{blob::BlobStore, packages::Packages, signer::Signer, trust::Trust},
    retention,
    rollout::{Rollout, supply::Supply},
    ui::{self, Sources},
};

/// How long a stop waits for requests that are under way; event streams never end by themselves.
const DRAIN: Duration = Duration::from_secs(3);

/// A server that runs.
pub struct Server {
    addresses: Vec<String>,
    broker: Broker,
    api: JoinHandle<anyhow::Result<()>>,
    retention: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Everything is listening when this returns.
    pub async fn start(config: Config, token: Option<String>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&config.data_dir).with_context(|| format!("could not make {}", config.data_dir.display()))?;
        let token = Token::open(&config.data_dir.join("token"), token.as_deref())?;
        let db: Arc<dyn Db> = db::open(config.db.as_deref(), &config.data_dir).await?;
        db.nobody_is_online().await?;
        let (events, fleet) = (Events::default(), config.fleet);
        let blobs = BlobStore::open(&config.data_dir.join("blobs"))?;
        let packages = Arc::new(Packages::new(db.clone(), blobs.clone()));
        for folder in &config.packages {
            packages.admit_shipped(folder, clock::wall()).await?;
        }
        let trust = Arc::new(Trust::open(&config.trust.dir, db.clone()).await?);
        let signer = Signer::new(fleet.clone(), keys::load(&config.trust.dir.join(keys::ASSIGN_KEY))?);
        let rollout = Arc::new(Rollout::new(db.clone(), Supply::new(blobs), signer, events.clone()));

        // The API is bound before the broker starts, so that a server whose port is taken never acks a device.
        let listener = api::bind(&config.api).await?;
        let api_address = listener.local_addr()?;
        let intake = Arc::new(Intake::start(db.clone(), rollout.clone(), events.clone()));
        let broker = broker::start(config.broker, fleet.clone(), intake).await?;
        rollout.attach(broker.downlink());

        let retention = tokio::spawn(retention::run(db.clone(), config.retention));
        let pipeline = Pipeline::open(db.clone(), packages.clone(), events.clone(), config.jobs, config.data_dir.join("retrain")).await?;
        let control =
            Control { db: db.clone(), packages: packages.clone(), trust, rollout, pipeline: Arc::new(pipeline), events: events.clone() };
        let page = ui::router(Sources { db: db.clone(), references: packages.clone(), fleet });
        let shared = Shared { db, references: packages, events };
        let (stop, stopped) = watch::channel(false);
        let api = tokio::spawn(api::serve(listener, api::router(shared, token.clone(), control::router(control).merge(page)), stopped));
        let addresses = [
            Some(format!("api http://{api_address}")),
            broker.address().map(|address| format!("mqtt {address}")),
            Some(format!("token {}", token.reveal())),
        ];
        Ok(Self { addresses: addresses.into_iter().flatten().collect(), broker, api, retention, stop })
    }

    /// One line each: what is reached where, and the token.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Returns when a part has ended by itself.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.api).await {
            Ok(Ok(())) => anyhow::anyhow!("the API has ended"),
            Ok(Err(e)) => e,
            Err(e) => anyhow::Error::new(e).context("the API has ended"),
        }
    }

    /// Devices are drained first: what they were told is committed by then.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.retention.abort();
        self.broker.stop().await;
        self.stop.send_replace(true);
        if !self.api.is_finished() && tokio::time::timeout(DRAIN, self.api).await.is_err() {
            tracing::info!("requests were cut off by the stop");
        }
        Ok(())
    }
}

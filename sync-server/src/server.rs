//! The composition root: makes the parts of a running server and connects them.
//!
//! Invariant: nothing is decided here; parts stop in the reverse order of their start. Not here: signals and configuration files (`cli::serve`).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    api::{
        self, Shared, Token,
        control::{self, Control},
        enroll::{
            self, Enrolment,
            listener::{Peer, TlsListener},
        },
    },
    broker::{self, Broker, Tls},
    clock,
    config::Config,
    db::{self, Db},
    events::Events,
    ingest::Intake,
    keys,
    pipeline::Pipeline,
    pki::{Enroll, Pki, export::Export},
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
    enrolment: Option<JoinHandle<()>>,
    refreshing: JoinHandle<()>,
    retention: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

async fn api_door(config: &api::Config) -> anyhow::Result<(tokio::net::TcpListener, String)> {
    let listener = api::bind(config).await?;
    let line = format!("api http://{}", listener.local_addr()?);
    Ok((listener, line))
}

impl Server {
    /// Everything is listening when this returns.
    pub async fn start(config: Config, token: Option<String>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&config.data_dir).with_context(|| format!("could not make {}", config.data_dir.display()))?;
        let token = Token::open(&config.data_dir.join("token"), token.as_deref())?;
        let db: Arc<dyn Db> = db::open(config.db.as_deref(), &config.data_dir).await?;
        db.nobody_is_online().await?;
        let pki = open_pki(&config, &*db).await?;
        let (events, fleet, names) = (Events::default(), config.fleet, config.pki.names);
        let blobs = BlobStore::open(&config.data_dir.join("blobs"))?;
        let packages = Arc::new(Packages::new(db.clone(), blobs.clone()));
        for folder in &config.packages {
            packages.admit_shipped(folder, clock::wall()).await?;
        }
        let trust = Arc::new(Trust::open(&config.trust.dir, db.clone()).await?);
        let signer = Signer::new(fleet.clone(), keys::load(&config.trust.dir.join(keys::ASSIGN_KEY))?);
        let rollout = Arc::new(Rollout::new(db.clone(), Supply::new(blobs), signer, events.clone()));

        // The API is bound before the broker starts, so that a server whose port is taken never acks a device.
        let (listener, api_line) = api_door(&config.api).await?;
        let door = match &config.enroll {
            Some(enroll) => Some((Door::open(enroll, &pki, &names).await?, enroll.token_lifetime.0)),
            None => None,
        };
        let intake = Intake::start(db.clone(), rollout.clone(), events.clone()).vouching(pki.timestamp().clone());
        let told = Told::of(&config.broker);
        let own = pki.broker_tls(clock::wall())?;
        let broker = broker::start(config.broker, Some(own), fleet.clone(), Arc::new(intake)).await?;
        rollout.attach(broker.downlink());
        let enrolment = Enrolment {
            db: db.clone(),
            pki: pki.clone(),
            fleet: fleet.clone(),
            broker: told.url(broker.address(), &names),
            served: door.as_ref().map(|(door, lifetime)| (door.url.clone(), *lifetime)),
            downlink: broker.downlink(),
            failures: Arc::default(),
        };

        let retention = tokio::spawn(retention::run(db.clone(), config.retention));
        let pipeline = Pipeline::open(db.clone(), packages.clone(), events.clone(), config.jobs, config.data_dir.join("retrain")).await?;
        let control =
            Control { db: db.clone(), packages: packages.clone(), trust, rollout, pipeline: Arc::new(pipeline), events: events.clone() };
        let page = ui::router(Sources { db: db.clone(), references: packages.clone(), fleet });
        let shared = Shared { db, references: packages, events };
        let (stop, stopped) = watch::channel(false);
        let api = tokio::spawn(api::serve(
            listener,
            api::router(shared, token.clone(), control::router(control).merge(page).merge(enroll::operator(enrolment.clone()))),
            stopped.clone(),
        ));
        let enroll_line = door.as_ref().map(|(door, _)| format!("enroll {}", door.url));
        let enrolment = door.map(|(door, _)| door.serve(enrolment, stopped));
        let refreshing = tokio::spawn(keep_fresh(pki));
        let addresses =
            [Some(api_line), broker.address().map(|address| told.line(address)), enroll_line, Some(format!("token {}", token.reveal()))];
        Ok(Self { addresses: addresses.into_iter().flatten().collect(), broker, api, enrolment, refreshing, retention, stop })
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
        self.refreshing.abort();
        self.retention.abort();
        self.broker.stop().await;
        self.stop.send_replace(true);
        if let Some(enrolment) = self.enrolment {
            enrolment.abort();
        }
        if !self.api.is_finished() && tokio::time::timeout(DRAIN, self.api).await.is_err() {
            tracing::info!("requests were cut off by the stop");
        }
        Ok(())
    }
}

/// The CA, and what the database remembers of it.
async fn open_pki(config: &Config, db: &dyn Db) -> anyhow::Result<Arc<Pki>> {
    let (folder, now) = (config.data_dir.join("pki"), clock::wall());
    let mut pki = Pki::open(&folder, &config.fleet, config.pki.clone(), db.has_issued().await?, now)?;
    let revoked = db.revoked().await?;
    if matches!(config.broker, broker::Config::External { tls: Some(Tls::Own), .. }) {
        pki = pki.exporting(Export::to(&config.data_dir.join("broker")), &revoked, now)?;
    }
    pki.revoked().add(revoked.into_iter().map(|(serial, _)| serial));
    Ok(Arc::new(pki))
}

/// How often the server looks whether its certificate is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

async fn keep_fresh(pki: Arc<Pki>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Err(e) = pki.refresh(clock::wall()) {
            tracing::error!("the server's certificate could not be renewed: {e:#}");
        }
    }
}

/// What devices are told of the broker.
enum Told {
    Url(String),
    Scheme(&'static str),
}

impl Told {
    fn of(config: &broker::Config) -> Self {
        match config {
            broker::Config::External { url, .. } => Self::Url(url.clone()),
            broker::Config::Embedded { listen, tls: None } if listen.ip().is_loopback() => Self::Scheme("mqtt"),
            broker::Config::Embedded { tls: None | Some(Tls::Own | Tls::Files(_)), .. } => Self::Scheme("mqtts"),
        }
    }

    fn url(&self, address: Option<SocketAddr>, names: &[String]) -> String {
        match (self, address) {
            (Self::Scheme(scheme), Some(address)) => format!("{scheme}://{}", enroll::host(names, address)),
            (Self::Url(url), _) => url.clone(),
            (Self::Scheme(_), None) => String::new(),
        }
    }

    /// The line that says where the broker listens.
    fn line(&self, address: SocketAddr) -> String {
        match self {
            Self::Scheme(scheme) => format!("{scheme} {address}"),
            Self::Url(_) => format!("mqtt {address}"),
        }
    }
}

/// Where devices enrol.
struct Door {
    listener: TlsListener,
    url: String,
}

impl Door {
    async fn open(config: &Enroll, pki: &Pki, names: &[String]) -> anyhow::Result<Self> {
        let listener = TlsListener::bind(config.listen, pki.enrolment_tls()?).await;
        let listener = listener.with_context(|| format!("could not listen on {}", config.listen))?;
        let url = format!("https://{}", enroll::host(names, listener.address()));
        Ok(Self { listener, url })
    }

    fn serve(self, enrolment: Enrolment, mut stopped: watch::Receiver<bool>) -> JoinHandle<()> {
        let service = enroll::router(enrolment).into_make_service_with_connect_info::<Peer>();
        let stopped = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        tokio::spawn(async move {
            if let Err(error) = axum::serve(self.listener, service).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "enrolment has ended");
            }
        })
    }
}

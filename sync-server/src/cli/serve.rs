//! `wayside serve`: reads the configuration, starts the server, waits for a signal, drains.
//!
//! Invariant: stdout gets one line per address and the token, so that a program that started the server can find it; the rest is
//! logged to stderr. Not here: what a server is made of (`server`).

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::{broker, config::Config, server::Server};

#[derive(Debug, Args)]
pub struct Serve {
    /// TOML file; without it everything has its default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Database, blobs and token; wins over the file
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the REST API and the page; port 0 lets the system choose; wins over the file
    #[arg(long, value_name = "ADDR")]
    api_listen: Option<SocketAddr>,
    /// Address of the embedded broker; wins over the file
    #[arg(long, value_name = "ADDR")]
    mqtt_listen: Option<SocketAddr>,
    /// Folder with root.json, targets.json and assign.key; wins over the file
    #[arg(long, value_name = "DIR")]
    trust_dir: Option<PathBuf>,
}

impl Serve {
    pub fn run(self, token: Option<String>) -> anyhow::Result<()> {
        let config = self.config()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            // Caught before anything starts, so that an early signal also drains.
            let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let mut server = Server::start(config, token).await?;
            for line in server.addresses() {
                println!("{line}");
            }
            let failure = tokio::select! {
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
                failure = server.failed() => Some(failure),
            };
            tracing::info!("stopping");
            server.stop().await?;
            failure.map_or(Ok(()), Err)
        })
    }

    fn config(self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(dir) = self.data_dir {
            config.data_dir = dir;
        }
        if let Some(dir) = self.trust_dir {
            config.trust.dir = dir;
        }
        if let Some(listen) = self.api_listen {
            config.api.listen = listen;
        }
        if let Some(address) = self.mqtt_listen {
            let tls = match config.broker {
                broker::Config::Embedded { tls, .. } => tls,
                broker::Config::External { .. } => None,
            };
            config.broker = broker::Config::Embedded { listen: address, tls };
        }
        Ok(config)
    }
}

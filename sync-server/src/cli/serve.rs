//! `wayside serve`: the flags, and the configuration they make with the file.
//!
//! Invariant: a flag wins over the file. Not here: running the server (`main`).

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::{broker, config::Config};

#[derive(Debug, Args)]
pub struct Serve {
    /// TOML file; without it everything has its default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Database, blobs and token; wins over the file
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// postgres://USER@HOST/DATABASE instead of a file in the data folder; wins over the file
    #[arg(long, value_name = "URL")]
    db: Option<String>,
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
    /// The file, and the flags that win over it.
    pub fn config(self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(dir) = self.data_dir {
            config.data_dir = dir;
        }
        config.db = self.db.or(config.db);
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

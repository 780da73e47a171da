//! `wayside broker mosquitto-config`: the files with which Mosquitto serves a fleet.
//!
//! Invariant: nothing is overwritten. Not here: what stands in the files (`broker::mosquitto`).

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use wayside_common::id::FleetId;

use crate::{
    broker::{
        TlsFiles,
        mosquitto::{self, Listener},
    },
    pki::export::Export,
};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write mosquitto.conf and its access file for a fleet
    MosquittoConfig(MosquittoConfig),
}

#[derive(Debug, Args)]
pub struct MosquittoConfig {
    #[arg(long)]
    fleet: FleetId,
    /// Folder for the files, and for what Mosquitto keeps
    #[arg(long)]
    dir: PathBuf,
    /// Where devices connect; without certificates 127.0.0.1
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1883")]
    listen: SocketAddr,
    /// CA that signed the devices' certificates, and the server's
    #[arg(long, value_name = "FILE", requires_all = ["cert", "key"])]
    ca: Option<PathBuf>,
    /// The server's data folder: its own CA, and the certificate and list that it writes there for the broker
    #[arg(long, value_name = "DIR", conflicts_with = "ca")]
    data_dir: Option<PathBuf>,
    /// Certificate of the broker
    #[arg(long, value_name = "FILE", requires = "ca")]
    cert: Option<PathBuf>,
    /// Key of the broker's certificate
    #[arg(long, value_name = "FILE", requires = "ca")]
    key: Option<PathBuf>,
    /// Certificates that are no longer good (CRL)
    #[arg(long, value_name = "FILE", requires = "ca")]
    revoked: Option<PathBuf>,
}

impl Verb {
    pub fn run(self) -> anyhow::Result<()> {
        let Self::MosquittoConfig(wanted) = self;
        wanted.write()
    }
}

impl MosquittoConfig {
    fn write(self) -> anyhow::Result<()> {
        let folder = absolute(&self.dir)?;
        let (access, store) = (folder.join("access"), folder.join("store"));
        let own = self.data_dir.as_deref().map(absolute).transpose()?.map(|dir| Export::to(&dir.join("broker")));
        let given = match (&self.ca, &self.cert, &self.key) {
            (Some(ca), Some(cert), Some(key)) => Some(TlsFiles { ca: absolute(ca)?, cert: absolute(cert)?, key: absolute(key)? }),
            _ => None,
        };
        let files = own.as_ref().map(Export::files).or(given);
        let revoked = match &own {
            Some(own) => Some(own.revoked()),
            None => self.revoked.as_deref().map(absolute).transpose()?,
        };
        let listener = match &files {
            Some(files) => Listener::Tls { address: self.listen, files, revoked: revoked.as_deref() },
            None => {
                ensure!(
                    self.listen.ip() == Ipv4Addr::LOCALHOST,
                    "plain MQTT on {}: give --data-dir, or --ca, --cert and --key",
                    self.listen
                );
                Listener::Loopback { port: self.listen.port() }
            }
        };
        let rendered = mosquitto::render(&self.fleet, &listener, &access, &store);
        fs::create_dir_all(&store).with_context(|| format!("making {}", store.display()))?;
        create(&access, &rendered.access)?;
        let configuration = folder.join("mosquitto.conf");
        create(&configuration, &rendered.configuration)?;
        println!("mosquitto -c {}", configuration.display());
        eprintln!("{} must belong to the user that Mosquitto runs as", store.display());
        if own.is_some() {
            eprintln!(
                "the server writes the broker's files where its configuration has kind = \"external\", tls = \"own\" in [broker]; after a revocation, and once a year, restart Mosquitto"
            );
        } else if files.is_some() {
            eprintln!("the server connects with a certificate whose CN is {}", mosquitto::SERVER);
        }
        Ok(())
    }
}

fn create(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn plain(dir: &Path, listen: &str) -> MosquittoConfig {
        let (fleet, listen) = ("plant".parse().unwrap(), listen.parse().unwrap());
        MosquittoConfig { fleet, dir: dir.into(), listen, ca: None, data_dir: None, cert: None, key: None, revoked: None }
    }

    #[test]
    fn the_files_are_written_once_and_never_over_others() {
        let folder = Scratch::new();
        plain(folder.path(), "127.0.0.1:1883").write().unwrap();
        assert!(fs::read_to_string(folder.path().join("mosquitto.conf")).unwrap().contains("listener 1883 127.0.0.1"));
        assert!(plain(folder.path(), "127.0.0.1:1884").write().is_err());
    }

    #[test]
    fn plain_mqtt_is_not_written_for_another_address() {
        let folder = Scratch::new();
        assert!(plain(folder.path(), "0.0.0.0:1883").write().unwrap_err().to_string().contains("--ca"));
    }
}

//! `wayside key …`: the keys of a fleet, made once; and another CA for its server.
//!
//! Invariant: no key of the operator is overwritten. Not here: what the keys sign (`keys`), the CA (`pki`).

use std::path::PathBuf;

use clap::Subcommand;

use crate::{clock, config::Config, keys, pki::authority::Authority};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make the root, targets and assign keys and the first documents they sign
    Init {
        /// The operator's folder; keep it off the server
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Also copy what the server needs into this folder
        #[arg(long, value_name = "DIR")]
        server_dir: Option<PathBuf>,
    },
    /// Replace the CA of a stopped server; devices come to trust the new one by themselves
    RotateCa {
        /// The server's configuration file; without it everything has its default
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

impl Verb {
    pub fn run(self) -> anyhow::Result<()> {
        let (dir, server_dir) = match self {
            Self::Init { dir, server_dir } => (dir, server_dir),
            Self::RotateCa { config } => {
                let Config { data_dir, fleet, .. } = Config::load(config.as_deref())?;
                Authority::rotate(&data_dir.join("pki"), &fleet)?;
                println!("the server has another CA from its next start on; devices take it over when they renew");
                return Ok(());
            }
        };
        keys::init(&dir, clock::wall())?;
        if let Some(server) = &server_dir {
            keys::copy_for_server(&dir, server)?;
        }
        let shown = dir.display();
        println!("{shown}/root.key       stays with you, offline: it names the other keys");
        println!("{shown}/targets.key    stays with you: it decides which packages may run (wayside release push --keys {shown})");
        println!("{shown}/assign.key     goes to the server: it says which device runs which of them");
        println!("{shown}/root.json      goes to the server, and to every device as a file ([trust] root)");
        println!("{shown}/targets.json   goes to the server");
        match server_dir {
            Some(server) => println!("copied assign.key, root.json and targets.json to {} ([trust] dir of the server)", server.display()),
            None => println!("copy assign.key, root.json and targets.json to the server's [trust] dir"),
        }
        Ok(())
    }
}

//! `wayside key init`: the keys of a fleet, once.
//!
//! Invariant: nothing is overwritten. Not here: what the keys sign (`keys`).

use std::path::PathBuf;

use clap::Subcommand;

use crate::{clock, keys};

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
}

impl Verb {
    pub fn run(self) -> anyhow::Result<()> {
        let Self::Init { dir, server_dir } = self;
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

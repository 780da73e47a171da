//! `wayside sample …`: what devices found worth a label, and giving it one.
//!
//! Invariant: everything goes through the REST API. Not here: what labels are used for (`datasets`).

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;

use super::{
    Context,
    output::{Column, text},
};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Samples, newest first
    Ls {
        /// Only those with a label (true) or without one (false)
        #[arg(long)]
        labelled: Option<bool>,
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Say what a sample shows
    Label {
        #[arg(long, value_name = "ID")]
        id: String,
        #[arg(long)]
        label: String,
        /// Who says so
        #[arg(long)]
        by: Option<String>,
    },
    /// Save a sample's picture
    Image {
        #[arg(long, value_name = "ID")]
        id: String,
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
}

impl Default for Verb {
    fn default() -> Self {
        Self::Ls { labelled: None, limit: 50 }
    }
}

const SAMPLES: &[Column] = &[
    ("id", |row| text(row, "/id")),
    ("device", |row| text(row, "/device")),
    ("slot", |row| text(row, "/slot")),
    ("item", |row| text(row, "/item")),
    ("predicted", |row| text(row, "/label_predicted")),
    ("margin", |row| row["margin"].as_f64().map_or("-".into(), |margin| format!("{margin:.3}"))),
    ("why", |row| text(row, "/why")),
    ("label", |row| text(row, "/label")),
    ("by", |row| text(row, "/labelled_by")),
];

impl Verb {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Ls { labelled, limit } => {
                let labelled = labelled.map(|labelled| format!("&labelled={labelled}")).unwrap_or_default();
                context.output.rows(&context.client.get(&format!("/v1/samples?limit={limit}{labelled}"))?, SAMPLES)
            }
            Self::Label { id, label, by } => {
                let body = match by {
                    Some(by) => json!({ "label": label, "by": by }),
                    None => json!({ "label": label }),
                };
                context.client.put(&format!("/v1/samples/{id}/label"), &body)?;
                eprintln!("sample {id} is labelled {label}");
                Ok(())
            }
            Self::Image { id, to } => {
                let jpeg = context.client.get_bytes(&format!("/v1/samples/{id}/image"))?;
                fs::write(&to, jpeg).with_context(|| format!("could not write {}", to.display()))
            }
        }
    }
}

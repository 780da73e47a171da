//! `wayside device …`: what the server knows of its devices, who is let in, and who no longer is.
//!
//! Invariant: everything shown comes from the REST API; `add` prints one line and nothing else, for it holds a secret. Not here: changing
//! what a device does.

use std::io::Write;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use serde_json::{Value, json};
use wayside_common::{
    id::{DeviceClass, DeviceId},
    time::Wall,
};

use crate::cli::{
    Context,
    output::{Column, Output, text},
};

#[derive(Debug, Default, Subcommand)]
pub enum Verb {
    /// All devices
    #[default]
    Ls,
    /// One device: what is stored of its streams, and its gaps
    Get {
        #[arg(long, value_name = "ID")]
        device: DeviceId,
        #[arg(long, value_enum, default_value_t)]
        show: Show,
    },
    /// Let a device enrol: prints the command to run on it, good once and for an hour
    Add {
        #[arg(value_name = "ID")]
        device: DeviceId,
        /// What kind of device it is: camera, imu, climate
        #[arg(long)]
        class: DeviceClass,
    },
    /// Shut a device out: ends its connection, voids its certificates and open tokens
    Revoke {
        #[arg(value_name = "ID")]
        device: DeviceId,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Show {
    #[default]
    Summary,
    Streams,
    Gaps,
    Drift,
}

const DEVICES: &[Column] = &[
    ("id", |row| text(row, "/id")),
    ("class", |row| text(row, "/class")),
    ("state", |row| if row["online"] == true { "online" } else { "offline" }.into()),
    ("last seen", |row| row["last_seen"].as_i64().map_or("-".into(), |ms| Wall(ms).to_string())),
    ("agent", |row| text(row, "/agent_version")),
    ("models", models),
    ("generation", |row| text(row, "/generation")),
    ("storage", |row| if row["storage_fault"] == true { "fault" } else { "ok" }.into()),
];

const STREAMS: &[Column] = &[
    ("epoch", |row| text(row, "/epoch")),
    ("stream", |row| text(row, "/stream")),
    ("records", |row| text(row, "/records")),
    ("watermark", |row| text(row, "/watermark")),
    ("positions", |row| row["positions"].as_array().map_or("-".into(), |ranges| ranges.iter().map(range).collect::<Vec<_>>().join(" "))),
    ("duplicates", |row| text(row, "/duplicate_positions")),
    ("redelivered", |row| text(row, "/redelivered")),
    ("differing", |row| text(row, "/differing")),
];

const GAPS: &[Column] = &[
    ("epoch", |row| text(row, "/epoch")),
    ("stream", |row| text(row, "/stream")),
    ("from", |row| text(row, "/from")),
    ("to", |row| text(row, "/to")),
    ("count", |row| if row["unknown"] == true { "unknown".into() } else { text(row, "/count") }),
    ("begin", |row| row["span"][0].as_i64().map_or("-".into(), |ms| Wall(ms).to_string())),
    ("end", |row| row["span"][1].as_i64().map_or("-".into(), |ms| Wall(ms).to_string())),
    ("reason", |row| text(row, "/reason")),
];

const REVOKED: &[Column] = &[("device", |row| text(row, "/device")), ("certificates", |row| text(row, "/certificates"))];

const DRIFT: &[Column] = &[
    ("slot", |row| text(row, "/slot")),
    ("feature", |row| text(row, "/feature")),
    ("verdict", |row| text(row, "/verdict")),
    ("n", |row| text(row, "/n_current")),
    ("reference", |row| text(row, "/n_reference")),
    ("p", |row| short(row, "/chi_square/p_value")),
    ("psi", |row| short(row, "/effect/psi")),
];

impl Verb {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let (device, show) = match self {
            Self::Ls => return context.output.rows(&context.client.get("/v1/devices")?, DEVICES),
            Self::Add { device, class } => return add(context, &device, &class),
            Self::Revoke { device } => {
                let answer = context.client.post(&format!("/v1/devices/{device}/revoke"), &json!({}))?;
                return context.output.row(&answer, REVOKED);
            }
            Self::Get { device, show } => (device, show),
        };
        let path = format!("/v1/devices/{device}");
        let (answer, columns) = match show {
            Show::Summary => return context.output.row(&context.client.get(&path)?, DEVICES),
            Show::Streams => (context.client.get(&format!("{path}/streams"))?, STREAMS),
            Show::Gaps => (context.client.get(&format!("{path}/gaps"))?, GAPS),
            Show::Drift => (context.client.get(&format!("{path}/drift"))?, DRIFT),
        };
        ensure!(answer.is_array(), "the server's answer is not a list");
        context.output.rows(&answer, columns)
    }
}

fn add(context: &Context, device: &DeviceId, class: &DeviceClass) -> anyhow::Result<()> {
    let answer = context.client.post(&format!("/v1/devices/{device}/enrolment"), &json!({ "class": class }))?;
    if context.output == Output::Json {
        return context.output.row(&answer, &[]);
    }
    let part = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).context("the server's answer has no token");
    writeln!(std::io::stdout(), "sudo wayside-agent enroll {} --token {}", part("/url")?, part("/token")?)?;
    Ok(())
}

fn models(row: &Value) -> String {
    let slots = row["slots"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<String> = slots
        .iter()
        .map(|slot| match slot["active"].is_object() {
            true => format!("{}: {} v{}", text(slot, "/slot"), text(slot, "/active/name"), text(slot, "/active/version")),
            false => format!("{}: none", text(slot, "/slot")),
        })
        .collect();
    if shown.is_empty() { "-".into() } else { shown.join(", ") }
}

/// Three digits are what a person compares.
fn short(row: &Value, pointer: &str) -> String {
    match row.pointer(pointer).and_then(Value::as_f64) {
        None => "-".into(),
        Some(number) if number != 0.0 && number.abs() < 0.001 => format!("{number:.1e}"),
        Some(number) => format!("{number:.3}"),
    }
}

fn range(range: &Value) -> String {
    if range[0] == range[1] { text(range, "/0") } else { format!("{}-{}", text(range, "/0"), text(range, "/1")) }
}

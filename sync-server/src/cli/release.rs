//! `wayside release …`: brings a package to the fleet, and shows what became of it.
//!
//! Invariant: what is signed here was computed here from the package's own bytes, never taken from the server. Not here: who gets the
//! release (the server), whether a device takes it (the device).

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use wayside_common::{
    fleet::target_path,
    id::{Digest, SlotName},
    time::Wall,
    trust::role::{Custom, Hashes, IndexRef, Target},
};
use wayside_models::package::Package;

use super::{
    Context,
    output::{Column, text},
    wait::{self, NotHealthy},
};
use crate::{clock, config::Span, keys::Operator, registry::packages::chunk_index, registry::self_test};

#[derive(Debug, Default, Subcommand)]
pub enum Verb {
    /// All releases and their state on each device
    #[default]
    Ls,
    /// Check, upload, sign and release a package to every device that has the slot
    Push(Push),
}

#[derive(Debug, Args)]
pub struct Push {
    /// Folder of the package
    #[arg(long, value_name = "DIR", required_unless_present = "candidate", conflicts_with = "candidate")]
    package: Option<PathBuf>,
    /// A candidate of the registry instead: NAME/VERSION
    #[arg(long, value_name = "NAME/VERSION")]
    candidate: Option<String>,
    /// The operator's folder, with targets.key
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// Slot of the devices; default: the one in which a model of this name runs
    #[arg(long)]
    slot: Option<SlotName>,
    #[arg(long, value_enum, default_value_t)]
    intent: Intent,
    /// Release without running the golden samples here first; devices still run them and refuse what fails
    #[arg(long)]
    skip_self_test: bool,
    /// Wait until every device has ended; exit code 8 if one refused
    #[arg(long)]
    wait: bool,
    /// With --wait: exit code 124 after this time
    #[arg(long, default_value = "10m")]
    timeout: Span,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Intent {
    #[default]
    Improve,
    Equivalent,
}

const RELEASES: &[Column] = &[
    ("id", |row| text(row, "/id")),
    ("model", |row| format!("{} v{}", text(row, "/model"), text(row, "/version"))),
    ("slot", |row| text(row, "/slot")),
    ("state", |row| text(row, "/state")),
    ("created", |row| row["created"].as_i64().map_or("-".into(), |ms| Wall(ms).to_string())),
    ("devices", devices),
];

impl Verb {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Ls => context.output.rows(&context.client.get("/v1/releases")?, RELEASES),
            Self::Push(push) => push.run(context),
        }
    }
}

impl Push {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let package = self.open(context)?;
        let model = package.model_ref();
        let packed = package.pack();
        eprintln!("package     {model}, {} bytes, sha256 {}", packed.len(), model.digest);
        self.self_test(&package)?;
        let slot = match self.slot.clone() {
            Some(slot) => slot,
            None => slot_of(&context.client.get("/v1/devices")?, model.name.as_str())?,
        };
        let mut operator = Operator::open(&self.keys).with_context(|| format!("the keys in {}", self.keys.display()))?;
        operator.learn(&context.client.get_bytes("/v1/trust/targets")?)?;
        let index = chunk_index(&packed);
        let index = IndexRef { length: index.len() as u64, sha256: Digest::of(&index) };
        let target = Target { length: packed.len() as u64, hashes: Hashes { sha256: model.digest }, custom: Some(Custom { index }) };
        let targets = operator.admit(&target_path(&model.name, model.version), target, clock::wall())?;
        context.client.post_bytes("/v1/blobs", &packed).context("the upload was refused")?;
        eprintln!("upload      the server has the package");
        let asked = json!({
            "slot": slot, "model": model.name, "version": model.version, "digest": model.digest,
            "intent": match self.intent { Intent::Improve => "improve", Intent::Equivalent => "equivalent" },
            "targets": String::from_utf8(targets.clone()).context("a signed document is text")?,
        });
        let release = context.client.post("/v1/releases", &asked).context("the release was refused")?;
        operator.keep(&targets).context("the release is out, but the new targets.json could not be kept here")?;
        eprintln!(
            "release     {} is on its way to slot {slot}; targets.json is signed and kept in {}",
            text(&release, "/id"),
            self.keys.display()
        );
        if !self.wait {
            return context.output.row(&release, RELEASES);
        }
        self.wait_for(context, &text(&release, "/id"))
    }

    fn open(&self, context: &Context) -> anyhow::Result<Package> {
        if let Some(folder) = &self.package {
            return Package::open(folder).with_context(|| format!("the package {}", folder.display()));
        }
        let asked = self.candidate.as_deref().context("neither --package nor --candidate")?;
        let models = context.client.get("/v1/models")?;
        let named = |row: &&Value| format!("{}/{}", text(row, "/name"), text(row, "/version")) == asked;
        let found = models.as_array().and_then(|rows| rows.iter().find(named)).with_context(|| format!("the registry has no {asked}"))?;
        let digest: Digest = text(found, "/digest").parse().context("the server's answer has no digest")?;
        let packed = context.client.get_bytes(&format!("/v1/blobs/{digest}"))?;
        ensure!(Digest::of(&packed) == digest, "the server gave other bytes than {digest}");
        Package::from_bytes(&packed).with_context(|| format!("the candidate {asked}"))
    }

    fn self_test(&self, package: &Package) -> anyhow::Result<()> {
        if self.skip_self_test {
            eprintln!("SELF TEST   SKIPPED (--skip-self-test): nothing here has checked that this package answers rightly;");
            eprintln!("            each device runs its golden samples and refuses it if one fails");
            return Ok(());
        }
        match self_test::run(package) {
            Ok(said) => {
                eprintln!("self test   {said}");
                Ok(())
            }
            Err(e) => Err(NotHealthy(format!("the package fails its self test and was not released: {e:#}")).into()),
        }
    }

    fn wait_for(&self, context: &Context, id: &str) -> anyhow::Result<()> {
        let mut shown = String::new();
        let release = wait::until(self.timeout.0, Duration::from_millis(300), || {
            let release = context.client.get(&format!("/v1/releases/{id}"))?;
            let now = devices(&release);
            if now != shown {
                eprintln!("devices     {now}");
                shown = now;
            }
            Ok((text(&release, "/state") != "in_progress").then_some(release))
        })?;
        context.output.row(&release, RELEASES)?;
        match text(&release, "/state").as_str() {
            "active" => Ok(()),
            "waiting" => {
                eprintln!("no device has the slot yet; the first that does gets the release");
                Ok(())
            }
            state => Err(NotHealthy(format!("release {id} is {state}: {}", reasons(&release))).into()),
        }
    }
}

/// The slot in which devices run a model of this name.
fn slot_of(devices: &Value, model: &str) -> anyhow::Result<SlotName> {
    let slots = devices.as_array().into_iter().flatten().flat_map(|device| device["slots"].as_array().into_iter().flatten());
    let mut found: Vec<String> = slots.filter(|slot| slot["active"]["name"] == model).map(|slot| text(slot, "/slot")).collect();
    found.sort();
    found.dedup();
    match found.as_slice() {
        [slot] => Ok(slot.parse()?),
        [] => bail!("no device runs a model named {model}: say which slot it is for with --slot"),
        several => bail!("{model} runs in several slots ({}): say which with --slot", several.join(", ")),
    }
}

fn devices(row: &Value) -> String {
    let rows = row["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<String> = rows
        .iter()
        .map(|device| match (text(device, "/stage").as_str(), text(device, "/reason").as_str()) {
            ("-", _) => format!("{}: {}", text(device, "/device"), text(device, "/state")),
            (stage, "-") => format!("{}: {} ({stage})", text(device, "/device"), text(device, "/state")),
            (stage, reason) => format!("{}: {} in {stage}: {reason}", text(device, "/device"), text(device, "/state")),
        })
        .collect();
    if shown.is_empty() { "-".into() } else { shown.join("; ") }
}

fn reasons(row: &Value) -> String {
    let rows = row["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut reasons: Vec<String> = rows.iter().filter_map(|device| device["reason"].as_str().map(str::to_owned)).collect();
    reasons.sort();
    reasons.dedup();
    reasons.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_the_one_where_the_model_runs() {
        let device =
            |slot: &str, model: &str| json!({ "slots": [{ "slot": slot, "active": { "name": model } }, { "slot": "x", "active": null }] });
        struct Case(Value, Result<&'static str, &'static str>);
        let cases = [
            Case(json!([]), Err("no device")),
            Case(json!([device("vehicles", "vehicles-sim"), device("vehicles", "vehicles-sim")]), Ok("vehicles")),
            Case(json!([device("room", "room-th")]), Err("no device")),
            Case(json!([device("a", "vehicles-sim"), device("b", "vehicles-sim")]), Err("several slots (a, b)")),
        ];
        for Case(devices, expected) in cases {
            match (slot_of(&devices, "vehicles-sim"), expected) {
                (Ok(slot), Ok(expected)) => assert_eq!(slot.as_str(), expected),
                (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{e}"),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        }
    }
}

//! `cargo demo`: the real programs as processes of their own, a story, and a check of what became of every position.
//!
//! Invariant: the demo knows the scenario and the truth; what is stored it learns from the server alone. Not here: anything that the
//! server or an agent needs to work.

pub mod api;
pub mod binaries;
pub mod fleet;
pub mod folder;
pub mod identity;
pub mod interrupt;
pub mod options;
pub mod pictures;
pub mod plan;
pub mod process;
pub mod ranges;
pub mod readback;
pub mod report;
pub mod stage;
pub mod story;
pub mod tamper;
pub mod timeline;
pub mod wait;

use std::{sync::Arc, time::Duration};

use anyhow::Context;

use self::{
    api::Api,
    options::Options,
    report::{Kept, Report},
    stage::Stage,
    story::Story,
    timeline::Timeline,
};

/// How long the sensors of a headless run have items.
const FEED: Duration = Duration::from_secs(80);
/// A headless run, build apart, is over by then.
const LIMIT: Duration = Duration::from_secs(170);

/// Runs one scenario to its end. The report is made in any case in which there is something to report.
pub fn headless(options: &Options, timeline: Arc<Timeline>) -> anyhow::Result<Report> {
    let stage = Stage::set(options, Some(FEED), Arc::clone(&timeline))?;
    let story = Story::new(&stage, options.scenario, Some(LIMIT));
    let mut faults = Vec::new();
    match story.tell() {
        Ok(()) => story.drain()?,
        Err(e) if e.is::<interrupt::Interrupted>() => return Err(e),
        Err(e) => {
            timeline.tell(format!("the story broke off: {e:#}"));
            faults.push(format!("{e:#}"));
        }
    }
    for device in &stage.devices {
        stage.fleet.stop(device.id)?;
    }
    timeline.tell("the agents were stopped");
    let mut devices = Vec::new();
    for device in &stage.devices {
        let (row, wrong) = readback::device(&stage.api, device, stage.anchor, stage.fleet.restarts(device.id)?)
            .with_context(|| format!("could not read {} back", device.id))?;
        devices.push(row);
        faults.extend(wrong);
    }
    let (releases, retraining) = (stage.api.releases()?, stage.api.retraining()?);
    stage.fleet.stop("server")?;
    let kept = options.keep.then(|| Kept {
        api: stage.api.address.clone(),
        token: stage.api.token.clone(),
        data: stage.folder.path().display().to_string(),
        serve: format!("{} serve --config {}", stage.binaries.wayside.display(), stage.server_config().display()),
    });
    timeline.tell(if faults.is_empty() {
        "stored ∪ degraded ∪ gaps = produced on every device"
    } else {
        "the run is not as it must be"
    });
    Ok(Report {
        scenario: options.scenario.as_str(),
        seed: options.seed,
        pictures: if options.images.is_some() { "photos" } else { "scenes" },
        ok: faults.is_empty(),
        faults,
        devices,
        releases,
        retraining,
        timeline: timeline.entries(),
        kept,
    })
}

/// Tells the story and stays up until Ctrl-C.
pub fn live(options: &Options, timeline: Arc<Timeline>) -> anyhow::Result<()> {
    let stage = Stage::set(options, None, Arc::clone(&timeline))?;
    let Api { address, token, .. } = &stage.api;
    eprintln!(
        "\n  Open   {address}/?token={token}\n  Look   at the cameras' pictures with their labels, the sensors' curves, drift and model versions\n  \
         Try    {} device ls --server {address} --token {token}\n  Stop   Ctrl-C\n",
        stage.binaries.wayside.display()
    );
    match Story::new(&stage, options.scenario, None).tell() {
        Ok(()) => timeline.tell("that was the story; everything keeps running until Ctrl-C"),
        Err(e) if e.is::<interrupt::Interrupted>() => return Err(e),
        Err(e) => timeline.tell(format!("the story broke off: {e:#}; everything keeps running until Ctrl-C")),
    }
    wait::until_interrupted()
}

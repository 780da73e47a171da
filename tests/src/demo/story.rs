//! What happens in a run, step by step: readings flow, a model is released, a bad one is refused, samples are labelled, a head is
//! trained again, everything drains.
//!
//! Invariant: a step is told only after it was seen through the server; one that does not come ends the run with its reason. Not here:
//! the sum at the end (`readback`).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use super::{
    api::{Device as DeviceRow, Model, Release, Sample},
    options::Scenario,
    plan::{CAMERA_SLOT, Device, Input, Kind},
    process,
    readback::{self, observe},
    stage::Stage,
    tamper,
    wait::{Look, wait_for},
};

/// Samples that must be there before a head is trained again.
const SAMPLES_NEEDED: usize = 12;
/// At most so many are labelled, so that the run stays short.
const SAMPLES_LABELLED: u32 = 500;

pub struct Story<'s> {
    stage: &'s Stage,
    scenario: Scenario,
    /// No step may end after this.
    end: Option<Instant>,
}

impl<'s> Story<'s> {
    pub fn new(stage: &'s Stage, scenario: Scenario, limit: Option<Duration>) -> Self {
        Self { stage, scenario, end: limit.map(|limit| Instant::now() + limit) }
    }

    pub fn tell(&self) -> anyhow::Result<()> {
        self.everything_flows()?;
        let second = self.second_version_becomes_active()?;
        if self.scenario == Scenario::Kills {
            self.kills()?;
        }
        self.tampered_version_is_refused(&second)?;
        self.samples_are_labelled()?;
        self.head_is_trained_again()
    }

    fn everything_flows(&self) -> anyhow::Result<()> {
        let stage = self.stage;
        self.wait("every device online with records on the server", 60, || {
            let online: BTreeSet<String> = stage.api.devices()?.into_iter().filter(|row| row.online).map(|row| row.id).collect();
            for device in &stage.devices {
                if !online.contains(device.id) {
                    return Ok(Look::NotYet(format!("{} is not online", device.id)));
                }
                let stream = device.stream();
                if !stage.api.streams(device.id)?.iter().any(|s| s.stream == stream && s.records > 0) {
                    return Ok(Look::NotYet(format!("nothing of {}'s {stream} is stored", device.id)));
                }
            }
            Ok(Look::Found(()))
        })?;
        for camera in self.cameras() {
            let wanted = camera.produced().unwrap_or(u64::MAX).min(3) as usize;
            self.wait(&format!("{wanted} answered frames of {}", camera.id), 60, || {
                let answered = stage.api.frames(camera.id)?.iter().filter(|frame| frame.label.is_some()).count();
                Ok(if answered >= wanted { Look::Found(()) } else { Look::NotYet(format!("{answered} answered frames")) })
            })?;
        }
        stage.timeline.tell("five devices are online; readings and labelled frames arrive");
        Ok(())
    }

    fn second_version_becomes_active(&self) -> anyhow::Result<Model> {
        let stage = self.stage;
        let models = &stage.models;
        self.push(&models.second, &[])?;
        stage.timeline.tell(format!("released {} v{} for the slot {CAMERA_SLOT}", models.name, models.second_version));
        let release = self.wait("the second version active on both cameras", 90, || {
            Ok(match self.release(models.second_version)? {
                None => Look::NotYet("no such release".into()),
                Some(release) => match release.devices.iter().find(|d| d.state == "refused") {
                    Some(d) => Look::Never(format!("{} refused it: {}", d.device, d.reason.as_deref().unwrap_or("no reason"))),
                    None if self.all_cameras(&release, "active") => Look::Found(release),
                    None => Look::NotYet(states(&release)),
                },
            })
        })?;
        let model = Model { name: release.model.clone(), version: release.version, digest: release.digest };
        for camera in self.cameras() {
            self.expect_active(camera, &model)?;
        }
        stage.timeline.tell(format!("{} v{} is active on both cameras", release.model, release.version));
        Ok(model)
    }

    fn tampered_version_is_refused(&self, running: &Model) -> anyhow::Result<()> {
        let stage = self.stage;
        let version = stage.models.second_version + 1;
        let package = tamper::head_scaled(&stage.models.second, version, &stage.folder.path().join("tampered"))?;
        // The operator's own self test would stop it; the device must not depend on that.
        self.push(&package, &["--skip-self-test"])?;
        stage.timeline.tell(format!(
            "released {} v{version}, whose head was multiplied by 1.05 after its golden samples were made",
            stage.models.name
        ));
        let release = self.wait("the refusal of the tampered version by both cameras", 60, || {
            Ok(match self.release(version)? {
                None => Look::NotYet("no such release".into()),
                Some(release) if release.devices.iter().any(|d| d.state == "active") => Look::Never("it runs on a camera".into()),
                Some(release) if self.all_cameras(&release, "refused") => Look::Found(release),
                Some(release) => Look::NotYet(states(&release)),
            })
        })?;
        for refusal in &release.devices {
            let reason = refusal.reason.as_deref().filter(|reason| !reason.is_empty());
            let reason = reason.with_context(|| format!("{} refused without a reason", refusal.device))?;
            let stage_name = refusal.stage.as_deref().unwrap_or("?");
            stage.timeline.tell(format!("{} refused v{version} in {stage_name}: {reason}", refusal.device));
        }
        for camera in self.cameras() {
            self.expect_active(camera, running)?;
        }
        stage.timeline.tell(format!("{} v{} goes on on both cameras", running.name, running.version));
        Ok(())
    }

    fn samples_are_labelled(&self) -> anyhow::Result<()> {
        let stage = self.stage;
        let needed = self.cameras().map(|camera| self.known_pictures(camera)).fold(0, usize::saturating_add).min(SAMPLES_NEEDED);
        let samples = self.wait("samples worth a label", 60, || {
            let mut samples = Vec::new();
            for sample in stage.api.samples_to_label(SAMPLES_LABELLED)? {
                let class = self.truth(&sample)?;
                if sample.embedding != Some(0) && stage.models.labels.contains(&class) {
                    samples.push((sample.id, class));
                }
            }
            Ok(if samples.len() >= needed {
                Look::Found(samples)
            } else {
                Look::NotYet(format!("{} samples with an embedding", samples.len()))
            })
        })?;
        for (id, class) in &samples {
            stage.api.label(id, class)?;
        }
        let classes: BTreeSet<&String> = samples.iter().map(|(_, class)| class).collect();
        stage.timeline.tell(format!("labelled {} uncertain samples of {} classes", samples.len(), classes.len()));
        Ok(())
    }

    /// How many pictures the camera is shown whose class the model has a word for: no more samples can get a label.
    fn known_pictures(&self, camera: &Device) -> usize {
        match &camera.input {
            Input::Pictures(hand) => hand.truth.values().filter(|class| self.stage.models.labels.contains(class)).count(),
            Input::Sim { .. } => usize::MAX,
        }
    }

    fn truth(&self, sample: &Sample) -> anyhow::Result<String> {
        let device = self.stage.devices.iter().find(|d| d.id == sample.device).context("a sample of an unknown device")?;
        readback::truth(device, sample.position, &sample.item)
            .with_context(|| format!("{} sent a sample that it was never shown: {:?}", sample.device, sample.item))
    }

    fn head_is_trained_again(&self) -> anyhow::Result<()> {
        let stage = self.stage;
        stage.timeline.tell("retraining job “head” triggered");
        stage.wayside(&["retrain", "trigger", "--job", "head", "--wait"], self.limit(90))?;
        let runs = stage.api.retraining()?;
        let run = runs.iter().find(|run| run.job == "head").context("the server lists no retraining run")?;
        let candidate = run.candidate.as_ref().filter(|_| run.state == "succeeded");
        let candidate = candidate.with_context(|| format!("the retraining run ended as {} without a candidate", run.state))?;
        let known = stage.api.models()?;
        ensure!(
            known.iter().any(|m| m.digest == candidate.digest && m.state == "candidate"),
            "the registry does not list {} v{} as a candidate",
            candidate.name,
            candidate.version
        );
        stage.timeline.tell(format!("the retrained head is registered as candidate {} v{}", candidate.name, candidate.version));
        Ok(())
    }

    /// SIGKILL for the server (ten seconds), an agent and a worker; everything must come back by itself.
    fn kills(&self) -> anyhow::Result<()> {
        let stage = self.stage;
        let (camera, imu) = (self.camera_for_worker()?, self.first(Kind::Imu)?);
        stage.fleet.kill("server", Duration::from_secs(10))?;
        let agent = stage.fleet.pid(camera.id)?;
        let workers = process::children_of(agent, "worker")?;
        let worker = *workers.first().with_context(|| format!("{} has no worker process", camera.id))?;
        process::signal(worker, "KILL")?;
        stage.timeline.tell(format!("{}: worker killed (SIGKILL, pid {worker})", camera.id));
        // Longer than bulk may wait for its commit, so that some of the time counts as not running.
        stage.fleet.kill(imu.id, Duration::from_secs(8))?;
        self.wait("the server, the agent and the worker to be back", 60, || {
            if stage.fleet.restarts("server")?.is_empty() || stage.fleet.restarts(imu.id)?.is_empty() {
                return Ok(Look::NotYet("not all processes were started again".into()));
            }
            if process::children_of(stage.fleet.pid(camera.id)?, "worker")?.iter().all(|pid| *pid == worker) {
                return Ok(Look::NotYet(format!("{} has no new worker", camera.id)));
            }
            let offline: Vec<String> = stage.api.devices()?.into_iter().filter(|row| !row.online).map(|row| row.id).collect();
            Ok(if offline.is_empty() { Look::Found(()) } else { Look::NotYet(format!("offline: {}", offline.join(", "))) })
        })?;
        stage.timeline.tell("all five devices are online again");
        self.ledger_tells_of_the_kill(imu)
    }

    /// What died in RAM must stand in the ledger as `crash`, what was not sensed as `not_running`.
    fn ledger_tells_of_the_kill(&self, device: &Device) -> anyhow::Result<()> {
        let stream = device.stream();
        let reasons = self.wait("the killed agent's gaps in the ledger", 30, || {
            let gaps = self.stage.api.gaps(device.id)?;
            let reasons: BTreeSet<String> = gaps.into_iter().filter(|gap| gap.stream == stream).map(|gap| gap.reason).collect();
            let told = reasons.contains("not_running") && reasons.contains("crash");
            Ok(if told { Look::Found(reasons) } else { Look::NotYet(format!("{reasons:?}")) })
        })?;
        let reasons: Vec<String> = reasons.into_iter().collect();
        self.stage.timeline.tell(format!("the ledger of {} tells of the kill: {}", device.id, reasons.join(", ")));
        Ok(())
    }

    /// Waits until each position of the run is accounted for, or until nothing more comes.
    pub fn drain(&self) -> anyhow::Result<()> {
        let stage = self.stage;
        let drained = self.wait("every position on the server or in the ledger", 150, || {
            for device in &stage.devices {
                let (observed, _) = observe(&stage.api, device, stage.anchor, stage.fleet.restarts(device.id)?)?;
                let missing = observed.missing();
                if !missing.is_empty() {
                    return Ok(Look::NotYet(format!("{}: {} of {} positions are missing", device.id, missing.count(), observed.produced)));
                }
            }
            Ok(Look::Found(()))
        });
        match drained {
            Ok(()) => stage.timeline.tell("drained: each position is on the server or in the gap ledger"),
            Err(e) if e.is::<super::interrupt::Interrupted>() => return Err(e),
            // The check that follows names the positions.
            Err(e) => stage.timeline.tell(format!("not drained: {e:#}")),
        }
        Ok(())
    }

    fn push(&self, package: &std::path::Path, more: &[&str]) -> anyhow::Result<()> {
        let (package, keys) = (package.display().to_string(), self.stage.keys().display().to_string());
        let args = ["release", "push", "--package", &package, "--keys", &keys, "--slot", CAMERA_SLOT];
        self.stage.wayside(&[&args, more].concat(), self.limit(60)).map(|_| ())
    }

    fn release(&self, version: u32) -> anyhow::Result<Option<Release>> {
        let name = &self.stage.models.name;
        Ok(self.stage.api.releases()?.into_iter().find(|r| r.model == *name && r.version == version))
    }

    fn expect_active(&self, camera: &Device, model: &Model) -> anyhow::Result<()> {
        let what = format!("{} to say that it runs {} v{}", camera.id, model.name, model.version);
        self.wait(&what, 20, || {
            let row = self.stage.api.devices()?.into_iter().find(|row| row.id == camera.id);
            let active = row.and_then(|row: DeviceRow| row.slots.into_iter().find(|s| s.slot == CAMERA_SLOT)?.active);
            Ok(match active {
                Some(active) if active == *model => Look::Found(()),
                other => Look::NotYet(format!("{other:?}")),
            })
        })
    }

    fn all_cameras(&self, release: &Release, state: &str) -> bool {
        self.cameras().all(|camera| release.devices.iter().any(|d| d.device == camera.id && d.state == state))
    }

    fn cameras(&self) -> impl Iterator<Item = &'s Device> {
        self.stage.devices.iter().filter(|device| device.kind == Kind::Camera)
    }

    fn first(&self, kind: Kind) -> anyhow::Result<&'s Device> {
        self.stage.devices.iter().find(|device| device.kind == kind).context("no device of this kind")
    }

    fn camera_for_worker(&self) -> anyhow::Result<&'s Device> {
        self.cameras().last().context("no camera")
    }

    fn limit(&self, seconds: u64) -> Duration {
        let limit = Duration::from_secs(seconds);
        self.end.map_or(limit, |end| limit.min(end.saturating_duration_since(Instant::now())))
    }

    fn wait<T>(&self, what: &str, seconds: u64, look: impl FnMut() -> anyhow::Result<Look<T>>) -> anyhow::Result<T> {
        wait_for(what, self.limit(seconds), look)
    }
}

fn states(release: &Release) -> String {
    if release.devices.is_empty() {
        return "no device is assigned".into();
    }
    let state = |d: &super::api::ReleaseDevice| format!("{} {} {}", d.device, d.state, d.stage.as_deref().unwrap_or(""));
    release.devices.iter().map(state).collect::<Vec<_>>().join(", ")
}

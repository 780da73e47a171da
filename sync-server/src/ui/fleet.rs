//! What the page says of models, releases, samples and retraining: text for people from rows of the store.
//!
//! Invariant: plain functions of their arguments. Not here: devices' own data (`device`), layout (the template).

use wayside_common::{fleet::Stage, time::Wall};

use crate::{
    db::{
        registry::{AssignedSlot, AssignmentState, DeviceOutcome, ModelState, ModelVersion, Release, RetrainRun, RunState},
        telemetry::{Device, SampleRow},
    },
    rollout::status::{DeviceRow, ReleaseState, devices_of, is_current, state_of},
};

/// Samples that are shown as pictures.
const SHOWN: usize = 12;

/// The newest releases; older ones are in the API.
const RELEASES_SHOWN: usize = 8;

/// More devices than this are counted, not named.
const NAMED: usize = 8;

const SUPERSEDED: &str = "superseded";

/// Rows of the store.
pub struct Seen {
    pub releases: Vec<Release>,
    pub outcomes: Vec<DeviceOutcome>,
    pub runs: Vec<RetrainRun>,
    /// Newest first.
    pub unlabelled: Vec<SampleRow>,
    pub labelled: Vec<SampleRow>,
}

/// How something is, for colour and symbol; the text beside it says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Busy,
    Bad,
    Quiet,
}

impl Tone {
    pub fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Bad => "bad",
            Self::Quiet => "quiet",
        }
    }

    pub fn symbol(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Busy => "…",
            Self::Bad => "✕",
            Self::Quiet => "–",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Badge {
    pub tone: Tone,
    pub text: String,
}

pub struct ModelView {
    pub name: String,
    pub version: u32,
    pub digest: String,
    pub state: &'static str,
    pub from: String,
    pub runs_on: Vec<String>,
    pub created: String,
}

pub struct ReleaseView {
    pub id: i64,
    pub model: String,
    pub slot: String,
    pub state: Badge,
    pub created: String,
    pub outcomes: Vec<OutcomeView>,
}

/// Devices that did the same with a release.
pub struct OutcomeView {
    pub devices: String,
    pub state: Badge,
    pub reason: Option<String>,
}

pub struct RunView {
    pub id: i64,
    pub job: String,
    pub state: Badge,
    pub samples: u64,
    pub when: String,
    pub candidate: Option<String>,
    /// What became of it.
    pub fate: &'static str,
    pub reason: Option<String>,
}

pub struct SamplesView {
    pub unlabelled: usize,
    pub labelled: usize,
    pub shown: Vec<SampleView>,
}

pub struct SampleView {
    pub id: String,
    pub device: String,
    pub predicted: String,
    /// A person says something else than the model.
    pub corrected: bool,
    pub margin: String,
    pub label: Option<String>,
}

pub fn models(models: &[ModelVersion], devices: &[&Device], now: Wall) -> Vec<ModelView> {
    let view = |version: &ModelVersion| ModelView {
        name: version.model.name.to_string(),
        version: version.model.version,
        digest: version.model.digest.to_string()[..12].to_owned(),
        state: version.state.as_str(),
        from: match (version.lineage["source"].as_str(), version.lineage["run"].as_str()) {
            (Some("retrain"), Some(run)) => format!("retraining run {run}, {} samples", version.lineage["samples"]),
            (Some("shipped"), _) => "came with the devices".into(),
            (Some("upload"), _) => "uploaded by an operator".into(),
            _ => "–".into(),
        },
        runs_on: devices
            .iter()
            .filter(|device| device.slots.iter().any(|s| s.active.as_ref().is_some_and(|a| a.digest == version.model.digest)))
            .map(|device| device.id.to_string())
            .collect(),
        created: ago(version.created, now),
    };
    models.iter().map(view).collect()
}

pub fn releases(seen: &Seen, devices: &[Device], now: Wall) -> Vec<ReleaseView> {
    let newest = |release: &Release| seen.releases.iter().find(|other| other.slot == release.slot).is_some_and(|n| n.id == release.id);
    let view = |release: &Release| {
        let rows = devices_of(release, newest(release), &seen.outcomes, devices);
        let state = match state_of(is_current(release, newest(release), devices), &rows) {
            ReleaseState::Waiting => Badge { tone: Tone::Quiet, text: "no device has the slot".into() },
            ReleaseState::InProgress => Badge { tone: Tone::Busy, text: "in progress".into() },
            ReleaseState::Active => Badge { tone: Tone::Good, text: "active".into() },
            ReleaseState::Refused => Badge { tone: Tone::Bad, text: "refused".into() },
            ReleaseState::Superseded => Badge { tone: Tone::Quiet, text: SUPERSEDED.into() },
        };
        let over = state.text == SUPERSEDED;
        ReleaseView {
            id: release.id.0,
            model: release.model.to_string(),
            slot: release.slot.to_string(),
            state,
            created: ago(release.created, now),
            outcomes: outcomes(rows, over),
        }
    };
    seen.releases.iter().take(RELEASES_SHOWN).map(view).collect()
}

/// One line for all devices with the same outcome, because a fleet mostly agrees.
fn outcomes(rows: Vec<DeviceRow>, over: bool) -> Vec<OutcomeView> {
    let mut groups: Vec<(Badge, Option<String>, Vec<String>)> = Vec::new();
    for row in rows {
        let (mut badge, reason) = outcome(row.slot);
        if over && badge.tone == Tone::Good {
            badge = Badge { tone: Tone::Quiet, text: "was active".into() };
        }
        match groups.iter_mut().find(|(known, why, _)| *known == badge && *why == reason) {
            Some((_, _, devices)) => devices.push(row.device.to_string()),
            None => groups.push((badge, reason, vec![row.device.to_string()])),
        }
    }
    let name = |devices: Vec<String>| match devices.len() {
        ..=NAMED => devices.join(", "),
        many => format!("{many} devices"),
    };
    groups.into_iter().map(|(state, reason, devices)| OutcomeView { devices: name(devices), state, reason }).collect()
}

fn outcome(slot: Option<AssignedSlot>) -> (Badge, Option<String>) {
    let Some(slot) = slot else { return (Badge { tone: Tone::Good, text: "ran it before".into() }, None) };
    let stage = slot.stage.map_or("", Stage::as_str);
    let (tone, text) = match slot.state {
        AssignmentState::Assigned => (Tone::Busy, "sent".into()),
        AssignmentState::InProgress => (Tone::Busy, stage.into()),
        AssignmentState::Active => (Tone::Good, "active".into()),
        AssignmentState::Refused => (Tone::Bad, format!("refused in {stage}")),
        AssignmentState::Superseded => (Tone::Quiet, "superseded".into()),
    };
    (Badge { tone, text }, slot.reason)
}

pub fn runs(runs: &[RetrainRun], models: &[ModelVersion], now: Wall) -> Vec<RunView> {
    let view = |run: &RetrainRun| {
        let state = match run.state {
            RunState::Running => Badge { tone: Tone::Busy, text: "running".into() },
            RunState::Succeeded => Badge { tone: Tone::Good, text: "succeeded".into() },
            RunState::Failed => Badge { tone: Tone::Bad, text: "failed".into() },
        };
        RunView {
            id: run.id.0,
            job: run.job.clone(),
            state,
            samples: run.samples,
            when: ago(run.started, now),
            candidate: run.candidate.as_ref().map(ToString::to_string),
            fate: match run.candidate.as_ref().and_then(|made| models.iter().find(|known| known.model == *made)).map(|known| known.state) {
                Some(ModelState::Candidate) => "a candidate until an operator signs it",
                Some(ModelState::Released) => "which an operator has released",
                Some(ModelState::Shipped) | None => "",
            },
            reason: run.reason.clone(),
        }
    };
    runs.iter().map(view).collect()
}

pub fn samples(seen: &Seen) -> SamplesView {
    let view = |row: &SampleRow| SampleView {
        id: row.id.clone(),
        device: row.device.to_string(),
        predicted: row.label_predicted.clone(),
        margin: row.margin.map_or("–".into(), |margin| format!("{margin:.2}")),
        corrected: row.label.as_ref().is_some_and(|label| *label != row.label_predicted),
        label: row.label.clone(),
    };
    let shown = seen.unlabelled.iter().chain(&seen.labelled).take(SHOWN).map(view).collect();
    SamplesView { unlabelled: seen.unlabelled.len(), labelled: seen.labelled.len(), shown }
}

/// "12 s ago"; what lies in the future is "now", because clocks differ a little.
pub fn ago(then: Wall, now: Wall) -> String {
    let seconds = now.0.saturating_sub(then.0) / 1000;
    match seconds {
        ..2 => "now".into(),
        2..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::registry::ReleaseId;

    #[test]
    fn devices_that_agree_share_a_line() {
        let row = |device: &str, state, reason: Option<&str>| DeviceRow {
            device: device.parse().unwrap(),
            generation: None,
            slot: Some(AssignedSlot { release: ReleaseId(1), state, stage: None, reason: reason.map(str::to_owned), updated: Wall(0) }),
        };
        use AssignmentState::{Active, Refused};
        let rows = vec![row("a", Refused, Some("x")), row("b", Active, None), row("c", Refused, Some("x")), row("d", Refused, Some("y"))];
        let lines: Vec<_> = outcomes(rows, false).into_iter().map(|line| (line.devices, line.reason)).collect();
        let expected = [("a, c", Some("x")), ("b", None), ("d", Some("y"))];
        assert_eq!(lines, expected.map(|(devices, reason)| (devices.to_owned(), reason.map(str::to_owned))));
        let many = outcomes((0..20).map(|i| row(&format!("cam-{i}"), Active, None)).collect(), true);
        assert_eq!((many[0].devices.as_str(), many[0].state.text.as_str()), ("20 devices", "was active"));
    }

    #[test]
    fn time_is_told_in_the_unit_that_fits() {
        struct Case(i64, &'static str);
        for Case(seconds, text) in
            [Case(-5, "now"), Case(1, "now"), Case(59, "59 s ago"), Case(60, "1 min ago"), Case(7199, "1 h ago"), Case(172_800, "2 d ago")]
        {
            assert_eq!(ago(Wall(1_000_000_000 - seconds * 1000), Wall(1_000_000_000)), text);
        }
    }
}

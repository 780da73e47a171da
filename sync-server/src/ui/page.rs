//! The page as the template sees it: cards, rows, and one line that says how the fleet is.
//!
//! Invariant: a plain function of what was read; all text is escaped by the template. Not here: reading, geometry.

use std::collections::BTreeSet;

use askama::Template;
use wayside_common::time::Wall;

use super::{
    device::{Curve, DeviceView, DriftRow, Strip},
    fleet::{self, Badge, ModelView, ReleaseView, RunView, SamplesView, Seen, Tone, ago},
};
use crate::{
    db::{
        registry::ModelVersion,
        telemetry::{AnswerRow, Device, GapEntry},
    },
    drift::judge::Verdict,
};

/// Colours for labels in the style sheet.
const COLOURS: usize = 8;

#[derive(Template)]
#[template(path = "page.html")]
pub struct Page {
    fleet: String,
    verdict: Badge,
    /// Cameras first.
    cards: Vec<Card>,
    drift: Vec<DriftView>,
    models: Vec<ModelView>,
    releases: Vec<ReleaseView>,
    runs: Vec<RunView>,
    samples: SamplesView,
    rendered: String,
}

pub struct Card {
    pub id: String,
    pub is_camera: bool,
    pub class: String,
    pub online: Badge,
    pub model: String,
    pub generation: u64,
    pub complete: Badge,
    pub fault: bool,
    pub answer: Option<AnswerView>,
    /// Slot and version of the newest picture.
    pub picture: Option<(String, u64)>,
    pub item: String,
    pub curves: Vec<Curve>,
    pub strip: Vec<Tick>,
    pub legend: Vec<LegendEntry>,
}

pub struct AnswerView {
    pub label: String,
    pub colour: usize,
    pub confidence: String,
    /// Of a bar of 100.
    pub bar: String,
    pub micros: String,
}

pub struct Tick {
    pub x: usize,
    pub colour: Option<usize>,
}

pub struct LegendEntry {
    pub label: String,
    pub colour: usize,
    pub count: usize,
}

pub struct DriftView {
    pub device: String,
    pub slot: String,
    pub shifted: usize,
    pub features: Vec<FeatureView>,
}

pub struct FeatureView {
    pub name: String,
    pub verdict: Badge,
    pub n: u64,
    pub psi: String,
    pub p: String,
    pub outline: String,
    pub bars: String,
}

pub fn build(fleet: &str, devices: Vec<DeviceView>, models: &[ModelVersion], seen: &Seen, now: Wall) -> Page {
    let known: Vec<&Device> = devices.iter().map(|view| &view.device).collect();
    let runs = fleet::runs(&seen.runs, models, now);
    let models = fleet::models(models, &known, now);
    let owned: Vec<Device> = known.into_iter().cloned().collect();
    let releases = fleet::releases(seen, &owned, now);
    let verdict = verdict(&devices, &releases);
    let labels: BTreeSet<String> = devices.iter().flat_map(|d| d.strips.iter().flat_map(|s| s.labels.iter().flatten().cloned())).collect();
    let labels: Vec<String> = labels.into_iter().collect();
    let drift = devices.iter().filter_map(drift_view).collect();
    let mut cards: Vec<Card> = devices.into_iter().map(|view| card(view, &labels, now)).collect();
    cards.sort_by_key(|card| !card.is_camera);
    Page { fleet: fleet.into(), verdict, cards, drift, models, releases, runs, samples: fleet::samples(seen), rendered: now.to_rfc3339() }
}

/// One sentence for someone who looks once a day.
fn verdict(devices: &[DeviceView], releases: &[ReleaseView]) -> Badge {
    let all = devices.len();
    let online = devices.iter().filter(|view| view.device.online).count();
    let faults = devices.iter().filter(|view| view.device.storage_fault || view.device.differing > 0).count();
    let moving = releases.iter().filter(|release| release.state.tone == Tone::Busy).count();
    let say = |tone: Tone, text: String| Badge { tone, text };
    match (all, online) {
        (0, _) => say(Tone::Quiet, "No device has connected yet".into()),
        _ if faults > 0 => say(Tone::Bad, format!("{faults} of {all} devices report a storage fault or differing records")),
        _ if online < all => say(Tone::Bad, format!("{} of {all} devices are offline", all - online)),
        _ if moving > 0 => say(Tone::Busy, format!("All {all} devices online, {moving} release on its way")),
        _ => say(Tone::Good, format!("All {all} devices online")),
    }
}

fn card(view: DeviceView, labels: &[String], now: Wall) -> Card {
    let DeviceView { device, latest, gaps, curves, strips, .. } = view;
    let colour = |label: &str| labels.iter().position(|known| known == label).unwrap_or(0) % COLOURS;
    let frame = latest.frames.first();
    let newest = frame.map(|frame| &frame.answer).or(latest.predictions.first().map(|prediction| &prediction.answer));
    let picture = latest.thumbnails.first().map(|thumbnail| (thumbnail.slot.clone(), thumbnail.position));
    let online = match device.online {
        true => Badge { tone: Tone::Good, text: "online".into() },
        false => Badge { tone: Tone::Bad, text: format!("offline, seen {}", ago(Wall(device.last_seen), now)) },
    };
    let (strip, legend) = ticks(&strips, &colour);
    Card {
        id: device.id.to_string(),
        is_camera: !latest.frames.is_empty() || !latest.thumbnails.is_empty(),
        class: device.class.clone(),
        online,
        model: device.slots.iter().filter_map(|slot| slot.active.as_ref()).map(ToString::to_string).collect::<Vec<_>>().join(", "),
        generation: device.generation,
        complete: completeness(&gaps),
        fault: device.storage_fault,
        answer: newest.and_then(|answer| answer_view(answer, &colour)),
        picture,
        item: frame.map(|frame| frame.item.clone()).unwrap_or_default(),
        curves,
        strip,
        legend,
    }
}

fn answer_view(answer: &AnswerRow, colour: &dyn Fn(&str) -> usize) -> Option<AnswerView> {
    let label = answer.label.clone()?;
    let confidence = answer.confidence.unwrap_or_default().clamp(0.0, 1.0) * 100.0;
    Some(AnswerView {
        colour: colour(&label),
        label,
        confidence: format!("{confidence:.0} %"),
        bar: format!("{confidence:.1}"),
        micros: answer.micros.map_or(String::new(), |micros| format!("{:.0} ms", micros as f64 / 1000.0)),
    })
}

/// The ledger in one line: by class of loss, never "all fine" where something is missing.
fn completeness(gaps: &[GapEntry]) -> Badge {
    if gaps.is_empty() {
        return Badge { tone: Tone::Good, text: "complete".into() };
    }
    let reasons: BTreeSet<&str> = gaps.iter().map(|gap| gap.reason.as_str()).collect();
    let reasons = reasons.into_iter().collect::<Vec<_>>().join(", ").replace('_', " ");
    let entries = if gaps.len() == 1 { "1 gap".into() } else { format!("{} gaps", gaps.len()) };
    Badge { tone: Tone::Busy, text: format!("{entries} in the ledger: {reasons}") }
}

fn ticks(strips: &[Strip], colour: &dyn Fn(&str) -> usize) -> (Vec<Tick>, Vec<LegendEntry>) {
    let Some(strip) = strips.first() else { return (Vec::new(), Vec::new()) };
    let mut legend: Vec<LegendEntry> = Vec::new();
    for label in strip.labels.iter().flatten() {
        match legend.iter_mut().find(|entry| entry.label == *label) {
            Some(entry) => entry.count += 1,
            None => legend.push(LegendEntry { label: label.clone(), colour: colour(label), count: 1 }),
        }
    }
    legend.sort_by(|a, b| b.count.cmp(&a.count).then(a.label.cmp(&b.label)));
    // The newest stands at the right end.
    let start = 60usize.saturating_sub(strip.labels.len());
    let tick = |(at, label): (usize, &Option<String>)| Tick { x: (start + at) * 4, colour: label.as_deref().map(colour) };
    (strip.labels.iter().enumerate().map(tick).collect(), legend)
}

fn drift_view(view: &DeviceView) -> Option<DriftView> {
    let first = view.drift.first()?;
    let feature = |DriftRow { finding, histogram }: &DriftRow| FeatureView {
        name: finding.feature.clone(),
        verdict: match finding.verdict {
            Verdict::Shift => Badge { tone: Tone::Bad, text: "shift".into() },
            Verdict::NoShift => Badge { tone: Tone::Good, text: "no shift".into() },
            Verdict::NotEnoughData => Badge { tone: Tone::Quiet, text: "not enough data".into() },
        },
        n: finding.n_current,
        psi: finding.effect.as_ref().map_or("–".into(), |effect| format!("{:.2}", effect.psi)),
        p: finding.chi_square.as_ref().map_or("–".into(), |test| match test.p_value {
            p if p < 0.001 => "< 0.001".into(),
            p => format!("{p:.3}"),
        }),
        outline: histogram.outline.clone(),
        bars: histogram.bars.clone(),
    };
    Some(DriftView {
        device: view.device.id.to_string(),
        slot: first.finding.slot.to_string(),
        shifted: view.drift.iter().filter(|row| row.finding.verdict == Verdict::Shift).count(),
        features: view.drift.iter().map(feature).collect(),
    })
}

/// For the template: a value with the digits that a person reads.
pub fn number(value: &Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

//! A new version of a package: the same network with its head fitted anew on labelled embeddings.
//!
//! Invariant: everything before the embedding stays, so the new golden logits are the base's golden embeddings times the new head,
//! computed in f64 and never by our engine; what is measured is measured on samples that were not fitted on. Not here: where
//! samples come from, whether the candidate is any good.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    HeadError, LinearHead,
    fit::{FitError, Row, fit},
};
use crate::{
    golden,
    malformed::Malformed,
    manifest,
    model::{best_two, softmax},
    package::{CARD, METRICS, MODEL, Package, PackageError},
    reference::{self, DriftFeature, Reference},
};

/// Pulls the new head to the base's: a few dozen labels correct it, they do not replace it.
pub const PENALTY: f64 = 0.03;
/// Every fifth sample of a label is held out.
const FOLD: usize = 5;
/// Fewer held-out samples say nothing about a distribution.
const LEAST_REFERENCE: usize = 50;

/// An embedding as the base's network gave it, and what a person says it shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    pub embedding: Vec<f32>,
    pub label: String,
}

/// How the samples came to be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// Because the model was unsure, or unknown: their margins say nothing about ordinary input, the base's reference is kept.
    #[default]
    Unsure,
    /// By chance: the held-out ones become the reference of the answer.
    Random,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    pub version: u32,
    pub penalty: f64,
    pub selection: Selection,
}

#[derive(Debug, thiserror::Error)]
pub enum RetrainError {
    #[error("the base package has no output of the role \"embedding\"")]
    NoEmbedding,
    #[error("the base's head is not its logits: golden sample {sample} says {expected}, embedding times head gives {got}")]
    NotLinear { sample: String, expected: f64, got: f64 },
    #[error("the head has {head} classes, the manifest {labels} labels")]
    Classes { head: usize, labels: usize },
    #[error("{label:?} is not among the labels {known:?}")]
    UnknownLabel { label: String, known: Vec<String> },
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Fit(#[from] FitError),
    #[error(transparent)]
    Manifest(#[from] Malformed),
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// What happened, for the card, for programs and for a person.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub base: String,
    pub version: u32,
    pub penalty: f64,
    pub fitted_on: usize,
    pub held_out: usize,
    /// Samples per label, held-out ones included.
    pub labels: BTreeMap<String, usize>,
    /// On the held-out samples; `None` where there are none.
    pub accuracy: Option<Accuracy>,
    pub reference_recounted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    pub base: f64,
    pub new: f64,
}

#[derive(Debug)]
pub struct Retrained {
    pub package: Package,
    pub report: Report,
}

pub fn retrain(base: &Package, samples: &[Labelled], options: Options) -> Result<Retrained, RetrainError> {
    let (_, labels) = base.manifest().answer();
    let old = LinearHead::of(base.onnx())?;
    let embedding = base.manifest().embedding().ok_or(RetrainError::NoEmbedding)?;
    if old.classes() != labels.len() {
        return Err(RetrainError::Classes { head: old.classes(), labels: labels.len() });
    }
    check_linear(base, embedding, &old)?;
    let (fitted, held_out) = split(samples, labels)?;
    let head = fit(&fitted, &old, options.penalty)?;
    let recount = options.selection == Selection::Random && held_out.len() >= LEAST_REFERENCE;
    let report = Report {
        base: format!("{} {}", base.model_ref(), base.digest()),
        version: options.version,
        penalty: options.penalty,
        fitted_on: fitted.len(),
        held_out: held_out.len(),
        labels: count_labels(samples),
        accuracy: (!held_out.is_empty()).then(|| Accuracy { base: accuracy(&old, &held_out), new: accuracy(&head, &held_out) }),
        reference_recounted: recount,
    };
    let reference = if recount { recounted(base.reference(), &head, &held_out) } else { base.reference().clone() };
    let manifest = base.file(manifest::FILE).expect("a package has a manifest");
    let manifest = manifest::with_version(&String::from_utf8_lossy(manifest), options.version)?;
    let mut files = base.files().clone();
    files.insert(manifest::FILE.into(), manifest.into_bytes());
    files.insert(MODEL.into(), head.put_into(base.onnx())?);
    files.insert(golden::FILE.into(), golden_json(base, embedding, &head).into_bytes());
    files.insert(reference::FILE.into(), reference.to_json().into_bytes());
    files.insert(CARD.into(), card(base, &report).into_bytes());
    files.insert(METRICS.into(), serde_json::to_vec_pretty(&report).expect("a report is plain numbers and text"));
    Ok(Retrained { package: Package::from_files(files)?, report })
}

/// Fitting a head that is not what makes the logits would be fitting nothing.
fn check_linear(base: &Package, embedding: usize, head: &LinearHead) -> Result<(), RetrainError> {
    let outputs = &base.manifest().outputs;
    let (answer, _) = base.manifest().answer();
    for sample in &base.golden().samples {
        let embedding = &sample.outputs[&outputs[embedding].name];
        if embedding.len() != head.dimension() {
            let error = HeadError::Length { found: embedding.len(), expected: head.dimension() };
            return Err(error.into());
        }
        let expected = &sample.outputs[&outputs[answer].name];
        for (&got, &expected) in head.logits(embedding).iter().zip(expected) {
            if (got - expected).abs() > outputs[answer].atol + outputs[answer].rtol * expected.abs() {
                return Err(RetrainError::NotLinear { sample: sample.input.clone(), expected, got });
            }
        }
    }
    Ok(())
}

/// Rows to fit on and rows held out: of each label, in the order given, every fifth is held out.
fn split(samples: &[Labelled], labels: &[String]) -> Result<(Vec<Row>, Vec<Row>), RetrainError> {
    let mut seen = vec![0usize; labels.len()];
    let (mut fitted, mut held_out) = (Vec::new(), Vec::new());
    for Labelled { embedding, label } in samples {
        let class = labels.iter().position(|known| known == label);
        let class = class.ok_or_else(|| RetrainError::UnknownLabel { label: label.clone(), known: labels.to_vec() })?;
        seen[class] += 1;
        let row = Row { embedding: embedding.clone(), class };
        if seen[class].is_multiple_of(FOLD) { held_out.push(row) } else { fitted.push(row) }
    }
    Ok((fitted, held_out))
}

fn count_labels(samples: &[Labelled]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    samples.iter().for_each(|sample| *counts.entry(sample.label.clone()).or_default() += 1);
    counts
}

fn logits(head: &LinearHead, row: &Row) -> Vec<f64> {
    head.logits(&row.embedding.iter().map(|&value| f64::from(value)).collect::<Vec<_>>())
}

fn accuracy(head: &LinearHead, rows: &[Row]) -> f64 {
    let right = rows.iter().filter(|row| best_two(&logits(head, row)).0 == row.class).count();
    right as f64 / rows.len() as f64
}

/// The base's bins; what depends on the head is counted anew.
fn recounted(base: &Reference, head: &LinearHead, rows: &[Row]) -> Reference {
    let mut reference = base.clone();
    for feature in reference.features.iter_mut().filter(|feature| feature.kind.is_of_the_answer()) {
        feature.counts = Default::default();
        for row in rows {
            let logits: Vec<f32> = logits(head, row).into_iter().map(|logit| logit as f32).collect();
            let (class, best, second) = best_two(&softmax(&logits));
            let value = if feature.kind == DriftFeature::Class { class as f64 } else { best - second };
            if let Some(bin) = feature.edges.bin(value) {
                feature.counts.add(bin);
            }
        }
    }
    reference
}

fn golden_json(base: &Package, embedding: usize, head: &LinearHead) -> String {
    let manifest = base.manifest();
    let (answer, labels) = manifest.answer();
    let mut golden = base.golden().clone();
    for sample in &mut golden.samples {
        let logits = head.logits(&sample.outputs[&manifest.outputs[embedding].name]);
        sample.label = labels[best_two(&logits).0].clone();
        sample.outputs.insert(manifest.outputs[answer].name.clone(), logits);
    }
    golden.to_json()
}

fn card(base: &Package, report: &Report) -> String {
    let labels = report.labels.iter().map(|(label, n)| format!("| {label} | {n} |\n")).collect::<String>();
    let accuracy = match report.accuracy {
        Some(Accuracy { base, new }) => format!("{:.1} % (the base: {:.1} %)", 100.0 * new, 100.0 * base),
        None => "not measured: too few samples to hold some out".into(),
    };
    let reference = match report.reference_recounted {
        true => "counted anew on the held-out samples for `output.margin` and `output.class`",
        false => "that of the base, whose head differs: `output.margin` and `output.class` are approximate",
    };
    let (name, version) = (&base.manifest().name, report.version);
    format!(
        "# {name} v{version}\n\nThe head of {base}, fitted anew on labelled embeddings; the network before it is unchanged.\n\n\
         Multinomial logistic regression, penalty {penalty} on the distance to the base's head, fitted on {fitted_on} samples.\n\
         Accuracy on {held_out} held-out samples of the same collection: {accuracy}.\nDrift reference: {reference}.\n\n\
         | label | samples |\n|---|---|\n{labels}\nLicence: {licence}. Data, licence and limits of the network: the card of the base.\n",
        base = report.base,
        penalty = report.penalty,
        fitted_on = report.fitted_on,
        held_out = report.held_out,
        licence = base.manifest().licence,
    )
}

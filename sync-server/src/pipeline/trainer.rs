//! `wayside retrain head`: fits the base's linear head anew on the embeddings and labels of a dataset folder.
//!
//! Invariant: the package is written to the output folder whole or not at all, and carries the version that was asked for. Not here: the
//! arithmetic (`models::head`), where the folders come from (`pipeline`).

use std::{fs, path::PathBuf};

use anyhow::{Context, ensure};
use wayside_models::{
    head::retrain::{Labelled, Options, PENALTY, Report, Selection, retrain},
    package::Package,
};

use crate::datasets::{self, Dataset};

/// No list of samples is longer.
const MAX_DATASET: u64 = 1024 * 1024 * 1024;

/// What the pipeline tells a trainer.
#[derive(Clone, Debug)]
pub struct Folders {
    pub dataset: PathBuf,
    pub base: PathBuf,
    pub output: PathBuf,
    pub version: u32,
}

pub fn run(folders: &Folders) -> anyhow::Result<Report> {
    let base = Package::open(&folders.base).with_context(|| format!("the base package {}", folders.base.display()))?;
    let path = folders.dataset.join(datasets::FILE);
    let read = || -> anyhow::Result<Dataset> {
        let length = fs::metadata(&path)?.len();
        ensure!(length <= MAX_DATASET, "{length} bytes, and {MAX_DATASET} are allowed");
        Ok(serde_json::from_slice(&fs::read(&path)?)?)
    };
    let dataset = read().with_context(|| format!("could not read {}", path.display()))?;
    let all = dataset.samples.len();
    let samples: Vec<Labelled> =
        dataset.samples.into_iter().filter_map(|s| Some(Labelled { embedding: s.embedding?, label: s.label })).collect();
    ensure!(!samples.is_empty(), "none of the {all} samples has an embedding, so there is nothing to fit a head on");
    let options = Options { version: folders.version, penalty: PENALTY, selection: Selection::Unsure };
    let retrained = retrain(&base, &samples, options)?;
    retrained.package.write(&folders.output).context("the new package could not be written")?;
    Ok(retrained.report)
}

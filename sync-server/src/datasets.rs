//! A dataset folder for a retraining job: `samples.json`, and the pictures that it names.
//!
//! Invariant: only samples that a person labelled with one of the model's labels are in it; file names are made here, never taken from a
//! device. Not here: which samples are worth a label (the device), fitting.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use wayside_common::record::Roi;

use crate::{
    db::{
        Db,
        telemetry::{SampleContent, SampleFilter, SampleRow},
    },
    disk::{self, Access},
};

/// No dataset has more samples.
const MAX_SAMPLES: u32 = 50_000;

pub const FILE: &str = "samples.json";

/// `samples.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Dataset {
    pub samples: Vec<LabelledSample>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct LabelledSample {
    /// Relative to the dataset's folder; absent where the sample has no picture.
    pub file: Option<String>,
    pub label: String,
    /// Absent: the picture is the region of interest.
    pub roi: Option<Roi>,
    /// Of the network that chose the sample.
    pub embedding: Option<Vec<f32>>,
}

/// What a dataset holds.
#[derive(Debug, Default)]
pub struct Written {
    pub samples: u64,
    pub labels: BTreeMap<String, u64>,
}

/// Writes the labelled samples whose label the model knows.
pub async fn write(db: &dyn Db, labels: &[String], folder: &Path) -> anyhow::Result<Written> {
    let images = folder.join("images");
    fs::create_dir_all(&images).with_context(|| format!("could not make {}", images.display()))?;
    let rows = db.samples(SampleFilter { labelled: Some(true), slot: None, limit: MAX_SAMPLES }).await?;
    let (mut dataset, mut written) = (Dataset { samples: Vec::new() }, Written::default());
    for row in rows {
        let Some(label) = row.label.clone().filter(|label| labels.contains(label)) else { continue };
        let Some(content) = db.sample_content(&row.id).await? else { continue };
        dataset.samples.push(sample(&row, label.clone(), content, folder, dataset.samples.len())?);
        *written.labels.entry(label).or_default() += 1;
    }
    written.samples = dataset.samples.len() as u64;
    let path = folder.join(FILE);
    disk::replace(&path, &serde_json::to_vec(&dataset)?, Access::Everyone)
        .with_context(|| format!("could not write {}", path.display()))?;
    Ok(written)
}

fn sample(row: &SampleRow, label: String, content: SampleContent, folder: &Path, number: usize) -> anyhow::Result<LabelledSample> {
    let SampleContent { jpeg, embedding } = content;
    let file = (!jpeg.is_empty()).then(|| format!("images/{number:06}.jpg"));
    if let Some(file) = &file {
        fs::write(folder.join(file), jpeg).with_context(|| format!("could not write the picture of sample {}", row.id))?;
    }
    Ok(LabelledSample { file, label, roi: None, embedding: (!embedding.is_empty()).then_some(embedding) })
}

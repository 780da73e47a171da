//! `reference.json`: per drift feature the bin edges, and counts over data on which the model was not fitted.
//!
//! Invariant: every feature of a `Reference` is one that the manifest's model can give, has 31 rising edges and 32 counts. Not
//! here: the distance between two histograms (`common::sketch::distance`).

use serde::{Deserialize, Serialize};
use wayside_common::{
    record::MAX_LABEL,
    sketch::histogram::{Counts, Edges, ReferenceFeature},
};

use crate::{
    malformed::Malformed,
    manifest::{InputKind, Manifest},
};

pub const FILE: &str = "reference.json";
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
const MAX_FEATURES: usize = 512;

/// What drift is counted of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriftFeature {
    /// Mean luma of the resized ROI.
    Brightness,
    /// Population standard deviation of the luma.
    Contrast,
    /// Mean absolute Laplacian of the luma.
    Sharpness,
    /// Difference of the two largest softmax values.
    Margin,
    /// Index of the largest logit.
    Class,
    EmbeddingNorm,
    /// This feature of the manifest's window.
    Input(usize),
}

impl DriftFeature {
    /// `None` for a name that the manifest's model cannot give.
    pub fn parse(name: &str, manifest: &Manifest) -> Option<Self> {
        match (name, &manifest.input.kind) {
            ("output.margin", _) => Some(Self::Margin),
            ("output.class", _) => Some(Self::Class),
            ("embedding.norm", _) => manifest.embedding().map(|_| Self::EmbeddingNorm),
            ("image.brightness", InputKind::Image(_)) => Some(Self::Brightness),
            ("image.contrast", InputKind::Image(_)) => Some(Self::Contrast),
            ("image.sharpness", InputKind::Image(_)) => Some(Self::Sharpness),
            (_, InputKind::Window(window)) => {
                let feature = name.strip_prefix("input.")?;
                window.features.iter().position(|known| known.name == feature).map(Self::Input)
            }
            (_, InputKind::Image(_)) => None,
        }
    }

    /// Whether it changes with the head.
    pub fn is_of_the_answer(self) -> bool {
        matches!(self, Self::Margin | Self::Class)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Feature {
    pub name: String,
    pub kind: DriftFeature,
    pub edges: Edges,
    pub counts: Counts,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    pub features: Vec<Feature>,
    /// Inputs that were counted.
    pub n: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    features: Vec<ReferenceFeature>,
    n: u64,
}

impl Reference {
    pub fn parse(text: &str, manifest: &Manifest) -> Result<Self, Malformed> {
        let wrong = |reason: String| Malformed::at(FILE, text, 0..0, reason);
        if text.len() > MAX_BYTES {
            return Err(wrong(format!("{} bytes; {MAX_BYTES} are allowed", text.len())));
        }
        let raw: Raw = serde_json::from_str(text).map_err(|error| Malformed::json(FILE, &error))?;
        if raw.features.len() > MAX_FEATURES {
            return Err(wrong(format!("{} features; {MAX_FEATURES} are allowed", raw.features.len())));
        }
        let mut features: Vec<Feature> = Vec::with_capacity(raw.features.len());
        for ReferenceFeature { name, edges, counts } in raw.features {
            let at = text.find(&format!("{name:?}")).unwrap_or(0);
            let wrong = |reason: String| Malformed::at(FILE, text, at..at, reason);
            let kind = DriftFeature::parse(&name, manifest).ok_or_else(|| wrong(format!("{name:?} is no drift feature of this model")))?;
            if name.len() > MAX_LABEL {
                return Err(wrong(format!("{name:?} is longer than {MAX_LABEL} bytes")));
            }
            if features.iter().any(|known| known.name == name) {
                return Err(wrong(format!("{name:?} stands here twice")));
            }
            let edges = Edges::new(&edges).map_err(|error| wrong(format!("{name:?}: {error}")))?;
            let counts =
                Counts::from_slice(&counts).ok_or_else(|| wrong(format!("{name:?}: {} counts, and there are 32 bins", counts.len())))?;
            features.push(Feature { name, kind, edges, counts });
        }
        Ok(Self { features, n: raw.n })
    }

    /// The text that `parse` reads.
    pub fn to_json(&self) -> String {
        let features = self.features.iter().map(|feature| ReferenceFeature {
            name: feature.name.clone(),
            edges: feature.edges.as_slice().to_vec(),
            counts: feature.counts.0.to_vec(),
        });
        let mut text = serde_json::to_string(&Raw { features: features.collect(), n: self.n }).expect("finite numbers and text are JSON");
        text.push('\n');
        text
    }
}

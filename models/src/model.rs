//! A loaded package that answers: preprocessing, the network, the answer and what drift counts, in one call.
//!
//! Invariant: an `Inference` has every output of the manifest, all values finite, and logits as long as the labels. The network
//! runs in the shape and with the preprocessing of its own package only. Not here: the process around it, time limits, records.

use wayside_common::{
    fleet::ModelRef,
    record::{Answer, Roi},
};

use crate::{
    engine::{Engine, EngineError, Session},
    manifest::{InputKind, Manifest, Role},
    package::Package,
    preprocess::{
        image::{self, Rgb},
        window,
    },
    reference::{DriftFeature, Reference},
    tensor::Tensor,
};

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InferError {
    /// The input's fault: the next one may be good.
    #[error("bad input: {0}")]
    BadInput(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("output {output:?} has a value that is not finite")]
    NotFinite { output: String },
}

pub struct Model {
    identity: ModelRef,
    manifest: Manifest,
    reference: Reference,
    session: Box<dyn Session>,
}

/// What came of one frame or window.
#[derive(Clone, Debug, PartialEq)]
pub struct Inference {
    /// In the manifest's order.
    pub outputs: Vec<Vec<f32>>,
    /// Softmax of the answer, in the order of the labels.
    pub probabilities: Vec<f32>,
    /// Index of the largest logit.
    pub class: usize,
    /// Softmax of `class`.
    pub confidence: f32,
    /// Softmax of `class` minus that of the second best.
    pub margin: f32,
    /// One entry per feature of the reference, in its order.
    pub drift: Vec<Drift>,
    /// The ROI at the network's size; none for windows.
    pub resized: Option<Rgb>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    pub value: f64,
    /// Of the reference's 32; `None` where the value is no number.
    pub bin: Option<usize>,
}

/// What preprocessing leaves besides the tensor.
enum Seen {
    Image(Rgb),
    Window(Vec<f64>),
}

impl Model {
    /// The package's bytes are no longer needed afterwards.
    pub fn load(engine: &dyn Engine, package: &Package) -> Result<Self, EngineError> {
        let session = engine.load(package.onnx(), package.manifest())?;
        let (manifest, reference) = (package.manifest().clone(), package.reference().clone());
        Ok(Self { identity: package.model_ref(), manifest, reference, session })
    }

    pub fn identity(&self) -> &ModelRef {
        &self.identity
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    pub fn labels(&self) -> &[String] {
        self.manifest.answer().1
    }

    pub fn infer_image(&mut self, jpeg: &[u8], roi: Option<Roi>) -> Result<Inference, InferError> {
        let InputKind::Image(input) = &self.manifest.input.kind else {
            return Err(InferError::BadInput("the model takes windows of readings, not pictures".into()));
        };
        let prepared = image::prepare(input, jpeg, roi).map_err(|error| InferError::BadInput(error.to_string()))?;
        self.infer(&prepared.tensor, Seen::Image(prepared.resized))
    }

    /// Each row holds the manifest's columns in their order, in time order; NaN is a missing value.
    pub fn infer_window(&mut self, rows: &[Vec<f64>]) -> Result<Inference, InferError> {
        let InputKind::Window(input) = &self.manifest.input.kind else {
            return Err(InferError::BadInput("the model takes pictures, not windows of readings".into()));
        };
        let prepared = window::prepare(input, &self.manifest.input.shape, rows).map_err(|error| InferError::BadInput(error.to_string()))?;
        self.infer(&prepared.tensor, Seen::Window(prepared.features))
    }

    /// The answer as records carry it; `micros` is what the caller measured.
    pub fn answer(&self, inference: &Inference, micros: u32) -> Answer {
        let label = self.labels()[inference.class].clone();
        let Inference { confidence, margin, .. } = *inference;
        Answer { model: self.identity.digest, label, confidence, margin, micros }
    }

    /// The best `n` labels with their softmax, best first.
    pub fn top(&self, inference: &Inference, n: usize) -> Vec<(&str, f32)> {
        let mut ranked: Vec<(&str, f32)> = self.labels().iter().map(String::as_str).zip(inference.probabilities.iter().copied()).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.truncate(n);
        ranked
    }

    pub fn embedding<'a>(&self, inference: &'a Inference) -> Option<&'a [f32]> {
        self.manifest.embedding().map(|at| inference.outputs[at].as_slice())
    }

    fn infer(&mut self, input: &Tensor, seen: Seen) -> Result<Inference, InferError> {
        let outputs: Vec<Vec<f32>> = self.session.run(input)?.into_iter().map(Tensor::into_values).collect();
        if outputs.len() != self.manifest.outputs.len() {
            return Err(EngineError::Run(format!("{} outputs instead of {}", outputs.len(), self.manifest.outputs.len())).into());
        }
        for (output, values) in self.manifest.outputs.iter().zip(&outputs) {
            if values.iter().any(|value| !value.is_finite()) {
                return Err(InferError::NotFinite { output: output.name.clone() });
            }
            match &output.role {
                Role::Logits { labels } if labels.len() != values.len() => {
                    let reason = format!("output {:?} has {} values for {} labels", output.name, values.len(), labels.len());
                    return Err(EngineError::Run(reason).into());
                }
                Role::Logits { .. } | Role::Embedding => {}
            }
        }
        let (answer, _) = self.manifest.answer();
        let probabilities = softmax(&outputs[answer]);
        let (class, best, second) = best_two(&probabilities);
        let features = self.reference.features.iter().map(|feature| {
            let value = match feature.kind {
                DriftFeature::Margin => best - second,
                DriftFeature::Class => class as f64,
                DriftFeature::EmbeddingNorm => self.manifest.embedding().map_or(f64::NAN, |at| norm(&outputs[at])),
                kind => seen.feature(kind),
            };
            Drift { value, bin: feature.edges.bin(value) }
        });
        let drift = features.collect();
        let resized = match seen {
            Seen::Image(resized) => Some(resized),
            Seen::Window(_) => None,
        };
        let probabilities = probabilities.into_iter().map(|p| p as f32).collect();
        Ok(Inference { outputs, probabilities, class, confidence: best as f32, margin: (best - second) as f32, drift, resized })
    }
}

impl Seen {
    /// NaN for what this input does not have; `reference.json` cannot name such a feature.
    fn feature(&self, kind: DriftFeature) -> f64 {
        match (self, kind) {
            (Self::Image(picture), DriftFeature::Brightness) => mean(&picture.luma()),
            (Self::Image(picture), DriftFeature::Contrast) => {
                let luma = picture.luma();
                let centre = mean(&luma);
                mean(&luma.iter().map(|y| (y - centre) * (y - centre)).collect::<Vec<_>>()).sqrt()
            }
            (Self::Image(picture), DriftFeature::Sharpness) => sharpness(picture),
            (Self::Window(features), DriftFeature::Input(at)) => features[at],
            _ => f64::NAN,
        }
    }
}

/// Mean of |4 Y[y,x] - its four neighbours| over inner pixels; NaN where there are none.
fn sharpness(picture: &Rgb) -> f64 {
    let (luma, width, height) = (picture.luma(), picture.width() as usize, picture.height() as usize);
    let mut sum = 0.0;
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let at = y * width + x;
            sum += (4.0 * luma[at] - luma[at - width] - luma[at + width] - luma[at - 1] - luma[at + 1]).abs();
        }
    }
    sum / (width.saturating_sub(2) * height.saturating_sub(2)) as f64
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

pub(crate) fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) - f64::from(largest)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// Index and value of the first largest, and the second largest value.
pub(crate) fn best_two(values: &[f64]) -> (usize, f64, f64) {
    let (mut at, mut best, mut second) = (0, f64::NEG_INFINITY, f64::NEG_INFINITY);
    for (index, &value) in values.iter().enumerate() {
        if value > best {
            (at, second, best) = (index, best, value);
        } else if value > second {
            second = value;
        }
    }
    (at, best, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_first_largest_and_the_margin_is_to_the_next() {
        let probabilities = softmax(&[1.0, 3.0, 3.0, -2.0]);
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let (class, best, second) = best_two(&probabilities);
        assert_eq!((class, best == second), (1, true));
        assert_eq!(best_two(&[0.1, 0.7, 0.2]), (1, 0.7, 0.2));
        assert!(softmax(&[1e30, -1e30]).iter().all(|p| p.is_finite()));
    }

    #[test]
    fn picture_features_are_those_of_the_definition() {
        // A white pixel in the middle of black: 3 x 3, luma 255 once.
        let mut pixels = vec![0; 27];
        pixels[12..15].fill(255);
        let picture = Seen::Image(Rgb::new(3, 3, pixels).unwrap());
        let near = |kind, value: f64| assert!((picture.feature(kind) - value).abs() < 1e-9, "{kind:?}");
        near(DriftFeature::Brightness, 255.0 / 9.0);
        near(DriftFeature::Contrast, 255.0 * 8f64.sqrt() / 9.0);
        near(DriftFeature::Sharpness, 1020.0);
        assert!(picture.feature(DriftFeature::Input(0)).is_nan());
    }
}

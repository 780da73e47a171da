//! The golden check: known inputs through the real engine must give the outputs that stand in the package.
//!
//! Invariant: a package passes only if every value of every output of every sample is finite and within the manifest's
//! tolerance, and every answer has the sample's label. Expectations come from another engine and another preprocessor, never
//! from ours. Not here: what a device does with a failure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use wayside_common::record::Roi;

use crate::{
    malformed::Malformed,
    manifest::{InputKind, Manifest, Output, WindowInput},
    model::{InferError, Inference, Model},
    package::Package,
};

pub const FILE: &str = "golden.json";
pub const MAX_BYTES: usize = 8 * 1024 * 1024;
pub const MAX_SAMPLES: usize = 12;
/// No output of a network has more values.
const MAX_VALUES: usize = 1_000_000;
/// A shorter array is not worth a chunk of its own.
const LONG_ARRAY: usize = 4 * 1024;

/// What `golden.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenSet {
    pub samples: Vec<GoldenSample>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenSample {
    /// Path in the package, below `golden/`.
    pub input: String,
    pub roi: Option<[u32; 4]>,
    pub label: String,
    /// Exactly the manifest's outputs.
    pub outputs: BTreeMap<String, Vec<f64>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    samples: Vec<GoldenSample>,
}

impl GoldenSet {
    pub fn parse(text: &str, manifest: &Manifest) -> Result<Self, Malformed> {
        let wrong = |reason: String| Malformed::at(FILE, text, 0..0, reason);
        if text.len() > MAX_BYTES {
            return Err(wrong(format!("{} bytes; {MAX_BYTES} are allowed", text.len())));
        }
        let raw: Raw = serde_json::from_str(text).map_err(|error| Malformed::json(FILE, &error))?;
        if raw.samples.is_empty() || raw.samples.len() > MAX_SAMPLES {
            return Err(wrong(format!("{} samples; 1 to {MAX_SAMPLES} are allowed", raw.samples.len())));
        }
        for sample in &raw.samples {
            let at = text.find(&format!("{:?}", sample.input)).unwrap_or(0);
            sample.fits(manifest).map_err(|reason| Malformed::at(FILE, text, at..at, format!("{:?}: {reason}", sample.input)))?;
        }
        Ok(Self { samples: raw.samples })
    }

    /// The text that `parse` reads.
    pub fn to_json(&self) -> String {
        let mut text = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, Spaced);
        Raw { samples: self.samples.clone() }.serialize(&mut serializer).expect("finite numbers and text are JSON");
        text.push(b'\n');
        String::from_utf8(text).expect("JSON is text")
    }
}

/// `, ` between elements and `6.1e-05` for small numbers, as the Python trainers write them: arrays that did not change stay the
/// same bytes.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn write_f64<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, value: f64) -> std::io::Result<()> {
        let scientific = format!("{value:e}");
        match scientific.split_once("e-") {
            Some((digits, exponent)) if value.abs() < 1e-4 => write!(writer, "{digits}e-{exponent:0>2}"),
            _ => write!(writer, "{value:?}"),
        }
    }
}

/// Where long arrays of a golden.json start and end, ascending: a new head leaves the embeddings as they were, and chunks cut here
/// are shared.
pub fn boundaries(text: &[u8]) -> Vec<usize> {
    let mut start = None;
    let mut boundaries = Vec::new();
    for (at, byte) in text.iter().enumerate() {
        match (byte, start) {
            (b'[', _) => start = Some(at),
            (b']', Some(from)) => {
                if at - from >= LONG_ARRAY {
                    boundaries.extend([from, at]);
                }
                start = None;
            }
            _ => {}
        }
    }
    boundaries
}

impl GoldenSample {
    pub fn roi(&self) -> Option<Roi> {
        self.roi.map(|[x, y, width, height]| Roi { x, y, width, height })
    }

    fn fits(&self, manifest: &Manifest) -> Result<(), String> {
        if !is_input_path(&self.input) {
            return Err("not `golden/NAME` of the characters A-Z a-z 0-9 . _ -".into());
        }
        let names = self.outputs.keys().map(String::as_str);
        let mut known: Vec<&str> = manifest.outputs.iter().map(|output| output.name.as_str()).collect();
        known.sort_unstable();
        if !names.eq(known.iter().copied()) {
            return Err(format!("the outputs are not {known:?}, which the manifest names"));
        }
        if self.outputs.values().any(|values| values.is_empty() || values.len() > MAX_VALUES || values.iter().any(|v| !v.is_finite())) {
            return Err("an output is empty, too long or not finite".into());
        }
        let (answer, labels) = manifest.answer();
        if self.outputs[&manifest.outputs[answer].name].len() != labels.len() {
            return Err("there are not as many logits as labels".into());
        }
        if !labels.contains(&self.label) {
            return Err(format!("label {:?} is not among the manifest's", self.label));
        }
        Ok(())
    }
}

/// Whether a path can be the input of a golden sample: one plain file name below `golden/`.
pub fn is_input_path(path: &str) -> bool {
    path.strip_prefix("golden/").is_some_and(|name| {
        !name.is_empty()
            && name.len() <= 128
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    })
}

/// A package that answered all its golden samples rightly.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenReport {
    pub samples: Vec<SampleReport>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SampleReport {
    pub input: String,
    /// Preprocessing and inference.
    pub took: Duration,
    /// Per output of the manifest, the largest |got - expected|.
    pub differences: Vec<f64>,
}

impl GoldenReport {
    /// The fastest sample's time. Whatever else the machine does can only add to a time, never take from it, so this is the nearest to what the
    /// model itself needs here.
    pub fn fastest(&self) -> Duration {
        self.samples.iter().map(|sample| sample.took).min().unwrap_or_default()
    }

    /// The time that 95 % of the samples did not exceed; for monitoring, since it holds the machine's other work as well.
    pub fn p95(&self) -> Duration {
        let mut took: Vec<Duration> = self.samples.iter().map(|sample| sample.took).collect();
        took.sort_unstable();
        took.get((took.len() * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    }

    /// Whether the model can keep the manifest's latency limit. Judged by the fastest sample, so that a busy machine refuses no good package.
    pub fn within(&self, limit: Duration) -> Result<(), GoldenFailure> {
        let took = self.fastest();
        if took <= limit { Ok(()) } else { Err(GoldenFailure::TooSlow { took, limit }) }
    }
}

/// Why a package must not run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GoldenFailure {
    #[error("golden sample {sample}: {error}")]
    NoAnswer { sample: String, error: InferError },
    #[error("golden sample {sample}: output {output:?} has {got} values instead of {expected}")]
    Length { sample: String, output: String, got: usize, expected: usize },
    #[error("golden sample {sample}: {output}[{index}] is {got}, expected {expected} within {allowed}")]
    Differs { sample: String, output: String, index: usize, got: f32, expected: f64, allowed: f64 },
    #[error("golden sample {sample}: the answer is {got:?}, expected {expected:?}")]
    Label { sample: String, got: String, expected: String },
    #[error("even the fastest inference takes {took:?}, and the manifest allows {limit:?}")]
    TooSlow { took: Duration, limit: Duration },
}

/// Runs every golden sample. The first one runs twice: engines prepare themselves on their first input, and that is not timed.
pub fn run(package: &Package, model: &mut Model) -> Result<GoldenReport, GoldenFailure> {
    let mut reports = Vec::new();
    if let Some(first) = package.golden().samples.first() {
        infer(package, model, first)?;
    }
    for sample in &package.golden().samples {
        let started = Instant::now();
        let inference = infer(package, model, sample)?;
        let took = started.elapsed();
        let differences = compare(package.manifest(), sample, &inference)?;
        reports.push(SampleReport { input: sample.input.clone(), took, differences });
    }
    Ok(GoldenReport { samples: reports })
}

fn infer(package: &Package, model: &mut Model, sample: &GoldenSample) -> Result<Inference, GoldenFailure> {
    let bytes = package.file(&sample.input).expect("a package holds the inputs that its golden.json names");
    let inference = match &package.manifest().input.kind {
        InputKind::Image(_) => model.infer_image(bytes, sample.roi()),
        InputKind::Window(window) => parse_window(bytes, window).map_err(InferError::BadInput).and_then(|rows| model.infer_window(&rows)),
    };
    inference.map_err(|error| GoldenFailure::NoAnswer { sample: sample.input.clone(), error })
}

/// The largest difference per output, or the first value that is too far away.
fn compare(manifest: &Manifest, sample: &GoldenSample, inference: &Inference) -> Result<Vec<f64>, GoldenFailure> {
    let mut differences = Vec::new();
    for (output, got) in manifest.outputs.iter().zip(&inference.outputs) {
        differences.push(compare_output(output, sample, got)?);
    }
    let (_, labels) = manifest.answer();
    match labels.get(inference.class) {
        Some(label) if *label == sample.label => Ok(differences),
        label => Err(GoldenFailure::Label {
            sample: sample.input.clone(),
            got: label.cloned().unwrap_or_default(),
            expected: sample.label.clone(),
        }),
    }
}

fn compare_output(output: &Output, sample: &GoldenSample, got: &[f32]) -> Result<f64, GoldenFailure> {
    let expected = &sample.outputs[&output.name];
    if got.len() != expected.len() {
        let (got, expected) = (got.len(), expected.len());
        return Err(GoldenFailure::Length { sample: sample.input.clone(), output: output.name.clone(), got, expected });
    }
    let mut largest = 0.0f64;
    for (index, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let difference = (f64::from(got) - expected).abs();
        let allowed = output.atol + output.rtol * expected.abs();
        // Written so that NaN fails.
        if !(got.is_finite() && difference <= allowed) {
            let (sample, output) = (sample.input.clone(), output.name.clone());
            return Err(GoldenFailure::Differs { sample, output, index, got, expected, allowed });
        }
        largest = largest.max(difference);
    }
    Ok(largest)
}

/// One window from CSV, columns in the manifest's order; other columns are passed over.
pub fn parse_window(bytes: &[u8], window: &WindowInput) -> Result<Vec<Vec<f64>>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the window is not UTF-8 text")?;
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').map(|name| name.trim().trim_matches('"')).collect();
    let places = window
        .columns
        .iter()
        .map(|column| header.iter().position(|name| *name == column.name).ok_or_else(|| format!("no column {:?}", column.name)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut rows = Vec::new();
    for line in lines {
        if rows.len() == window.rows {
            return Err(format!("more than {} rows", window.rows));
        }
        let fields: Vec<&str> = line.split(',').collect();
        let value = |&place: &usize| {
            let field = fields.get(place).map_or("", |field| field.trim());
            field.parse::<f64>().map_err(|_| format!("row {}: {field:?} is no number", rows.len() + 1))
        };
        rows.push(places.iter().map(value).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        let values = [0.0, -0.0, 1.0, -0.501861, 1e-4, 6.1e-5, -1.25e-12, 123456.0];
        let mut text = Vec::new();
        values.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced)).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "[0.0, -0.0, 1.0, -0.501861, 0.0001, 6.1e-05, -1.25e-12, 123456.0]");
    }

    #[test]
    fn the_latency_limit_is_judged_by_the_fastest_sample() {
        struct Case {
            took: &'static [u64],
            fits: bool,
        }
        let cases = [
            Case { took: &[80, 90, 1400], fits: true },
            Case { took: &[1400, 900, 500], fits: true },
            Case { took: &[1400, 900, 501], fits: false },
            Case { took: &[501], fits: false },
        ];
        for Case { took, fits } in cases {
            let sample = |&ms: &u64| SampleReport { input: String::new(), took: Duration::from_millis(ms), differences: Vec::new() };
            let report = GoldenReport { samples: took.iter().map(sample).collect() };
            assert_eq!(report.within(Duration::from_millis(500)).is_ok(), fits, "{took:?}");
            assert_eq!(report.p95(), Duration::from_millis(*took.iter().max().unwrap()), "{took:?}");
        }
    }

    #[test]
    fn inputs_are_plain_names_below_golden() {
        for good in ["golden/a.jpg", "golden/Car_1-2.csv"] {
            assert!(is_input_path(good), "{good}");
        }
        for bad in ["a.jpg", "golden/", "golden/.", "golden/..", "golden/a/b", "golden/ä", "/golden/a", "golden/a b"] {
            assert!(!is_input_path(bad), "{bad}");
        }
        assert!(!is_input_path(&format!("golden/{}", "x".repeat(129))));
    }

    #[test]
    fn long_arrays_are_boundaries() {
        let text = format!(r#"{{"samples": [{{"outputs": {{"a": [1.0], "b": [{}]}}}}]}}"#, "1.0, ".repeat(2000));
        let [start, end] = boundaries(text.as_bytes())[..] else { panic!("one long array") };
        assert_eq!((&text[start..start + 4], &text[end..end + 1]), ("[1.0", "]"));
    }
}

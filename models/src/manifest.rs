//! `manifest.toml`: what a model takes, how its input is prepared, what it gives and how exact it must be.
//!
//! Invariant: a `Manifest` is complete and within bounds: shapes fit the preprocessing, labels are distinct, tolerances are finite.
//! Errors name line and column. Not here: files, the network, the arithmetic.

use std::{ops::Range, time::Duration};

use serde::Deserialize;
use toml::Spanned;
use wayside_common::{id::ModelName, record::MAX_LABEL};

use crate::malformed::Malformed;

pub mod feature;

use feature::Feature;

pub const FILE: &str = "manifest.toml";
pub const MAX_BYTES: usize = 64 * 1024;
/// No picture goes into a network wider or higher.
pub const MAX_SIDE: usize = 2048;
/// No input has more numbers.
pub const MAX_ELEMENTS: usize = 3 * MAX_SIDE * MAX_SIDE;
pub const MAX_ROWS: usize = 100_000;
pub const MAX_COLUMNS: usize = 64;
pub const MAX_FEATURES: usize = 256;
pub const MAX_LABELS: usize = 1000;
pub const MAX_OUTPUTS: usize = 8;
const MAX_TEXT: usize = 256;
const MAX_PERIOD: Duration = Duration::from_secs(7 * 24 * 3600);
const LATENCY: Range<Duration> = Duration::from_millis(1)..Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub name: ModelName,
    pub version: u32,
    pub licence: String,
    /// Of one inference; the self test fails if even the fastest golden sample takes longer.
    pub latency_limit: Duration,
    pub input: Input,
    pub outputs: Vec<Output>,
}

/// The one input of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: InputKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum InputKind {
    Image(ImageInput),
    Window(WindowInput),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoiRule {
    /// The box that the source gives with the frame; the whole frame if it gives none.
    Source,
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    Rgb,
    Bgr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    Stretch,
    /// Keeps the aspect, centred between bars.
    Letterbox,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    Bilinear,
    Nearest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    Nchw,
    Nhwc,
}

/// From a JPEG to the network's input; the fields stand in the order of the steps.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageInput {
    pub roi: RoiRule,
    pub color: Color,
    pub resize: Resize,
    pub filter: Filter,
    /// RGB.
    pub pad: [u8; 3],
    pub layout: Layout,
    /// In the order of `color`, on pixels of 0 to 255.
    pub mean: [f32; 3],
    pub std: [f32; 3],
    /// Of the network's input.
    pub width: u32,
    pub height: u32,
}

/// From readings to the network's input.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowInput {
    /// Readings in one window.
    pub rows: usize,
    /// Readings from the start of one window to that of the next.
    pub step: usize,
    /// Of the readings the model was fitted on.
    pub period: Duration,
    pub columns: Vec<WindowColumn>,
    pub features: Vec<Feature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowColumn {
    pub name: String,
    pub unit: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub name: String,
    pub role: Role,
    pub atol: f64,
    pub rtol: f64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Logits { labels: Vec<String> },
    Embedding,
}

impl Manifest {
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > MAX_BYTES {
            return Err(Malformed::at(FILE, text, 0..0, format!("{} bytes; {MAX_BYTES} are allowed", text.len())));
        }
        let raw: Raw = toml::from_str(text).map_err(|error| Malformed::toml(FILE, text, &error))?;
        raw.parse().map_err(|Wrong { span, reason }| Malformed::at(FILE, text, span, reason))
    }

    /// Index and labels of the output that is the model's answer.
    pub fn answer(&self) -> (usize, &[String]) {
        self.outputs
            .iter()
            .enumerate()
            .find_map(|(at, output)| match &output.role {
                Role::Logits { labels } => Some((at, labels.as_slice())),
                Role::Embedding => None,
            })
            .expect("a manifest without a logits output is refused when it is parsed")
    }

    /// Index of the output that is the embedding.
    pub fn embedding(&self) -> Option<usize> {
        self.outputs.iter().position(|output| output.role == Role::Embedding)
    }
}

/// The same manifest text for another version; everything else, comments included, stays.
pub fn with_version(text: &str, version: u32) -> Result<String, Malformed> {
    let raw: Raw = toml::from_str(text).map_err(|error| Malformed::toml(FILE, text, &error))?;
    let mut changed = text.to_owned();
    changed.replace_range(raw.version.span(), &version.to_string());
    Manifest::parse(&changed)?;
    Ok(changed)
}

/// `"500ms"`, `"10.504ms"`, `"5s"`, `"2m"`, `"1h"`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let nanos = match unit {
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => return None,
    };
    let nanos = (number.parse::<f64>().ok()? * nanos).round();
    (nanos < 1e18).then(|| Duration::from_nanos(nanos as u64))
}

/// What is wrong with a value that TOML itself accepts.
struct Wrong {
    span: Range<usize>,
    reason: String,
}

fn wrong<T, V>(value: &Spanned<V>, reason: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { span: value.span(), reason: reason.into() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    format: Spanned<u32>,
    name: ModelName,
    version: Spanned<u32>,
    licence: Spanned<String>,
    latency_limit: Spanned<String>,
    input: Spanned<RawInput>,
    output: Spanned<Vec<RawOutput>>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Image,
    Window,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInput {
    kind: Spanned<Kind>,
    name: Spanned<String>,
    shape: Spanned<Vec<usize>>,
    image: Option<Spanned<RawImage>>,
    window: Option<Spanned<RawWindow>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawImage {
    roi: RoiRule,
    color: Color,
    resize: Resize,
    filter: Filter,
    pad: [u8; 3],
    layout: Layout,
    mean: Spanned<[f32; 3]>,
    std: Spanned<[f32; 3]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWindow {
    rows: Spanned<usize>,
    step: Spanned<usize>,
    period: Spanned<String>,
    columns: Spanned<Vec<WindowColumn>>,
    features: Spanned<Vec<Spanned<String>>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawRole {
    Logits,
    Embedding,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOutput {
    name: Spanned<String>,
    role: Spanned<RawRole>,
    labels: Option<Spanned<Vec<String>>>,
    atol: Spanned<f64>,
    rtol: Spanned<f64>,
}

impl Raw {
    fn parse(self) -> Result<Manifest, Wrong> {
        if *self.format.get_ref() != 1 {
            return wrong(&self.format, format!("format {} is not known to this build; it reads 1", self.format.get_ref()));
        }
        if *self.version.get_ref() == 0 {
            return wrong(&self.version, "versions count from 1");
        }
        let latency_limit = match parse_duration(self.latency_limit.get_ref()) {
            Some(limit) if LATENCY.contains(&limit) => limit,
            _ => return wrong(&self.latency_limit, "not a time from \"1ms\" to below \"60s\""),
        };
        let output_span = self.output.span();
        Ok(Manifest {
            name: self.name,
            version: *self.version.get_ref(),
            licence: short_text(self.licence)?,
            latency_limit,
            input: self.input.into_inner().parse()?,
            outputs: parse_outputs(output_span, self.output.into_inner())?,
        })
    }
}

impl RawInput {
    fn parse(self) -> Result<Input, Wrong> {
        let shape = self.shape.get_ref();
        let elements = shape.iter().try_fold(1usize, |count, &dimension| count.checked_mul(dimension));
        if shape.is_empty() || shape.len() > 6 || !elements.is_some_and(|count| (1..=MAX_ELEMENTS).contains(&count)) {
            return wrong(&self.shape, format!("a shape has 1 to 6 dimensions and 1 to {MAX_ELEMENTS} elements"));
        }
        let kind = match (*self.kind.get_ref(), self.image, self.window) {
            (Kind::Image, Some(image), None) => InputKind::Image(image.into_inner().parse(&self.shape)?),
            (Kind::Window, None, Some(window)) => InputKind::Window(window.into_inner().parse(&self.shape)?),
            (Kind::Image, ..) => return wrong(&self.kind, "kind \"image\" wants [input.image] and no [input.window]"),
            (Kind::Window, ..) => return wrong(&self.kind, "kind \"window\" wants [input.window] and no [input.image]"),
        };
        Ok(Input { name: short_text(self.name)?, shape: self.shape.into_inner(), kind })
    }
}

impl RawImage {
    fn parse(self, shape: &Spanned<Vec<usize>>) -> Result<ImageInput, Wrong> {
        let (height, width) = match (self.layout, shape.get_ref().as_slice()) {
            (Layout::Nchw, &[1, 3, height, width]) | (Layout::Nhwc, &[1, height, width, 3]) => (height, width),
            (Layout::Nchw, _) => return wrong(shape, "layout \"nchw\" wants the shape [1, 3, height, width]"),
            (Layout::Nhwc, _) => return wrong(shape, "layout \"nhwc\" wants the shape [1, height, width, 3]"),
        };
        if height > MAX_SIDE || width > MAX_SIDE {
            return wrong(shape, format!("a picture's sides are at most {MAX_SIDE}"));
        }
        if self.mean.get_ref().iter().any(|v| !v.is_finite()) {
            return wrong(&self.mean, "not finite");
        }
        if self.std.get_ref().iter().any(|v| !v.is_finite() || *v <= 0.0) {
            return wrong(&self.std, "not finite and above zero");
        }
        Ok(ImageInput {
            roi: self.roi,
            color: self.color,
            resize: self.resize,
            filter: self.filter,
            pad: self.pad,
            layout: self.layout,
            mean: self.mean.into_inner(),
            std: self.std.into_inner(),
            width: width as u32,
            height: height as u32,
        })
    }
}

impl RawWindow {
    fn parse(self, shape: &Spanned<Vec<usize>>) -> Result<WindowInput, Wrong> {
        for value in [&self.rows, &self.step] {
            if !(1..=MAX_ROWS).contains(value.get_ref()) {
                return wrong(value, format!("not 1 to {MAX_ROWS}"));
            }
        }
        let period = match parse_duration(self.period.get_ref()) {
            Some(period) if !period.is_zero() && period <= MAX_PERIOD => period,
            _ => return wrong(&self.period, "not a time above zero, as \"10.504ms\" or \"1m\""),
        };
        let columns = self.columns.get_ref();
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        if columns.is_empty() || columns.len() > MAX_COLUMNS {
            return wrong(&self.columns, format!("{} columns; 1 to {MAX_COLUMNS} are allowed", columns.len()));
        }
        if columns.iter().any(|c| !is_short_text(&c.name) || !is_short_text(&c.unit) || c.name.contains(['(', ')', ','])) {
            return wrong(&self.columns, "a column's name or unit is empty, too long or has ( ) , in it");
        }
        if !distinct(&names) {
            return wrong(&self.columns, "two columns have one name");
        }
        let count = self.features.get_ref().len();
        if count == 0 || count > MAX_FEATURES {
            return wrong(&self.features, format!("{count} features; 1 to {MAX_FEATURES} are allowed"));
        }
        if shape.get_ref().iter().product::<usize>() != count {
            return wrong(shape, format!("not the {count} values that `features` gives"));
        }
        let parse = |text: &Spanned<String>| Feature::parse(text.get_ref(), &names).or_else(|reason| wrong(text, reason));
        let features = self.features.get_ref().iter().map(parse).collect::<Result<_, _>>()?;
        Ok(WindowInput { rows: self.rows.into_inner(), step: self.step.into_inner(), period, columns: self.columns.into_inner(), features })
    }
}

fn parse_outputs(span: Range<usize>, raw: Vec<RawOutput>) -> Result<Vec<Output>, Wrong> {
    if raw.is_empty() || raw.len() > MAX_OUTPUTS {
        return Err(Wrong { span, reason: format!("{} outputs; 1 to {MAX_OUTPUTS} are allowed", raw.len()) });
    }
    let outputs = raw.into_iter().map(RawOutput::parse).collect::<Result<Vec<_>, _>>()?;
    if !distinct(&outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>()) {
        return Err(Wrong { span, reason: "two outputs have one name".into() });
    }
    if !outputs.iter().any(|output| matches!(output.role, Role::Logits { .. })) {
        return Err(Wrong { span, reason: "no output has the role \"logits\"".into() });
    }
    Ok(outputs)
}

impl RawOutput {
    fn parse(self) -> Result<Output, Wrong> {
        for tolerance in [&self.atol, &self.rtol] {
            if !tolerance.get_ref().is_finite() || *tolerance.get_ref() < 0.0 {
                return wrong(tolerance, "not finite and at least zero");
            }
        }
        let role = match (*self.role.get_ref(), self.labels) {
            (RawRole::Embedding, None) => Role::Embedding,
            (RawRole::Embedding, Some(labels)) => return wrong(&labels, "an embedding has no labels"),
            (RawRole::Logits, None) => return wrong(&self.role, "logits need `labels`"),
            (RawRole::Logits, Some(labels)) => Role::Logits { labels: parse_labels(labels)? },
        };
        Ok(Output { name: short_text(self.name)?, role, atol: self.atol.into_inner(), rtol: self.rtol.into_inner() })
    }
}

fn parse_labels(labels: Spanned<Vec<String>>) -> Result<Vec<String>, Wrong> {
    let list = labels.get_ref();
    if !(2..=MAX_LABELS).contains(&list.len()) {
        return wrong(&labels, format!("{} labels; 2 to {MAX_LABELS} are allowed", list.len()));
    }
    if !list.iter().all(|label| is_short_text(label) && label.len() <= MAX_LABEL) {
        return wrong(&labels, format!("a label is empty, longer than {MAX_LABEL} bytes or has a control character in it"));
    }
    if !distinct(&list.iter().map(String::as_str).collect::<Vec<_>>()) {
        return wrong(&labels, "two labels are the same");
    }
    Ok(labels.into_inner())
}

fn is_short_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TEXT && !text.contains(char::is_control)
}

fn short_text(text: Spanned<String>) -> Result<String, Wrong> {
    if is_short_text(text.get_ref()) {
        Ok(text.into_inner())
    } else {
        wrong(&text, "empty, longer than 256 bytes or with a control character")
    }
}

fn distinct(names: &[&str]) -> bool {
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[0] != pair[1])
}

#[cfg(test)]
mod tests;

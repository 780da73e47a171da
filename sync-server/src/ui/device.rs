//! One device on the page: its picture or its curves, what its model says, what is missing, what drifts.
//!
//! Invariant: at most two minutes of readings and a hundred answers are read per device and source. Not here: the fleet's own rows.

use std::collections::HashMap;

use wayside_common::{id::Digest, reading::Column, sketch::histogram::Counts, time::Wall};

use super::chart::{self, Histogram};
use crate::{
    db::{
        Db,
        telemetry::{After, AnswerRow, Device, FrameRow, GapEntry, Latest, LatestReading, PredictionRow, Range, Readings, SketchSum},
    },
    drift::{self, Finding, References, judge::Verdict},
};

/// How much of a sensor's past is drawn.
const CURVE_MS: i64 = 60_000;
/// Rows of the fastest sensor in that time; what is more is not drawn.
const CURVE_ROWS: u32 = 12_000;
/// Answers in the strip below a picture or a curve.
const STRIP: u64 = 60;
/// Drift is shown for the newest counts, so that a shift is seen while it lasts.
const DRIFT_MS: i64 = 5 * 60_000;

/// Everything the page shows of one device.
pub struct DeviceView {
    pub device: Device,
    pub latest: Latest,
    pub gaps: Vec<GapEntry>,
    pub curves: Vec<Curve>,
    pub strips: Vec<Strip>,
    pub drift: Vec<DriftRow>,
}

/// Columns of one sensor that share a unit.
pub struct Curve {
    pub source: String,
    pub unit: String,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub name: String,
    pub value: Option<f64>,
    pub path: String,
}

/// The newest answers of one source, oldest first; `None` is a position without one.
pub struct Strip {
    pub source: String,
    pub labels: Vec<Option<String>>,
}

pub struct DriftRow {
    pub finding: Finding,
    pub histogram: Histogram,
}

pub async fn read(db: &dyn Db, references: &dyn References, device: Device, now: Wall) -> anyhow::Result<DeviceView> {
    let latest = db.latest(&device.id).await?;
    let mut curves = Vec::new();
    for newest in &latest.readings {
        let range =
            Range { source: newest.source.parse()?, from: newest.wall_ms.saturating_sub(CURVE_MS), to: newest.wall_ms, limit: CURVE_ROWS };
        curves.extend(curves_of(newest, &db.readings(&device.id, range).await?));
    }
    let mut strips = Vec::new();
    for newest in &latest.frames {
        let frames = db.frames(&device.id, before(&newest.source, newest.position, 1)?).await?;
        strips.push(strip(&newest.source, frames.rows.iter().map(|FrameRow { answer, .. }| answer)));
    }
    for newest in &latest.predictions {
        // Windows overlap by half.
        let step = (newest.to - newest.from).div_ceil(2).max(1);
        let predictions = db.predictions(&device.id, before(&newest.source, newest.to, step)?).await?;
        strips.push(strip(&newest.source, predictions.rows.iter().map(|PredictionRow { answer, .. }| answer)));
    }
    let gaps = db.gaps(&device.id).await?;
    let sums = db.sketches(&device.id, Wall(now.0.saturating_sub(DRIFT_MS))).await?;
    let drift = drift_rows(&device, sums, references).await?;
    Ok(DeviceView { device, latest, gaps, curves, strips, drift })
}

fn before(source: &str, position: u64, step: u64) -> anyhow::Result<After> {
    let position = position.checked_sub(step.saturating_mul(STRIP));
    Ok(After { source: Some(source.parse()?), position, limit: STRIP as u32 * 2 })
}

fn strip<'a>(source: &str, answers: impl Iterator<Item = &'a AnswerRow>) -> Strip {
    let mut labels: Vec<Option<String>> = answers.map(|answer| answer.label.clone()).collect();
    labels.drain(..labels.len().saturating_sub(STRIP as usize));
    Strip { source: source.into(), labels }
}

/// One chart per unit, so that lines of one chart can be compared.
fn curves_of(newest: &LatestReading, readings: &Readings) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    let mut series: Vec<Vec<Vec<Option<f64>>>> = Vec::new();
    for (at, column) in readings.columns.iter().enumerate() {
        let values = readings.rows.iter().map(|row| row.values.get(at).copied().flatten().map(|raw| Column::value(column, raw)));
        let value = newest.values.iter().find(|value| value.name == column.name).and_then(|value| value.value);
        let line = Line { name: column.name.clone(), value, path: String::new() };
        match curves.iter().position(|curve| curve.unit == column.unit) {
            Some(known) => {
                curves[known].lines.push(line);
                series[known].push(values.collect());
            }
            None => {
                curves.push(Curve { source: newest.source.clone(), unit: column.unit.clone(), lines: vec![line] });
                series.push(vec![values.collect()]);
            }
        }
    }
    for (curve, series) in curves.iter_mut().zip(&series) {
        for (line, path) in curve.lines.iter_mut().zip(chart::sparklines(series)) {
            line.path = path;
        }
    }
    curves
}

async fn drift_rows(device: &Device, sums: Vec<SketchSum>, references: &dyn References) -> anyhow::Result<Vec<DriftRow>> {
    let current: HashMap<(Digest, String), Counts> =
        sums.iter().map(|sum| ((sum.model, sum.feature.clone()), Counts(sum.counts))).collect();
    let mut rows = Vec::new();
    for finding in drift::findings(&device.slots, sums, references).await? {
        let reference = references.reference(finding.model).await?.unwrap_or_default();
        let reference = reference.iter().find(|feature| feature.name == finding.feature);
        let reference = reference.and_then(|feature| Counts::from_slice(&feature.counts)).unwrap_or_default();
        let counts = current.get(&(finding.model, finding.feature.clone())).cloned().unwrap_or_default();
        rows.push(DriftRow { histogram: chart::histogram(&reference, &counts), finding });
    }
    // What has shifted is what a person looks for.
    rows.sort_by_key(|row| match row.finding.verdict {
        Verdict::Shift => 0,
        Verdict::NoShift => 1,
        Verdict::NotEnoughData => 2,
    });
    Ok(rows)
}

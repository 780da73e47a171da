//! Geometry of the page's charts: numbers in, SVG path data out.
//!
//! Invariant: plain functions; every coordinate is finite and inside the view box, whatever the values are. Not here: colours and markup.

use std::fmt::Write;

use wayside_common::sketch::histogram::{BINS, Counts};

/// View boxes; the style sheet stretches them.
pub const WIDTH: f64 = 240.0;
pub const HEIGHT: f64 = 48.0;
const MARGIN: f64 = 2.0;
/// Horizontal resolution of a sparkline: each step shows the smallest and the largest value in it.
const STEPS: usize = 120;

/// Path data of each series, all on one scale.
pub fn sparklines(series: &[Vec<Option<f64>>]) -> Vec<String> {
    let values = || series.iter().flatten().flatten().copied().filter(|value| value.is_finite());
    let (low, high) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    series.iter().map(|values| sparkline(values, low, high)).collect()
}

fn sparkline(values: &[Option<f64>], low: f64, high: f64) -> String {
    let mut path = String::new();
    if values.is_empty() || low > high {
        return path;
    }
    let per_step = values.len().div_ceil(STEPS);
    let steps = values.len().div_ceil(per_step);
    let y = |value: f64| if high > low { HEIGHT - MARGIN - (value - low) / (high - low) * (HEIGHT - 2.0 * MARGIN) } else { HEIGHT / 2.0 };
    let mut drawing = false;
    for (step, chunk) in values.chunks(per_step).enumerate() {
        let known = || chunk.iter().flatten().copied().filter(|value| value.is_finite());
        let x = (step as f64 + 0.5) / steps as f64 * WIDTH;
        match (known().reduce(f64::min), known().reduce(f64::max)) {
            (Some(smallest), Some(largest)) => {
                let command = if drawing { 'L' } else { 'M' };
                // Writing to a String does not fail.
                let _ = write!(path, "{command}{x:.1} {:.1}", y(largest));
                if per_step > 1 {
                    let _ = write!(path, "L{x:.1} {:.1}", y(smallest));
                }
                drawing = true;
            }
            _ => drawing = false,
        }
    }
    path
}

/// Two histograms as shares on one scale: the reference's outline, and the current one's bars.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    pub outline: String,
    pub bars: String,
}

pub fn histogram(reference: &Counts, current: &Counts) -> Histogram {
    let used: Vec<usize> = (0..BINS).filter(|&bin| reference.0[bin] > 0 || current.0[bin] > 0).collect();
    let (Some(&first), Some(&last)) = (used.first(), used.last()) else { return Histogram::default() };
    let share = |counts: &Counts, bin: usize| f64::from(counts.0[bin]) / counts.total().max(1) as f64;
    let highest = used.iter().map(|&bin| share(reference, bin).max(share(current, bin))).fold(f64::MIN_POSITIVE, f64::max);
    let width = WIDTH / (last - first + 1) as f64;
    let top = |counts: &Counts, bin: usize| HEIGHT - share(counts, bin) / highest * (HEIGHT - MARGIN);
    let (mut outline, mut bars) = (format!("M0 {HEIGHT}"), String::new());
    for (place, bin) in (first..=last).enumerate() {
        let (x, y) = (place as f64 * width, top(reference, bin));
        let _ = write!(outline, "L{x:.1} {y:.1}H{:.1}", x + width);
        if current.0[bin] > 0 {
            let _ = write!(bars, "M{:.1} {HEIGHT}V{:.1}H{:.1}V{HEIGHT}Z", x + width * 0.1, top(current, bin), x + width * 0.9);
        }
    }
    let _ = write!(outline, "V{HEIGHT}");
    Histogram { outline, bars }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(path: &str) {
        let numbers = path.split(|c: char| c.is_ascii_alphabetic() || c == ' ').filter(|part| !part.is_empty());
        for number in numbers {
            let value: f64 = number.parse().unwrap_or_else(|_| panic!("{number:?} in {path}"));
            assert!((0.0..=WIDTH).contains(&value), "{value} in {path}");
        }
    }

    #[test]
    fn a_sparkline_stays_in_its_box_whatever_the_values() {
        struct Case(Vec<Option<f64>>, bool);
        let cases = [
            Case(vec![], true),
            Case(vec![None, None], true),
            Case(vec![Some(f64::NAN), Some(f64::INFINITY)], true),
            Case(vec![Some(1.0)], false),
            Case(vec![Some(1.0), None, Some(1.0)], false),
            Case((0..10_000).map(|i| Some(f64::from(i).sin() * 1e300)).collect(), false),
        ];
        for Case(values, empty) in cases {
            let path = sparklines(std::slice::from_ref(&values)).remove(0);
            assert_eq!(path.is_empty(), empty, "{path}");
            inside(&path);
        }
    }

    #[test]
    fn a_missing_value_breaks_the_line() {
        let path = sparklines(&[vec![Some(0.0), Some(1.0), None, Some(0.5)]]).remove(0);
        assert_eq!(path.matches('M').count(), 2);
    }

    #[test]
    fn a_histogram_shows_only_the_bins_that_are_used() {
        let (mut reference, mut current) = (Counts::default(), Counts::default());
        reference.0[3] = 10;
        current.0[5] = 1;
        let found = histogram(&reference, &current);
        inside(&found.outline);
        inside(&found.bars);
        assert_eq!(found.outline.matches('H').count(), 3);
        assert_eq!(found.bars.matches('Z').count(), 1);
        assert_eq!(histogram(&Counts::default(), &Counts::default()), Histogram::default());
    }
}

//! The statistics of one window of readings, in f64, handed on as f32.
//!
//! Invariant: a window has the manifest's rows and columns and only finite values, or there is no tensor. Not here: how readings
//! are cut into windows.

use crate::{
    manifest::{
        WindowInput,
        feature::{Channel, Feature, Statistic},
    },
    tensor::Tensor,
};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error("a window of {found} rows; the model takes {expected}")]
    Rows { expected: usize, found: usize },
    #[error("row {row} has {found} values; the model takes {expected} columns")]
    Columns { row: usize, expected: usize, found: usize },
    #[error("row {row}, column {column} has no value")]
    Missing { row: usize, column: usize },
}

/// A window ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub tensor: Tensor,
    /// The features in the manifest's order, before they became f32.
    pub features: Vec<f64>,
}

/// Each row holds the manifest's columns in their order, in time order; NaN is a missing value.
pub fn prepare(input: &WindowInput, shape: &[usize], rows: &[Vec<f64>]) -> Result<Prepared, WindowError> {
    if rows.len() != input.rows {
        return Err(WindowError::Rows { expected: input.rows, found: rows.len() });
    }
    for (row, values) in rows.iter().enumerate() {
        if values.len() != input.columns.len() {
            return Err(WindowError::Columns { row, expected: input.columns.len(), found: values.len() });
        }
        if let Some(column) = values.iter().position(|value| !value.is_finite()) {
            return Err(WindowError::Missing { row, column });
        }
    }
    let features: Vec<f64> = input.features.iter().map(|feature| evaluate(feature, rows)).collect();
    let values = features.iter().map(|&value| value as f32).collect();
    let tensor = Tensor::new(shape.to_vec(), values).expect("the manifest's shape has as many elements as features");
    Ok(Prepared { tensor, features })
}

fn evaluate(feature: &Feature, rows: &[Vec<f64>]) -> f64 {
    let x: Vec<f64> = match &feature.channel {
        Channel::Column(column) => rows.iter().map(|row| row[*column]).collect(),
        Channel::Norm(columns) => rows.iter().map(|row| columns.iter().map(|&c| row[c] * row[c]).sum::<f64>().sqrt()).collect(),
    };
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / x.len() as f64;
    let min = || x.iter().copied().fold(f64::INFINITY, f64::min);
    let max = || x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (first, last) = (x[0], x[x.len() - 1]);
    match feature.statistic {
        Statistic::Mean => mean(&mut x.iter().copied()),
        Statistic::Std => {
            let centre = mean(&mut x.iter().copied());
            mean(&mut x.iter().map(|v| (v - centre) * (v - centre))).sqrt()
        }
        Statistic::Min => min(),
        Statistic::Max => max(),
        Statistic::Rms => mean(&mut x.iter().map(|v| v * v)).sqrt(),
        Statistic::Ptp => max() - min(),
        Statistic::Mad => match x.len() - 1 {
            0 => 0.0,
            steps => x.windows(2).map(|pair| (pair[1] - pair[0]).abs()).sum::<f64>() / steps as f64,
        },
        Statistic::Last => last,
        Statistic::Delta => last - first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::WindowColumn;

    fn input(features: &[&str]) -> WindowInput {
        let column = |name: &str| WindowColumn { name: name.into(), unit: "1".into() };
        let features = features.iter().map(|text| Feature::parse(text, &["a", "b"]).unwrap()).collect();
        WindowInput { rows: 4, step: 2, period: std::time::Duration::from_secs(1), columns: vec![column("a"), column("b")], features }
    }

    #[test]
    fn statistics_are_those_of_a_pocket_calculator() {
        let rows = [vec![1.0, 0.0], vec![3.0, 4.0], vec![-3.0, 4.0], vec![7.0, 24.0]];
        struct Case(&'static str, f64);
        let cases = [
            Case("mean(a)", 2.0),
            Case("std(a)", 13f64.sqrt()),
            Case("min(a)", -3.0),
            Case("max(a)", 7.0),
            Case("rms(a)", 17f64.sqrt()),
            Case("ptp(a)", 10.0),
            Case("mad(a)", 6.0),
            Case("last(a)", 7.0),
            Case("delta(a)", 6.0),
            Case("mean(norm(a,b))", 9.0),
            Case("max(norm(a,b))", 25.0),
        ];
        let names: Vec<&str> = cases.iter().map(|case| case.0).collect();
        let prepared = prepare(&input(&names), &[1, names.len()], &rows).unwrap();
        for (case, got) in cases.iter().zip(&prepared.features) {
            assert!((got - case.1).abs() < 1e-12, "{} gave {got}", case.0);
        }
        assert_eq!(prepared.tensor.shape(), [1, 11]);
        assert_eq!(prepared.tensor.values()[0], 2.0);
    }

    #[test]
    fn a_window_with_a_hole_gives_nothing() {
        let input = input(&["mean(a)"]);
        let full = vec![vec![1.0, 2.0]; 4];
        assert_eq!(prepare(&input, &[1, 1], &full[..3]), Err(WindowError::Rows { expected: 4, found: 3 }));
        let mut hole = full.clone();
        hole[2][1] = f64::NAN;
        assert_eq!(prepare(&input, &[1, 1], &hole), Err(WindowError::Missing { row: 2, column: 1 }));
        let mut narrow = full;
        narrow[3].pop();
        assert_eq!(prepare(&input, &[1, 1], &narrow), Err(WindowError::Columns { row: 3, expected: 2, found: 1 }));
    }
}

//! The judge: two histograms per feature in, a verdict per feature out.
//!
//! Invariant: a plain function; the two-sample χ² decides, corrected for the number of features (Benjamini–Hochberg), effect sizes
//! are only shown. Neighbouring values are taken as independent, which they are not: slow series raise more alarms than the level
//! says. Not here: which windows are compared.

use serde::Serialize;
use wayside_common::sketch::{
    distance::{ChiSquare, Effect, chi_square, effect},
    histogram::Counts,
};

/// Share of false verdicts among all "shift" of one judgement, at most.
const LEVEL: f64 = 0.01;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    NotEnoughData,
    NoShift,
    Shift,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ChiSquareRow {
    pub statistic: f64,
    pub degrees: u32,
    pub p_value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EffectRow {
    pub psi: f64,
    pub ks: f64,
    pub js: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub n_reference: u64,
    pub n_current: u64,
    pub chi_square: Option<ChiSquareRow>,
    pub effect: Option<EffectRow>,
    pub verdict: Verdict,
}

/// Judges (reference, current) of each feature, all together.
pub fn judge(features: &[(Counts, Counts)]) -> Vec<Comparison> {
    let tests: Vec<Option<ChiSquare>> = features.iter().map(|(reference, current)| chi_square(reference, current)).collect();
    let limit = largest_rejected(tests.iter().flatten().map(|test| test.p_value).collect());
    features.iter().zip(tests).map(|((reference, current), test)| compare(reference, current, test, limit)).collect()
}

fn compare(reference: &Counts, current: &Counts, test: Option<ChiSquare>, limit: Option<f64>) -> Comparison {
    let verdict = match (&test, limit) {
        (None, _) => Verdict::NotEnoughData,
        (Some(test), Some(limit)) if test.p_value <= limit => Verdict::Shift,
        (Some(_), _) => Verdict::NoShift,
    };
    Comparison {
        n_reference: reference.total(),
        n_current: current.total(),
        chi_square: test.map(|ChiSquare { statistic, degrees, p_value }| ChiSquareRow { statistic, degrees, p_value }),
        effect: effect(reference, current).map(|Effect { psi, ks, js }| EffectRow { psi, ks, js }),
        verdict,
    }
}

/// Benjamini–Hochberg: the largest p(i) of the ascending p-values with p(i) <= i / m * level.
fn largest_rejected(mut p_values: Vec<f64>) -> Option<f64> {
    p_values.sort_by(f64::total_cmp);
    let m = p_values.len() as f64;
    (1..).zip(p_values).filter(|(i, p)| *p <= f64::from(*i) / m * LEVEL).last().map(|(_, p)| p)
}

#[cfg(test)]
mod tests {
    use wayside_common::sketch::histogram::BINS;

    use super::*;

    /// 32 counts that sum to about `n`, with their weight moved towards higher bins by `tilt`.
    fn counts(n: u32, tilt: f64) -> Counts {
        let weight = |bin: usize| 1.0 + tilt * (bin as f64 / BINS as f64 - 0.5);
        Counts(std::array::from_fn(|bin| (f64::from(n) / BINS as f64 * weight(bin)).round() as u32))
    }

    #[test]
    fn the_step_up_rule_takes_the_largest_p_below_its_line() {
        struct Case {
            p: &'static [f64],
            limit: Option<f64>,
        }
        let cases = [
            Case { p: &[], limit: None },
            Case { p: &[0.5], limit: None },
            Case { p: &[0.009], limit: Some(0.009) },
            Case { p: &[0.009, 0.9], limit: None },
            Case { p: &[0.9, 0.004], limit: Some(0.004) },
            // 0.0069 lies above its own line (1/3) with 0.0001 below it, and below the line of rank two.
            Case { p: &[0.0066, 0.0001, 0.9], limit: Some(0.0066) },
        ];
        for case in cases {
            assert_eq!(largest_rejected(case.p.to_vec()), case.limit, "{:?}", case.p);
        }
    }

    #[test]
    fn the_same_shape_is_no_shift_and_another_shape_is_one() {
        let verdicts: Vec<Verdict> = judge(&[(counts(6400, 0.0), counts(3200, 0.0)), (counts(6400, 0.0), counts(3200, 1.5))])
            .into_iter()
            .map(|comparison| comparison.verdict)
            .collect();
        assert_eq!(verdicts, [Verdict::NoShift, Verdict::Shift]);
    }

    #[test]
    fn without_a_reference_there_is_not_enough_data() {
        let comparison = judge(&[(Counts::default(), counts(3200, 0.0))]).remove(0);
        assert_eq!((comparison.verdict, comparison.n_reference), (Verdict::NotEnoughData, 0));
        assert_eq!(comparison.chi_square, None);
    }
}

//! How far two histograms are apart: the deciding two-sample χ², and effect sizes beside it.
//!
//! Invariant: the verdict comes from χ² alone; PSI, KS and JS are shown, never decided on. Not here: correction for many
//! features, dependence between neighbouring values, alarms.

use alloc::vec::Vec;

use crate::sketch::histogram::Counts;

/// A two-sample χ² test on merged bins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChiSquare {
    pub statistic: f64,
    pub degrees: u32,
    /// Chance of a statistic at least as large, were both from one distribution. 0 to 1.
    pub p_value: f64,
}

/// Distances that say how large a shift is. All zero for equal shapes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect {
    /// Population stability index, natural logarithm, empty bins taken as half a count.
    pub psi: f64,
    /// Kolmogorov–Smirnov: the largest difference of the cumulative shares, 0 to 1.
    pub ks: f64,
    /// Jensen–Shannon divergence, base 2, 0 to 1.
    pub js: f64,
}

/// Below this expected count the χ² distribution is a poor approximation (Cochran 1954).
const MIN_EXPECTED: f64 = 5.0;

/// `None`: not enough data for a test with at least two bins of expected count 5 in both samples.
pub fn chi_square(reference: &Counts, current: &Counts) -> Option<ChiSquare> {
    let (n_reference, n_current) = (reference.total() as f64, current.total() as f64);
    let n = n_reference + n_current;
    let bins = merged(reference, current);
    if bins.len() < 2 {
        return None;
    }
    let statistic = bins
        .iter()
        .map(|&(r, c)| {
            let (expected_r, expected_c) = (n_reference * (r + c) / n, n_current * (r + c) / n);
            (r - expected_r) * (r - expected_r) / expected_r + (c - expected_c) * (c - expected_c) / expected_c
        })
        .sum();
    let degrees = u32::try_from(bins.len() - 1).expect("there are at most 32 bins");
    Some(ChiSquare { statistic, degrees, p_value: chi_square_tail(statistic, degrees) })
}

/// Neighbouring bins put together from the left until the expected count is large enough in both samples; what is left over
/// at the right end joins the last bin. Which bins are joined depends on the pooled counts alone, so it does not favour a shift.
fn merged(reference: &Counts, current: &Counts) -> Vec<(f64, f64)> {
    let (n_reference, n_current) = (reference.total() as f64, current.total() as f64);
    let smaller_share = n_reference.min(n_current) / (n_reference + n_current);
    let mut bins: Vec<(f64, f64)> = Vec::new();
    let mut open = (0.0, 0.0);
    for (&r, &c) in reference.0.iter().zip(&current.0) {
        open = (open.0 + f64::from(r), open.1 + f64::from(c));
        // False for NaN too, which two empty samples give.
        if (open.0 + open.1) * smaller_share >= MIN_EXPECTED {
            bins.push(open);
            open = (0.0, 0.0);
        }
    }
    if let Some(last) = bins.last_mut() {
        *last = (last.0 + open.0, last.1 + open.1);
    }
    bins
}

/// P(X ≥ `statistic`) for X from χ² with `degrees` degrees of freedom: the regularised upper incomplete gamma function
/// Q(degrees/2, statistic/2). `degrees` is a whole number, so the finite sums of DLMF §8.4 (<https://dlmf.nist.gov/8.4>) give it:
/// Q(n+1, y) = e^-y Σ y^k/k!, k = 0..n (8.4.10), and Q(n+½, y) = erfc √y + e^-y Σ y^(k-½)/Γ(k+½), k = 1..n (8.4.14). All terms are
/// positive, nothing cancels.
fn chi_square_tail(statistic: f64, degrees: u32) -> f64 {
    let y = statistic / 2.0;
    if y <= 0.0 {
        return 1.0;
    }
    let exp = libm::exp(-y);
    let odd = degrees % 2 == 1;
    // Term k of the sum, and what turns it into term k + 1: y / (k + 1), or y / (k + ½) where the sum runs over halves.
    let (mut tail, mut term, mut divisor, terms) = if odd {
        let first = 2.0 * exp * libm::sqrt(y / core::f64::consts::PI);
        (libm::erfc(libm::sqrt(y)), first, 1.5, (degrees - 1) / 2)
    } else {
        (0.0, exp, 1.0, degrees / 2)
    };
    for _ in 0..terms {
        tail += term;
        term *= y / divisor;
        divisor += 1.0;
    }
    tail.clamp(0.0, 1.0)
}

/// `None` where one side is empty.
pub fn effect(reference: &Counts, current: &Counts) -> Option<Effect> {
    let (n_reference, n_current) = (reference.total() as f64, current.total() as f64);
    if n_reference == 0.0 || n_current == 0.0 {
        return None;
    }
    let (mut psi, mut ks, mut js) = (0.0, 0.0_f64, 0.0);
    let mut cumulative = 0.0;
    for (&r, &c) in reference.0.iter().zip(&current.0) {
        if r == 0 && c == 0 {
            continue;
        }
        let (p, q) = (f64::from(r) / n_reference, f64::from(c) / n_current);
        cumulative += p - q;
        ks = ks.max(libm::fabs(cumulative));
        js += (entropy_part(p, (p + q) / 2.0) + entropy_part(q, (p + q) / 2.0)) / 2.0;
        let (p, q) = (f64::from(r).max(0.5) / n_reference, f64::from(c).max(0.5) / n_current);
        psi += (p - q) * libm::log(p / q);
    }
    Some(Effect { psi, ks: ks.min(1.0), js: js.clamp(0.0, 1.0) })
}

/// One term of a Kullback–Leibler divergence, base 2; zero share contributes nothing.
fn entropy_part(share: f64, of: f64) -> f64 {
    if share > 0.0 { share * libm::log2(share / of) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(head: &[u32]) -> Counts {
        let mut counts = Counts::default();
        counts.0[..head.len()].copy_from_slice(head);
        counts
    }

    fn close(got: f64, expected: f64) -> bool {
        (got - expected).abs() <= 1e-12 + 1e-9 * expected.abs()
    }

    #[test]
    fn statistics_are_those_of_scipy() {
        struct Case {
            reference: Counts,
            current: Counts,
            /// Statistic, degrees, p of `scipy.stats.chi2_contingency(correction=False)` 1.x on the merged bins.
            chi: (f64, u32, f64),
            /// PSI and KS from numpy's cumulative sums, JS of `scipy.spatial.distance.jensenshannon(base=2)` squared.
            effect: (f64, f64, f64),
        }
        let cases = [
            Case {
                reference: counts(&[50, 30, 20]),
                current: counts(&[20, 30, 50]),
                chi: (25.714285714285715, 2, 2.6074368808253592e-06),
                effect: (0.549774439124493, 0.30000000000000004, 0.0958156020033584),
            },
            Case {
                reference: counts(&[10, 0, 0, 3, 40, 60, 2, 0, 5]),
                current: counts(&[12, 1, 0, 0, 50, 41, 9, 2, 0]),
                chi: (5.221796455007821, 3, 0.15625815558127787),
                effect: (0.3181656189187394, 0.10615942028985503, 0.07643268757886373),
            },
            Case {
                reference: counts(&[100, 100]),
                current: counts(&[60, 40]),
                chi: (2.6785714285714284, 1, 0.10170693003109312),
                effect: (0.04054651081081643, 0.09999999999999998, 0.007299156760473896),
            },
            Case {
                reference: counts(&[
                    5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100, 105, 110, 115, 120, 125, 130, 135, 140,
                    145, 150, 155, 160,
                ]),
                current: counts(&[
                    96, 93, 90, 87, 84, 81, 78, 75, 72, 69, 66, 63, 60, 57, 54, 51, 48, 45, 42, 39, 36, 33, 30, 27, 24, 21, 18, 15, 12, 9,
                    6, 3,
                ]),
                chi: (1285.5368003381172, 31, 1.1248096717585485e-250),
                effect: (1.7328772182634262, 0.48484848484848486, 0.25758621209233284),
            },
            Case {
                reference: counts(&[7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 9]),
                current: counts(&[7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 9]),
                chi: (0.0, 31, 1.0),
                effect: (0.0, 0.0, 0.0),
            },
            Case {
                reference: counts(&[0, 0, 5, 25, 125, 300, 40, 5]),
                current: counts(&[0, 0, 0, 1, 12, 30, 5, 2]),
                chi: (0.535636374968836, 1, 0.46424680175896726),
                effect: (0.07394864376130812, 0.04999999999999999, 0.01761934434269719),
            },
            Case {
                reference: counts(&[1000, 2000, 500]),
                current: counts(&[0, 0, 900]),
                chi: (2424.4897959183672, 2, 0.0),
                effect: (7.4076389927071125, 0.8571428571428571, 0.6893917467430878),
            },
        ];
        for (i, case) in cases.iter().enumerate() {
            let test = chi_square(&case.reference, &case.current).unwrap();
            assert!(
                close(test.statistic, case.chi.0) && test.degrees == case.chi.1 && close(test.p_value, case.chi.2),
                "case {i}: {test:?}"
            );
            let effect = effect(&case.reference, &case.current).unwrap();
            let (psi, ks, js) = case.effect;
            assert!(close(effect.psi, psi) && close(effect.ks, ks) && close(effect.js, js), "case {i}: {effect:?}");
        }
    }

    #[test]
    fn the_tail_of_chi_square_is_that_of_scipy() {
        struct Case {
            statistic: f64,
            degrees: u32,
            /// `scipy.special.gammaincc(degrees / 2, statistic / 2)`.
            tail: f64,
        }
        let cases = [
            Case { statistic: 0.0, degrees: 1, tail: 1.0 },
            Case { statistic: 0.5, degrees: 1, tail: 0.47950012218695337 },
            Case { statistic: 3.841458820694124, degrees: 1, tail: 0.04999999999999989 },
            Case { statistic: 10.0, degrees: 1, tail: 0.001565402258002549 },
            Case { statistic: 1e-08, degrees: 1, tail: 0.9999202115440526 },
            Case { statistic: 5.0, degrees: 2, tail: 0.0820849986238988 },
            Case { statistic: 11.07, degrees: 5, tail: 0.050009618622405425 },
            Case { statistic: 20.0, degrees: 10, tail: 0.029252688076961124 },
            Case { statistic: 31.0, degrees: 31, tail: 0.46621250621750804 },
            Case { statistic: 120.0, degrees: 31, tail: 2.0794905460365754e-12 },
            Case { statistic: 1500.0, degrees: 30, tail: 3.9605925288243954e-297 },
            Case { statistic: 2.2, degrees: 3, tail: 0.5319483712104882 },
        ];
        for Case { statistic, degrees, tail } in cases {
            let got = chi_square_tail(statistic, degrees);
            assert!(close(got, tail), "{statistic} with {degrees}: {got} instead of {tail}");
        }
    }

    /// A small generator with a fixed seed (splitmix64), so that the rate below is the same in each run.
    struct Seeded(u64);

    impl Seeded {
        fn unit(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        /// Bins that get rarer to the right, as a skewed feature has them.
        fn sample(&mut self, n: u32, skew: f64) -> Counts {
            let mut counts = Counts::default();
            for _ in 0..n {
                counts.add((libm::pow(self.unit(), skew) * 32.0) as usize);
            }
            counts
        }
    }

    #[test]
    fn without_a_shift_one_test_in_a_hundred_has_p_below_one_percent() {
        struct Case {
            n_reference: u32,
            n_current: u32,
            skew: f64,
        }
        let cases = [
            Case { n_reference: 500, n_current: 100, skew: 1.0 },
            Case { n_reference: 500, n_current: 200, skew: 2.0 },
            Case { n_reference: 60, n_current: 60, skew: 3.0 },
        ];
        for (seed, case) in cases.iter().enumerate() {
            let mut seeded = Seeded(seed as u64);
            let trials = 4000;
            let alarms = (0..trials)
                .filter(|_| {
                    let (reference, current) = (seeded.sample(case.n_reference, case.skew), seeded.sample(case.n_current, case.skew));
                    chi_square(&reference, &current).expect("enough data").p_value < 0.01
                })
                .count();
            // Binomial(4000, 0.01): 40 expected, standard deviation 6.3; the bounds are four of them away.
            assert!((15..=65).contains(&alarms), "{} of {trials} at n = {}", alarms, case.n_current);
        }
    }

    #[test]
    fn a_shifted_sample_is_found() {
        let mut seeded = Seeded(7);
        let (reference, current) = (seeded.sample(500, 1.0), seeded.sample(200, 2.0));
        assert!(chi_square(&reference, &current).unwrap().p_value < 1e-3);
    }

    #[test]
    fn too_little_data_is_said_and_not_judged() {
        struct Case(Counts, Counts);
        let cases = [
            Case(counts(&[]), counts(&[])),
            Case(counts(&[100, 100]), counts(&[])),
            Case(counts(&[100, 100]), counts(&[4, 4])),
            Case(counts(&[1000]), counts(&[1000])),
        ];
        for (i, Case(reference, current)) in cases.iter().enumerate() {
            assert_eq!(chi_square(reference, current), None, "case {i}");
        }
        assert_eq!(effect(&counts(&[1]), &counts(&[])), None);
    }

    #[test]
    fn the_largest_counts_do_not_overflow() {
        let full = Counts([u32::MAX; 32]);
        let test = chi_square(&full, &full).unwrap();
        assert_eq!((test.statistic, test.degrees, test.p_value), (0.0, 31, 1.0));
        assert_eq!(effect(&full, &full).unwrap(), Effect { psi: 0.0, ks: 0.0, js: 0.0 });
    }
}

//! Multinomial logistic regression with an L2 penalty, solved to convergence: Newton's method with conjugate gradients.
//!
//! Minimises `mean(-log softmax(head · [x, 1])[y]) + penalty / 2 · |head - start|²`, the bias included in the penalty, so that the
//! objective is strictly convex and its minimum unique: the same samples give the same head anywhere. Embeddings are taken as they
//! are, neither centred nor scaled.
//!
//! Invariant: what is returned is at the minimum (largest gradient below 1e-9), or it is an error. Not here: which samples.

use super::{HeadError, LinearHead};

const GRADIENT_LIMIT: f64 = 1e-9;
const MAX_STEPS: usize = 100;
const MAX_HALVINGS: usize = 60;
/// No fit holds more numbers.
const MAX_ELEMENTS: usize = 64_000_000;

/// One labelled embedding; `class` is an index into the labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub embedding: Vec<f32>,
    pub class: usize,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FitError {
    #[error("no samples to fit on")]
    Empty,
    #[error("row {row} does not fit the head: its embedding has {found} values instead of {expected}, or a class beyond the labels")]
    Row { row: usize, found: usize, expected: usize },
    #[error("row {0} has a value that is not finite")]
    NotFinite(usize),
    #[error("too many numbers to fit on")]
    TooLarge,
    #[error("the penalty {0} is not above zero")]
    Penalty(f64),
    #[error("no convergence: the gradient is still {0:.1e}")]
    NoConvergence(f64),
    #[error(transparent)]
    Head(#[from] HeadError),
}

/// The objective for fixed samples.
struct Problem {
    /// Rows with a one at their end.
    x: Vec<f64>,
    class: Vec<usize>,
    classes: usize,
    /// Length of a row, the one included.
    width: usize,
    penalty: f64,
    start: Vec<f64>,
}

/// Loss, gradient and probabilities at one head.
struct Place {
    loss: f64,
    gradient: Vec<f64>,
    probabilities: Vec<f64>,
}

/// The head that fits `rows` and stays near `start`, which also gives the shape.
pub fn fit(rows: &[Row], start: &LinearHead, penalty: f64) -> Result<LinearHead, FitError> {
    let problem = Problem::new(rows, start, penalty)?;
    let mut head = problem.start.clone();
    let mut place = problem.at(&head);
    for _ in 0..MAX_STEPS {
        if largest(&place.gradient) < GRADIENT_LIMIT {
            return problem.head(&head);
        }
        let direction = problem.newton_direction(&place);
        let slope = dot(&direction, &place.gradient);
        let mut step = 1.0;
        for _ in 0..MAX_HALVINGS {
            let candidate: Vec<f64> = head.iter().zip(&direction).map(|(h, d)| h + step * d).collect();
            let new = problem.at(&candidate);
            // Near the minimum the loss no longer resolves progress; there a full step is right.
            let taken = new.loss <= place.loss + 1e-4 * step * slope || slope.abs() < 1e-12;
            if taken {
                (head, place) = (candidate, new);
                break;
            }
            step /= 2.0;
        }
    }
    let gradient = largest(&place.gradient);
    if gradient < GRADIENT_LIMIT { problem.head(&head) } else { Err(FitError::NoConvergence(gradient)) }
}

impl Problem {
    fn new(rows: &[Row], start: &LinearHead, penalty: f64) -> Result<Self, FitError> {
        let (classes, dimension) = (start.classes(), start.dimension());
        let width = dimension + 1;
        if rows.is_empty() {
            return Err(FitError::Empty);
        }
        if rows.len().saturating_mul(width) > MAX_ELEMENTS {
            return Err(FitError::TooLarge);
        }
        if !(penalty.is_finite() && penalty > 0.0) {
            return Err(FitError::Penalty(penalty));
        }
        let mut x = Vec::with_capacity(rows.len() * width);
        for (row, Row { embedding, class }) in rows.iter().enumerate() {
            if embedding.len() != dimension || *class >= classes {
                return Err(FitError::Row { row, found: embedding.len(), expected: dimension });
            }
            if embedding.iter().any(|value| !value.is_finite()) {
                return Err(FitError::NotFinite(row));
            }
            x.extend(embedding.iter().map(|&value| f64::from(value)));
            x.push(1.0);
        }
        let weights = start.weight().chunks_exact(dimension).zip(start.bias());
        let start = weights.flat_map(|(weight, bias)| weight.iter().chain([bias]).map(|&v| f64::from(v))).collect();
        Ok(Self { x, class: rows.iter().map(|row| row.class).collect(), classes, width, penalty, start })
    }

    fn at(&self, head: &[f64]) -> Place {
        let n = self.class.len() as f64;
        let away: Vec<f64> = head.iter().zip(&self.start).map(|(h, s)| h - s).collect();
        let mut loss = self.penalty / 2.0 * dot(&away, &away);
        let mut gradient: Vec<f64> = away.iter().map(|a| self.penalty * a).collect();
        let mut probabilities = Vec::with_capacity(self.class.len() * self.classes);
        for (x, &class) in self.x.chunks_exact(self.width).zip(&self.class) {
            let logits: Vec<f64> = head.chunks_exact(self.width).map(|row| dot(row, x)).collect();
            let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = logits.iter().map(|logit| (logit - most).exp()).collect();
            let sum: f64 = powers.iter().sum();
            loss += (sum.ln() - (logits[class] - most)) / n;
            for (k, row) in gradient.chunks_exact_mut(self.width).enumerate() {
                let p = powers[k] / sum;
                probabilities.push(p);
                add(row, (p - f64::from(u8::from(k == class))) / n, x);
            }
        }
        Place { loss, gradient, probabilities }
    }

    /// Solves Hessian · direction = -gradient, as exactly as the gradient is small.
    fn newton_direction(&self, place: &Place) -> Vec<f64> {
        let size = dot(&place.gradient, &place.gradient).sqrt();
        let tolerance = size * f64::min(0.1, size.sqrt());
        let mut direction = vec![0.0; place.gradient.len()];
        let mut residual: Vec<f64> = place.gradient.iter().map(|g| -g).collect();
        let mut search = residual.clone();
        let mut square = dot(&residual, &residual);
        for _ in 0..10 * place.gradient.len() {
            if square.sqrt() <= tolerance {
                break;
            }
            let curved = self.curved(&place.probabilities, &search);
            let length = square / dot(&search, &curved);
            add(&mut direction, length, &search);
            add(&mut residual, -length, &curved);
            let new_square = dot(&residual, &residual);
            search = residual.iter().zip(&search).map(|(r, s)| r + new_square / square * s).collect();
            square = new_square;
        }
        direction
    }

    /// Hessian · search.
    fn curved(&self, probabilities: &[f64], search: &[f64]) -> Vec<f64> {
        let n = self.class.len() as f64;
        let mut curved: Vec<f64> = search.iter().map(|s| self.penalty * s).collect();
        for (x, p) in self.x.chunks_exact(self.width).zip(probabilities.chunks_exact(self.classes)) {
            let v: Vec<f64> = search.chunks_exact(self.width).map(|row| dot(row, x)).collect();
            let mean = dot(p, &v);
            for ((row, p), v) in curved.chunks_exact_mut(self.width).zip(p).zip(&v) {
                add(row, p * (v - mean) / n, x);
            }
        }
        curved
    }

    fn head(&self, head: &[f64]) -> Result<LinearHead, FitError> {
        let rows = || head.chunks_exact(self.width);
        let weight = rows().flat_map(|row| &row[..self.width - 1]).map(|&v| v as f32).collect();
        Ok(LinearHead::new(self.width - 1, weight, rows().map(|row| row[self.width - 1] as f32).collect())?)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Four sums side by side: a single one is a chain of additions that the processor waits for.
    let (a4, b4) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a4.remainder().iter().zip(b4.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0; 4];
    for (a, b) in a4.zip(b4) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += factor * what;
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |a: f32, b: f32, class| Row { embedding: vec![a, b], class };
        vec![
            row(0.0, 1.0, 0),
            row(0.5, 1.5, 0),
            row(2.0, -1.0, 1),
            row(1.5, 0.2, 1),
            row(-1.0, -1.0, 2),
            row(-2.0, 0.1, 2),
            row(0.2, 0.0, 1),
        ]
    }

    fn zero(classes: usize, dimension: usize) -> LinearHead {
        LinearHead::new(dimension, vec![0.0; classes * dimension], vec![0.0; classes]).unwrap()
    }

    #[test]
    fn the_minimum_is_where_no_neighbour_is_better() {
        let (rows, penalty) = (rows(), 0.01);
        let head = fit(&rows, &zero(3, 2), penalty).unwrap();
        let problem = Problem::new(&rows, &zero(3, 2), penalty).unwrap();
        let flat: Vec<f64> = head.weight().chunks(2).zip(head.bias()).flat_map(|(w, b)| [w[0], w[1], *b]).map(f64::from).collect();
        let best = problem.at(&flat).loss;
        for at in 0..flat.len() {
            for step in [-1e-2, 1e-2] {
                let mut moved = flat.clone();
                moved[at] += step;
                assert!(problem.at(&moved).loss > best);
            }
        }
        let right = rows.iter().filter(|row| {
            let logits = head.logits(&row.embedding.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
            (0..3).all(|k| logits[k] <= logits[row.class])
        });
        assert_eq!(right.count(), rows.len());
    }

    #[test]
    fn a_strong_penalty_keeps_the_head_where_it_starts() {
        let start = LinearHead::new(2, vec![1.0, -2.0, 3.0, 0.5, 0.0, 0.25], vec![0.1, 0.2, 0.3]).unwrap();
        let head = fit(&rows(), &start, 1e6).unwrap();
        assert!(head.weight().iter().zip(start.weight()).all(|(a, b)| (a - b).abs() < 1e-5));
        assert_eq!(fit(&rows(), &start, 0.1).unwrap(), fit(&rows(), &start, 0.1).unwrap());
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let start = zero(3, 2);
        assert_eq!(fit(&[], &start, 0.1), Err(FitError::Empty));
        assert_eq!(fit(&rows(), &start, 0.0), Err(FitError::Penalty(0.0)));
        let wide = [Row { embedding: vec![0.0; 3], class: 0 }];
        assert_eq!(fit(&wide, &start, 0.1), Err(FitError::Row { row: 0, found: 3, expected: 2 }));
        let beyond = [Row { embedding: vec![0.0; 2], class: 3 }];
        assert!(matches!(fit(&beyond, &start, 0.1), Err(FitError::Row { .. })));
        let odd = [Row { embedding: vec![f32::NAN, 0.0], class: 0 }];
        assert_eq!(fit(&odd, &start, 0.1), Err(FitError::NotFinite(0)));
    }
}

//! Windows over the readings of one source: so many rows, a step apart.
//!
//! Invariant: a window's rows are neighbours in time order, and every window is either whole or says that a value is missing.
//! Not here: features (`models`), and which model wants which columns.

use std::collections::VecDeque;

use wayside_common::schedule::Position;

/// One row: the values of the wanted columns; `None` where one is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub position: Position,
    pub values: Option<Vec<f64>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    pub from: Position,
    pub to: Position,
    /// `None`: a value is missing, there is nothing to judge.
    pub rows: Option<Vec<Vec<f64>>>,
}

#[derive(Debug)]
pub struct Windows {
    rows: usize,
    step: usize,
    held: VecDeque<Row>,
    /// Rows to drop before the next window begins, where the step is longer than a window.
    skip: usize,
}

impl Windows {
    /// Both are treated as at least one.
    pub fn new(rows: usize, step: usize) -> Self {
        Self { rows: rows.max(1), step: step.max(1), held: VecDeque::new(), skip: 0 }
    }

    /// Takes the next row; gives the window that it completes.
    pub fn push(&mut self, row: Row) -> Option<Window> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.held.push_back(row);
        if self.held.len() < self.rows {
            return None;
        }
        let window = Window {
            from: self.held.front().map(|row| row.position)?,
            to: self.held.back().map(|row| row.position)?,
            rows: self.held.iter().map(|row| row.values.clone()).collect(),
        };
        self.skip = self.step.saturating_sub(self.held.len());
        self.held.drain(..self.step.min(self.held.len()));
        Some(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_each_other_by_the_step() {
        struct Case {
            rows: usize,
            step: usize,
            windows: &'static [(u64, u64)],
        }
        let cases = [
            Case { rows: 4, step: 2, windows: &[(0, 3), (2, 5), (4, 7), (6, 9)] },
            Case { rows: 3, step: 3, windows: &[(0, 2), (3, 5), (6, 8)] },
            Case { rows: 2, step: 5, windows: &[(0, 1), (5, 6)] },
            Case { rows: 0, step: 0, windows: &[(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8), (9, 9)] },
            Case { rows: 11, step: 1, windows: &[] },
        ];
        for case in cases {
            let mut windows = Windows::new(case.rows, case.step);
            let found: Vec<(u64, u64)> = (0..10)
                .filter_map(|i| windows.push(Row { position: Position(i), values: Some(vec![i as f64]) }))
                .map(|window| (window.from.0, window.to.0))
                .collect();
            assert_eq!(found, case.windows, "{} rows, step {}", case.rows, case.step);
        }
    }

    #[test]
    fn a_missing_value_spoils_the_windows_that_hold_it() {
        let mut windows = Windows::new(2, 1);
        let whole: Vec<bool> = (0..5)
            .filter_map(|i| windows.push(Row { position: Position(i), values: (i != 2).then(|| vec![i as f64]) }))
            .map(|window| window.rows.is_some())
            .collect();
        assert_eq!(whole, [true, false, false, true]);
    }
}

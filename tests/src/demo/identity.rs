//! The oracle of the demo: stored ∪ degraded ∪ gaps = produced, by identity of positions, and pairwise disjoint.
//!
//! Invariant: it judges what was read through the server against the scenario alone, never against what the agent says of itself.
//! Not here: how the sets were read (`api`), and what a run prints of them (`report`).

use wayside_common::{
    schedule::{Position, Schedule},
    time::Wall,
};

use super::ranges::Ranges;

/// A restarted agent may take this long until it has closed the span in which it was not running.
const RESTART_SLACK_MS: i64 = 1_000;

/// One entry of the gap ledger, on the device's main stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    pub epoch: String,
    pub positions: Option<(u64, u64)>,
    pub span: (Wall, Wall),
    pub unknown: bool,
    pub reason: String,
}

/// What the server holds of one device's main stream, and what the scenario says of it.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// How many positions are due in the run: 0 .. produced.
    pub produced: u64,
    /// `None` for a source that is read as fast as it is taken.
    pub schedule: Option<Schedule>,
    pub stored: Ranges,
    pub degraded: Ranges,
    pub gaps: Vec<Gap>,
    /// Highest position stored in each epoch.
    pub last_stored: Vec<(String, u64)>,
    /// When the agent was started again.
    pub restarts: Vec<Wall>,
    pub duplicates: u64,
}

impl Observed {
    /// The positions that a gap stands for: those it names, or those due inside its span.
    pub fn positions_of(&self, gap: &Gap) -> Ranges {
        match (gap.positions, &self.schedule) {
            (Some(pair), _) => vec![pair].into(),
            (None, Some(schedule)) => due_between(schedule, gap.span.0, gap.span.1),
            (None, None) => Ranges::default(),
        }
    }

    /// Positions of the run of which nothing is known.
    pub fn missing(&self) -> Ranges {
        let in_gaps = self.gaps.iter().fold(Ranges::default(), |sum, gap| sum.union(&self.positions_of(gap)));
        Ranges::first(self.produced).without(&self.stored).without(&self.degraded).without(&in_gaps)
    }

    /// Every way in which the identity or the ledger's honesty is broken, as sentences; none means green.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut claims = vec![("stored".to_owned(), self.stored.clone()), ("degraded".to_owned(), self.degraded.clone())];
        for gap in &self.gaps {
            claims.push((format!("the gap “{}” of epoch {}", gap.reason, gap.epoch), self.positions_of(gap)));
            self.judge_span(gap, &mut faults);
        }
        for (i, (name, set)) in claims.iter().enumerate() {
            let beyond = set.without(&Ranges::first(self.produced));
            if !beyond.is_empty() {
                faults.push(format!("{name} holds positions that were never due: {beyond}"));
            }
            for (other_name, other) in &claims[i + 1..] {
                let both = set.intersection(other);
                if !both.is_empty() {
                    faults.push(format!("{name} and {other_name} both hold positions {both}"));
                }
            }
        }
        let missing = self.missing();
        if !missing.is_empty() {
            faults.push(format!(
                "positions {missing} are neither stored, degraded nor in a gap ({} of {})",
                missing.count(),
                self.produced
            ));
        }
        if self.duplicates > 0 {
            faults.push(format!("{} positions are stored more than once", self.duplicates));
        }
        faults
    }

    fn judge_span(&self, gap: &Gap, faults: &mut Vec<String>) {
        if !gap.unknown {
            if gap.positions.is_none() {
                faults.push(format!("the gap “{}” is exact and names no positions", gap.reason));
            }
            return;
        }
        let Some(schedule) = &self.schedule else { return };
        let (begin, end) = gap.span;
        if let Some((_, last)) = self.last_stored.iter().find(|(epoch, _)| *epoch == gap.epoch)
            && begin < schedule.due(Position(*last))
        {
            faults.push(format!("the unknown span “{}” begins at {} ms, before the last durable record ({last})", gap.reason, begin.0));
        }
        match self.restarts.iter().find(|restart| **restart >= begin) {
            Some(restart) if end.0 <= restart.0 + RESTART_SLACK_MS => {}
            Some(restart) => faults.push(format!("the unknown span “{}” ends {} ms after the restart", gap.reason, end.0 - restart.0)),
            None => faults.push(format!("there is an unknown span “{}”, and the agent was never restarted after it began", gap.reason)),
        }
        let named = self.positions_of(gap);
        let inside = due_between(schedule, Wall(begin.0 + 1), Wall(end.0 - 1));
        let left_out = inside.intersection(&Ranges::first(self.produced)).without(&named);
        let outside = named.without(&due_between(schedule, begin, end));
        if !left_out.is_empty() || !outside.is_empty() {
            faults.push(format!(
                "the unknown span “{}” names positions {named}; due inside it and not named: {left_out}; named and not due inside it: {outside}",
                gap.reason
            ));
        }
    }
}

/// The positions due from `begin` to `end`, both inclusive.
fn due_between(schedule: &Schedule, begin: Wall, end: Wall) -> Ranges {
    let before = schedule.due_by(Wall(begin.0 - 1));
    match schedule.due_by(end).checked_sub(1) {
        Some(last) => vec![(before, last)].into(),
        None => Ranges::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Ten positions, one each 100 ms from 1,000 ms on.
    fn run(stored: &[(u64, u64)], gaps: Vec<Gap>) -> Observed {
        Observed {
            produced: 10,
            schedule: Some(Schedule { anchor: Wall(1_000), period: Duration::from_millis(100), count: Some(10) }),
            stored: stored.to_vec().into(),
            gaps,
            last_stored: vec![("1".into(), 3)],
            restarts: vec![Wall(1_750)],
            ..Observed::default()
        }
    }

    fn unknown(positions: (u64, u64), span: (i64, i64)) -> Gap {
        Gap { epoch: "1".into(), positions: Some(positions), span: (Wall(span.0), Wall(span.1)), unknown: true, reason: "crash".into() }
    }

    #[test]
    fn identity_holds_or_says_what_differs() {
        struct Case {
            name: &'static str,
            observed: Observed,
            /// Part of the one fault; `None` where there is none.
            fault: Option<&'static str>,
        }
        let cases = [
            Case { name: "all stored", observed: run(&[(0, 9)], vec![]), fault: None },
            Case { name: "one missing", observed: run(&[(0, 4), (6, 9)], vec![]), fault: Some("positions 5 are neither") },
            Case { name: "one too many", observed: run(&[(0, 10)], vec![]), fault: Some("never due: 10") },
            Case { name: "a crash", observed: run(&[(0, 3), (8, 9)], vec![unknown((4, 7), (1_301, 1_760))]), fault: None },
            Case {
                name: "stored and in a gap",
                observed: run(&[(0, 4), (8, 9)], vec![unknown((4, 7), (1_301, 1_760))]),
                fault: Some("both hold positions 4"),
            },
            Case {
                name: "begins before the last durable record",
                observed: run(&[(0, 3), (8, 9)], vec![unknown((4, 7), (1_299, 1_760))]),
                fault: Some("before the last durable record (3)"),
            },
            Case {
                name: "ends long after the restart",
                observed: Observed { restarts: vec![Wall(600), Wall(1_310)], ..run(&[(0, 3)], vec![unknown((4, 9), (1_301, 2_400))]) },
                fault: Some("ends 1090 ms after the restart"),
            },
            Case {
                name: "no restart",
                observed: Observed { restarts: vec![], ..run(&[(0, 3), (8, 9)], vec![unknown((4, 7), (1_301, 1_760))]) },
                fault: Some("never restarted"),
            },
            Case {
                name: "names less than is due inside",
                observed: run(&[(0, 3), (7, 9)], vec![unknown((4, 6), (1_301, 1_760))]),
                fault: Some("due inside it and not named: 7"),
            },
            Case {
                name: "names more than is due inside",
                observed: run(&[(0, 3), (9, 9)], vec![unknown((4, 8), (1_301, 1_760))]),
                fault: Some("named and not due inside it: 8"),
            },
            Case {
                name: "twice in two gaps",
                observed: run(&[(0, 3), (8, 9)], vec![unknown((4, 6), (1_301, 1_650)), unknown((6, 7), (1_600, 1_760))]),
                fault: Some("both hold positions 6"),
            },
            Case {
                name: "exact without positions",
                observed: run(&[(0, 9)], vec![Gap { positions: None, unknown: false, ..unknown((4, 4), (1_950, 1_950)) }]),
                fault: Some("exact and names no positions"),
            },
            Case {
                name: "stored twice",
                observed: Observed { duplicates: 1, ..run(&[(0, 9)], vec![]) },
                fault: Some("1 positions are stored more than once"),
            },
        ];
        for Case { name, observed, fault } in cases {
            let faults = observed.faults();
            match fault {
                None => assert!(faults.is_empty(), "{name}: {faults:?}"),
                Some(part) => assert!(faults.iter().any(|f| f.contains(part)), "{name}: {faults:?}"),
            }
        }
    }

    #[test]
    fn an_unknown_gap_without_positions_counts_what_is_due_inside_its_span() {
        let gap = Gap { positions: None, ..unknown((0, 0), (1_301, 1_760)) };
        let observed = run(&[(0, 3), (8, 9)], vec![gap.clone()]);
        assert_eq!(observed.positions_of(&gap), vec![(4, 7)].into());
        assert_eq!(observed.faults(), Vec::<String>::new());
    }
}

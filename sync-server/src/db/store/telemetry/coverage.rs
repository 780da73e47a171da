//! What a range of time lacks: "complete", "degraded" or the gaps, because.
//!
//! Invariant: a gap that only touches the range is told whole. Not here: the gaps themselves (`ledger`, `retention`).

use wayside_common::id::DeviceId;

use super::{ledger, retention};
use crate::db::{
    sql::{Tx, params},
    telemetry::{Coverage, CoverageState},
};

/// Of the raw readings and the buckets of a source.
pub fn of_readings(tx: &Tx, device: &DeviceId, source: i64, name: &str, span: (i64, i64)) -> anyhow::Result<Coverage> {
    let mut coverage = of_rollups(tx, device, source, name, span)?;
    coverage.gaps.extend(retention::gaps(tx, source, span)?);
    if !coverage.gaps.is_empty() {
        coverage.state = CoverageState::Gaps;
    }
    Ok(coverage)
}

/// Of the rollups of a source: they hold what was retired since.
pub fn of_rollups(tx: &Tx, device: &DeviceId, source: i64, name: &str, (from, to): (i64, i64)) -> anyhow::Result<Coverage> {
    let stream = format!("{name}.readings");
    let touches = |span: (i64, i64)| span.0 <= to && from <= span.1;
    let mut gaps = ledger::list(tx, device)?;
    gaps.retain(|gap| gap.stream == stream && touches(gap.span));
    let sql = "SELECT count(*) FROM degraded WHERE source = $1 AND last_wall >= $2 AND first_wall <= $3";
    let degraded: i64 = tx.one(sql, params![source, from, to], |row| row.get(0))?;
    let until = "SELECT max(wall) FROM latest WHERE source = $1 AND kind = 'readings'";
    let known_until_ms: Option<i64> = tx.one(until, params![source], |row| row.get(0))?;
    let state = match (gaps.is_empty(), degraded) {
        (false, _) => CoverageState::Gaps,
        (true, 0) => CoverageState::Complete,
        (true, _) => CoverageState::Degraded,
    };
    Ok(Coverage { state, gaps, known_until_ms })
}

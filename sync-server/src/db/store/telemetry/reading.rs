//! Readings out of their blocks, row by row in a range of time.
//!
//! Invariant: rows are in the order of time, and a cut answer says where to go on without skipping a row. Not here: downsampling (`series`).

use std::ops::ControlFlow;

use wayside_common::id::DeviceId;

use super::{coverage, degraded, record::StoredBlock, sources};
use crate::db::{
    sql::{Tx, params},
    telemetry::{Range, ReadingRow, Readings},
};

pub fn range(tx: &Tx, device: &DeviceId, range: &Range) -> anyhow::Result<Readings> {
    let mut answer = Readings::default();
    let Some((source, _)) = sources(tx, device, "readings", Some(range.source.as_str()))?.pop() else { return Ok(answer) };
    // Blocks of two epochs may overlap in time where the clock was set back.
    let sql = "SELECT first_seq, clock, bytes, first_wall FROM block WHERE source = $1 AND last_wall >= $2 AND first_wall <= $3
         ORDER BY first_wall, id";
    let limit = range.limit as usize;
    tx.each(sql, params![source, range.from, range.to], |row| {
        // No row that is still unread is older than this.
        let unread: i64 = row.get::<_, i64>(3)?.max(range.from);
        let block = StoredBlock::read(row)?;
        let other_columns = !answer.rows.is_empty() && block.block.columns != answer.columns;
        let enough = answer.rows.len() > limit && answer.rows.iter().filter(|row| row.wall_ms < unread).count() > limit;
        if other_columns || enough {
            answer.next_ms = Some(unread);
            return Ok(ControlFlow::Break(()));
        }
        answer.columns.clone_from(&block.block.columns);
        answer.rows.extend(rows(&block, range)?);
        Ok(ControlFlow::Continue(()))
    })?;
    answer.rows.sort_by_key(|row| (row.wall_ms, row.position));
    let (stretches, more) = degraded::range(tx, source, range)?;
    answer.degraded = stretches;
    answer.next_ms = answer.next_ms.into_iter().chain(more).min();
    cut(&mut answer, limit);
    let mut to = range.to;
    if let Some(next) = answer.next_ms {
        answer.degraded.iter_mut().for_each(|stretch| stretch.buckets.retain(|bucket| bucket.from_ms < next));
        answer.degraded.retain(|stretch| !stretch.buckets.is_empty());
        to = next.saturating_sub(1);
    }
    answer.coverage = coverage::of_readings(tx, device, source, range.source.as_str(), (range.from, to))?;
    Ok(answer)
}

fn rows(block: &StoredBlock, range: &Range) -> anyhow::Result<Vec<ReadingRow>> {
    let readings = block.block.unpack()?.into_iter().map(|reading| {
        let wall_ms = block.wall(&reading).0;
        ReadingRow { position: reading.position.0, wall_ms, values: reading.values }
    });
    Ok(readings.filter(|row| (range.from..=range.to).contains(&row.wall_ms)).collect())
}

/// Cuts before the millisecond of the first row that is too many, so that no millisecond is split.
fn cut(answer: &mut Readings, limit: usize) {
    if let Some(unread) = answer.next_ms {
        let known = answer.rows.partition_point(|row| row.wall_ms < unread);
        answer.rows.truncate(if known > 0 { known } else { answer.rows.len() });
    }
    if let Some(first_left) = answer.rows.get(limit).map(|row| row.wall_ms) {
        let whole = answer.rows.partition_point(|row| row.wall_ms < first_left);
        let keep = if whole > 0 { whole } else { answer.rows.partition_point(|row| row.wall_ms <= first_left) };
        answer.next_ms = answer.rows.get(keep).map(|row| row.wall_ms).or(answer.next_ms);
        answer.rows.truncate(keep);
    }
    answer.complete = answer.next_ms.is_none();
}

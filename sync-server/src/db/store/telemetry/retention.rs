//! Letting go of raw readings that are too old or too many; what they said stays in rollups and in `retired`.
//!
//! Invariant: the row of a stream, its batches' digests, the ledger and samples are never touched; each position that is let go stands
//! in `retired`, in the same transaction. The age is that since the server received it: a device's clock may be wrong by decades.
//! Not here: when (`crate::retention`).

use wayside_common::time::Wall;

use super::{degraded, record::StoredBlock};
use crate::db::{
    sql::{Tx, params},
    telemetry::{GapEntry, Retire, Retired},
};

/// Rows of one transaction.
const AT_ONCE: u32 = 200;
/// What a range says of positions whose minutes alone are left.
const ROLLUPS_ONLY: &str = "rollups_only";

/// The oldest stored rows that the limits no longer cover, at most [`AT_ONCE`] of each table.
pub fn retire(tx: &Tx, limits: &Retire) -> anyhow::Result<Retired> {
    let mut excess = match limits.bytes {
        Some(most) => stored_bytes(tx)?.saturating_sub(most),
        None => 0,
    };
    let mut retired = Retired::default();
    for table in ["block", "degraded"] {
        let rows = oldest(tx, table)?;
        let all = rows.len() as u32 == AT_ONCE;
        for (at, row) in rows.into_iter().enumerate() {
            let old = limits.received_before.is_some_and(|before| row.received < before);
            if !old && excess == 0 {
                break;
            }
            excess = excess.saturating_sub(row.bytes);
            retired.rows += 1;
            retired.bytes += row.bytes;
            retired.more |= all && at as u32 + 1 == AT_ONCE;
            let_go(tx, table, &row)?;
        }
    }
    Ok(retired)
}

fn stored_bytes(tx: &Tx) -> anyhow::Result<u64> {
    let sql = "SELECT CAST((SELECT coalesce(sum(length(bytes)), 0) FROM block) + (SELECT coalesce(sum(length(bytes)), 0) FROM degraded) AS BIGINT)";
    tx.one(sql, params![], |row| row.get(0))
}

struct Oldest {
    id: i64,
    stream: i64,
    source: i64,
    seqs: (i64, i64),
    walls: (i64, i64),
    received: Wall,
    bytes: u64,
}

/// In the order in which they were stored. Locked: two servers let go of a row once.
fn oldest(tx: &Tx, table: &str) -> anyhow::Result<Vec<Oldest>> {
    let sql = format!(
        "SELECT kept.id, kept.stream, kept.source, kept.first_seq, kept.end_seq, kept.first_wall, kept.last_wall, batch.received,
         length(kept.bytes) FROM {table} AS kept JOIN batch ON batch.stream = kept.stream AND batch.first_seq = kept.first_seq
         AND batch.end_seq = kept.end_seq ORDER BY kept.id LIMIT $1{}",
        tx.lock("kept")
    );
    tx.rows(&sql, params![AT_ONCE], |row| {
        Ok(Oldest {
            id: row.get(0)?,
            stream: row.get(1)?,
            source: row.get(2)?,
            seqs: (row.get(3)?, row.get(4)?),
            walls: (row.get(5)?, row.get(6)?),
            received: Wall(row.get(7)?),
            bytes: row.get(8)?,
        })
    })
}

fn let_go(tx: &Tx, table: &str, row: &Oldest) -> anyhow::Result<()> {
    for (from, to) in runs(claims(tx, table, row.id)?) {
        note(tx, row, from, to)?;
    }
    tx.execute(&format!("DELETE FROM {table} WHERE id = $1"), params![row.id]).map(drop)
}

/// The positions of a row, as inclusive ranges.
fn claims(tx: &Tx, table: &str, id: i64) -> anyhow::Result<Vec<(u64, u64)>> {
    if table == "degraded" {
        return degraded::positions_of(tx, id);
    }
    let block = tx.one("SELECT first_seq, clock, bytes FROM block WHERE id = $1", params![id], StoredBlock::read)?;
    Ok(block.block.unpack()?.iter().map(|reading| (reading.position.0, reading.position.0)).collect())
}

/// Ranges that follow each other without a hole, joined.
fn runs(ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (from, to) in ranges {
        match runs.last_mut() {
            Some(last) if from == last.1 + 1 => last.1 = to,
            _ => runs.push((from, to)),
        }
    }
    runs
}

/// Grows the entry that ends where this one begins, or makes one.
fn note(tx: &Tx, row: &Oldest, from: u64, to: u64) -> anyhow::Result<()> {
    let (from, to) = (i64::try_from(from)?, i64::try_from(to)?);
    let grown = tx.execute(
        "UPDATE retired SET last_position = $1, last_wall = CASE WHEN last_wall > $2 THEN last_wall ELSE $2 END, end_seq = $3
         WHERE stream = $4 AND last_position = $5 AND (end_seq = $6 OR end_seq = $3)",
        params![to, row.walls.1, row.seqs.1, row.stream, from - 1, row.seqs.0],
    )?;
    if grown == 0 {
        tx.execute(
            "INSERT INTO retired (stream, source, first_seq, end_seq, first_position, last_position, first_wall, last_wall)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            params![row.stream, row.source, row.seqs.0, row.seqs.1, from, to, row.walls.0, row.walls.1],
        )?;
    }
    Ok(())
}

/// Positions of a stream that are in rollups alone.
pub fn positions(tx: &Tx, stream: i64) -> anyhow::Result<Vec<(u64, u64)>> {
    let sql = "SELECT first_position, last_position FROM retired WHERE stream = $1 ORDER BY first_position";
    tx.rows(sql, params![stream], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Of a record at the edge of what was let go.
pub fn position_at(tx: &Tx, stream: i64, seq: u64) -> anyhow::Result<Option<u64>> {
    let seq = i64::try_from(seq)?;
    let last: Option<u64> =
        tx.one("SELECT max(last_position) FROM retired WHERE stream = $1 AND end_seq = $2", params![stream, seq + 1], |row| row.get(0))?;
    let first = "SELECT min(first_position) FROM retired WHERE stream = $1 AND first_seq = $2";
    last.map_or_else(|| tx.one(first, params![stream, seq], |row| row.get(0)), |position| Ok(Some(position)))
}

/// As a range of raw readings tells them.
pub fn gaps(tx: &Tx, source: i64, (from, to): (i64, i64)) -> anyhow::Result<Vec<GapEntry>> {
    let sql = "SELECT stream.epoch, source.name, first_position, last_position, first_wall, last_wall FROM retired
         JOIN stream ON stream.id = retired.stream JOIN source ON source.id = retired.source
         WHERE retired.source = $1 AND last_wall >= $2 AND first_wall <= $3 ORDER BY first_wall, retired.id";
    tx.rows(sql, params![source, from, to], |row| {
        let (from, to): (u64, u64) = (row.get(2)?, row.get(3)?);
        Ok(GapEntry {
            epoch: row.get(0)?,
            stream: format!("{}.readings", row.get::<_, String>(1)?),
            from: Some(from),
            to: Some(to),
            exact: true,
            first_seq: None,
            last_seq: None,
            after_seq: None,
            span: (row.get(4)?, row.get(5)?),
            count: Some(to - from + 1),
            unknown: false,
            reason: ROLLUPS_ONLY.into(),
        })
    })
}

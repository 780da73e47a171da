//! Frames and predictions, page by page and the newest.
//!
//! Invariant: a page never ends between two rows of one position, so that "after this position" skips nothing. Not here: readings.

use wayside_common::id::{DeviceId, SourceName};

use super::{digest, int, sources};
use crate::db::{
    sql::{Row, Tx, params},
    telemetry::{After, AnswerRow, FrameRow, Page, PredictionRow},
};

const FRAME: &str =
    "SELECT source.name, stream.epoch, frame.seq, frame.wall, label, confidence, margin, micros, model, none, frame.position, item
    FROM frame JOIN stream ON stream.id = frame.stream JOIN source ON source.id = frame.source";
const PREDICTION: &str =
    "SELECT source.name, stream.epoch, prediction.seq, prediction.wall, label, confidence, margin, micros, model, none, first, last,
    prediction.slot
    FROM prediction JOIN stream ON stream.id = prediction.stream JOIN source ON source.id = prediction.source";

pub fn frames(tx: &Tx, device: &DeviceId, after: &After) -> anyhow::Result<Page<FrameRow>> {
    let sql = format!("{FRAME} WHERE frame.source = $1 AND frame.position > $2 ORDER BY frame.position, frame.seq LIMIT $3");
    page(tx, device, "frames", after, &sql, frame, |row| row.position)
}

pub fn predictions(tx: &Tx, device: &DeviceId, after: &After) -> anyhow::Result<Page<PredictionRow>> {
    let sql = format!("{PREDICTION} WHERE prediction.source = $1 AND last > $2 ORDER BY last, prediction.seq LIMIT $3");
    page(tx, device, "predictions", after, &sql, prediction, |row| row.to)
}

fn page<T>(
    tx: &Tx,
    device: &DeviceId,
    kind: &str,
    after: &After,
    sql: &str,
    read: fn(&Row) -> anyhow::Result<T>,
    position: fn(&T) -> u64,
) -> anyhow::Result<Page<T>> {
    let start = after.position.map_or(Ok(-1), int)?;
    let limit = after.limit as usize;
    let mut rows = Vec::new();
    for (source, _) in sources(tx, device, kind, after.source.as_ref().map(SourceName::as_str))? {
        rows.extend(tx.rows(sql, params![source, start, after.limit.saturating_add(1)], read)?);
    }
    rows.sort_by_key(position);
    Ok(cut(rows, limit, position))
}

/// At most `limit` rows, or more where one position alone has more.
fn cut<T>(mut rows: Vec<T>, limit: usize, position: fn(&T) -> u64) -> Page<T> {
    let Some(first_left) = rows.get(limit).map(position) else { return Page { rows, next: None } };
    let whole = rows.iter().take_while(|row| position(row) < first_left).count();
    let keep = if whole > 0 { whole } else { rows.iter().take_while(|row| position(row) == first_left).count() };
    rows.truncate(keep);
    Page { next: rows.last().map(position), rows }
}

/// The newest frame of each camera.
pub fn latest_frames(tx: &Tx, device: &DeviceId) -> anyhow::Result<Vec<FrameRow>> {
    let sql = format!("{FRAME} JOIN latest ON latest.stream = frame.stream AND latest.seq = frame.seq WHERE latest.source = $1");
    let mut latest = Vec::new();
    for (source, _) in sources(tx, device, "frames", None)? {
        latest.extend(tx.rows(&sql, params![source], frame)?);
    }
    Ok(latest)
}

/// The newest prediction of each slot that judges windows of a sensor.
pub fn latest_predictions(tx: &Tx, device: &DeviceId) -> anyhow::Result<Vec<PredictionRow>> {
    let sql = format!(
        "{PREDICTION} JOIN latest ON latest.stream = prediction.stream AND latest.seq = prediction.seq WHERE latest.source = $1
         ORDER BY latest.slot"
    );
    let mut latest = Vec::new();
    for (source, _) in sources(tx, device, "predictions", None)? {
        latest.extend(tx.rows(&sql, params![source], prediction)?);
    }
    Ok(latest)
}

fn frame(row: &Row) -> anyhow::Result<FrameRow> {
    Ok(FrameRow {
        source: row.get(0)?,
        epoch: row.get(1)?,
        seq: row.get::<_, i64>(2)? as u64,
        wall_ms: row.get(3)?,
        position: row.get::<_, i64>(10)? as u64,
        item: row.get(11)?,
        answer: answer(row)?,
    })
}

fn prediction(row: &Row) -> anyhow::Result<PredictionRow> {
    Ok(PredictionRow {
        source: row.get(0)?,
        epoch: row.get(1)?,
        seq: row.get::<_, i64>(2)? as u64,
        wall_ms: row.get(3)?,
        from: row.get::<_, i64>(10)? as u64,
        to: row.get::<_, i64>(11)? as u64,
        slot: row.get(12)?,
        answer: answer(row)?,
    })
}

fn answer(row: &Row) -> anyhow::Result<AnswerRow> {
    Ok(AnswerRow {
        label: row.get(4)?,
        confidence: row.get(5)?,
        margin: row.get(6)?,
        micros: row.get::<_, Option<i64>>(7)?.map(|micros| micros as u64),
        model: row.get::<_, Option<Vec<u8>>>(8)?.map(digest).transpose()?,
        none: row.get(9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_never_ends_inside_a_position() {
        struct Case {
            rows: &'static [u64],
            limit: usize,
            page: &'static [u64],
            next: Option<u64>,
        }
        let cases = [
            Case { rows: &[], limit: 2, page: &[], next: None },
            Case { rows: &[1, 2], limit: 2, page: &[1, 2], next: None },
            Case { rows: &[1, 2, 3], limit: 2, page: &[1, 2], next: Some(2) },
            Case { rows: &[1, 2, 2], limit: 2, page: &[1], next: Some(1) },
            Case { rows: &[2, 2, 2], limit: 2, page: &[2, 2, 2], next: Some(2) },
        ];
        for case in cases {
            let page = cut(case.rows.to_vec(), case.limit, |row| *row);
            assert_eq!((page.rows.as_slice(), page.next), (case.page, case.next), "{:?}", case.rows);
        }
    }
}

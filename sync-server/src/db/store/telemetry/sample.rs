//! Samples: frames worth a label, with their pictures.
//!
//! Invariant: a sample's id follows from its record's name. A label is a row of its own, so that the sample never changes. Not here: what labels are used for.

use wayside_common::{id::SlotName, time::Wall};

use super::{digest, name};
use crate::db::{
    sql::{Row, Tx, params},
    telemetry::{SampleContent, SampleFilter, SampleRow},
};

const SAMPLE: &str =
    "SELECT sample.id, stream.device, slot, source.name, item, position, wall, model, sample.label, confidence, margin, why,
    length(embedding), label.label, label.by, label.at FROM sample JOIN stream ON stream.id = sample.stream
    JOIN source ON source.id = stream.source LEFT JOIN label ON label.sample = sample.id";

/// Newest first.
pub fn list(tx: &Tx, filter: &SampleFilter) -> anyhow::Result<Vec<SampleRow>> {
    let sql = format!(
        "{SAMPLE} WHERE (CAST($1 AS BIGINT) IS NULL OR (CASE WHEN label.sample IS NULL THEN 0 ELSE 1 END) = $1)
         AND (CAST($2 AS TEXT) IS NULL OR slot = $2) ORDER BY received DESC, sample.id LIMIT $3"
    );
    tx.rows(&sql, params![filter.labelled, filter.slot.as_ref().map(SlotName::as_str), filter.limit], read)
}

pub fn label(tx: &Tx, id: &str, label: &str, by: &str, now: Wall) -> anyhow::Result<bool> {
    let changed = tx.execute(
        "INSERT INTO label (sample, label, by, at) SELECT id, CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BIGINT) FROM sample WHERE id = $4
         ON CONFLICT (sample) DO UPDATE SET label = excluded.label, by = excluded.by, at = excluded.at",
        params![label, by, now.0, id],
    )?;
    Ok(changed == 1)
}

pub fn one(tx: &Tx, id: &str) -> anyhow::Result<Option<SampleRow>> {
    tx.first(&format!("{SAMPLE} WHERE sample.id = $1"), params![id], read)
}

pub fn content(tx: &Tx, id: &str) -> anyhow::Result<Option<SampleContent>> {
    let read = |row: &Row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?));
    let found = tx.first("SELECT jpeg, embedding FROM sample WHERE id = $1", params![id], read)?;
    Ok(found.map(|(jpeg, embedding)| {
        let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of four bytes"));
        SampleContent { jpeg, embedding: embedding.chunks_exact(4).map(value).collect() }
    }))
}

fn read(row: &Row) -> anyhow::Result<SampleRow> {
    Ok(SampleRow {
        id: row.get(0)?,
        device: name(row.get(1)?)?,
        slot: name(row.get(2)?)?,
        source: row.get(3)?,
        item: row.get(4)?,
        position: row.get(5)?,
        wall_ms: row.get(6)?,
        model: digest(row.get(7)?)?,
        label_predicted: row.get(8)?,
        confidence: row.get(9)?,
        margin: row.get(10)?,
        why: row.get(11)?,
        embedding: row.get::<_, usize>(12)? / 4,
        label: row.get(13)?,
        labelled_by: row.get(14)?,
        labelled_ms: row.get(15)?,
    })
}

//! Model versions and trust documents.
//!
//! Invariant: a name and version, once inserted, belong to one digest for ever. Not here: the packages' bytes (`registry::blob`).

use anyhow::Context;
use wayside_common::{
    fleet::ModelRef,
    id::{Digest, ModelName},
    time::Wall,
    trust::role::IndexRef,
};

use crate::db::{
    registry::{ModelState, ModelVersion, Registered, TrustDocument},
    sql::{Row, Tx, params},
};

const COLUMNS: &str = "name, version, digest, length, index_digest, index_length, state, lineage, created";

pub fn register(tx: &Tx, version: &ModelVersion) -> anyhow::Result<Registered> {
    if let Some(known) = by_name(tx, &version.model.name, version.model.version)? {
        let same = known.model.digest == version.model.digest;
        return Ok(if same { Registered::Known } else { Registered::Conflict(known.model.digest) });
    }
    tx.execute(
        &format!("INSERT INTO model_version ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"),
        params![
            version.model.name.as_str(),
            version.model.version,
            version.model.digest.0,
            i64::try_from(version.length)?,
            version.index.sha256.0,
            i64::try_from(version.index.length)?,
            version.state.as_str(),
            version.lineage.to_string(),
            version.created.0,
        ],
    )?;
    Ok(Registered::New)
}

pub fn all(tx: &Tx) -> anyhow::Result<Vec<ModelVersion>> {
    tx.rows(&format!("SELECT {COLUMNS} FROM model_version ORDER BY name, version DESC"), params![], from_row)
}

pub fn by_name(tx: &Tx, name: &ModelName, version: u32) -> anyhow::Result<Option<ModelVersion>> {
    let sql = format!("SELECT {COLUMNS} FROM model_version WHERE name = $1 AND version = $2");
    tx.first(&sql, params![name.as_str(), version], from_row)
}

pub fn by_digest(tx: &Tx, digest: Digest) -> anyhow::Result<Option<ModelVersion>> {
    tx.first(&format!("SELECT {COLUMNS} FROM model_version WHERE digest = $1"), params![digest.0], from_row)
}

pub fn keep_trust(tx: &Tx, document: &TrustDocument) -> anyhow::Result<()> {
    tx.execute(
        "INSERT INTO trust_document (role, version, bytes) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        params![document.role, i64::try_from(document.version)?, document.bytes],
    )?;
    Ok(())
}

pub fn trust_after(tx: &Tx, role: &str, after: u64) -> anyhow::Result<Vec<TrustDocument>> {
    let sql = "SELECT role, version, bytes FROM trust_document WHERE role = $1 AND version > $2 ORDER BY version";
    tx.rows(sql, params![role, i64::try_from(after).unwrap_or(i64::MAX)], document)
}

pub fn newest_trust(tx: &Tx, role: &str) -> anyhow::Result<Option<TrustDocument>> {
    let sql = "SELECT role, version, bytes FROM trust_document WHERE role = $1 ORDER BY version DESC LIMIT 1";
    tx.first(sql, params![role], document)
}

fn document(row: &Row) -> anyhow::Result<TrustDocument> {
    Ok(TrustDocument { role: row.get(0)?, version: row.get::<_, i64>(1)?.unsigned_abs(), bytes: row.get(2)? })
}

fn from_row(row: &Row) -> anyhow::Result<ModelVersion> {
    let state: String = row.get("state")?;
    Ok(ModelVersion {
        model: ModelRef {
            name: row.get::<_, String>("name")?.parse().context("a stored model name")?,
            version: row.get("version")?,
            digest: Digest(row.get("digest")?),
        },
        length: row.get::<_, i64>("length")?.unsigned_abs(),
        index: IndexRef { length: row.get::<_, i64>("index_length")?.unsigned_abs(), sha256: Digest(row.get("index_digest")?) },
        state: ModelState::ALL.into_iter().find(|s| s.as_str() == state).context("a stored model state")?,
        lineage: serde_json::from_str(&row.get::<_, String>("lineage")?).context("a stored lineage")?,
        created: Wall(row.get("created")?),
    })
}

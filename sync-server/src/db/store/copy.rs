//! Everything from one store into another, empty one: with ids, watermarks, ledger and incarnation.
//!
//! Invariant: the target has what the source had, row for row, or an error is told and nothing is there. Not here: which tables there are
//! (the schema says it).

use std::ops::ControlFlow;

use anyhow::{Context, bail, ensure};

use super::SCHEMA;
use crate::db::sql::{Engine, Row, ToParam, Tx, Value, params, tables};

/// Rows that are read, and written, at once.
const CHUNK: i64 = 500;

/// One table, and its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    pub table: String,
    pub rows: u64,
}

/// Copies every table. The source must not be written to meanwhile. Each chunk is a transaction of its own; the row that makes a store
/// of it, its incarnation, comes last, so that a copy which was cut off is seen as one.
pub async fn copy<S: Engine, T: Engine>(source: &S, target: &T) -> anyhow::Result<Vec<Copied>> {
    let names: Vec<(String, bool)> = tables(SCHEMA);
    let all = names.clone();
    target.read(move |tx| all.iter().try_for_each(|(table, _)| is_empty(tx, table))).await?;
    let mut copied = Vec::new();
    for (table, numbered) in names.iter().filter(|(table, _)| table != "server") {
        let rows = copy_table(source, target, table).await.with_context(|| format!("the copy of table {table}"))?;
        if *numbered {
            let table = table.clone();
            target.write(move |tx| tx.number_on(&table)).await?;
        }
        copied.push(Copied { table: table.clone(), rows });
    }
    let incarnation = Engine::incarnation(source) as i64;
    target.write(move |tx| tx.execute("UPDATE server SET incarnation = $1", params![incarnation]).map(drop)).await?;
    Ok(copied)
}

/// The target was prepared by its opening, so its `server` has its row; nothing else may have one.
fn is_empty(tx: &Tx, table: &str) -> anyhow::Result<()> {
    let rows = count(tx, table)?;
    ensure!(rows == 0 || table == "server", "the target is not empty: table {table} has {rows} rows");
    Ok(())
}

fn count(tx: &Tx, table: &str) -> anyhow::Result<u64> {
    tx.one(&format!("SELECT count(*) FROM {table}"), params![], |row| row.get(0))
}

/// In the order of the primary key, which every table has.
async fn copy_table<S: Engine, T: Engine>(source: &S, target: &T, table: &str) -> anyhow::Result<u64> {
    let key = primary_key(table)?;
    let mut after: Option<Vec<Value>> = None;
    let mut copied = 0;
    loop {
        let (name, columns, last) = (table.to_owned(), key.clone(), after.clone());
        let rows = source.read(move |tx| chunk(tx, &name, &columns, last.as_deref())).await?;
        let Some(end) = rows.last() else { break };
        after = Some(key.iter().map(|column| end.get::<_, Value>(column.as_str())).collect::<anyhow::Result<_>>()?);
        copied += rows.len() as u64;
        let name = table.to_owned();
        target.write(move |tx| rows.iter().try_for_each(|row| insert(tx, &name, row))).await?;
    }
    let name = table.to_owned();
    let there = target.read(move |tx| count(tx, &name)).await?;
    ensure!(there == copied, "{copied} rows were read, and {there} are there");
    Ok(copied)
}

fn chunk(tx: &Tx, table: &str, key: &[String], after: Option<&[Value]>) -> anyhow::Result<Vec<Row>> {
    let columns = key.join(", ");
    let (condition, values): (String, Vec<_>) = match after {
        None => (String::new(), Vec::new()),
        Some(values) => {
            let places: Vec<String> = (1..=values.len()).map(|at| format!("${at}")).collect();
            (format!(" WHERE ({columns}) > ({})", places.join(", ")), values.iter().map(ToParam::param).collect())
        }
    };
    let mut rows = Vec::new();
    tx.each(&format!("SELECT * FROM {table}{condition} ORDER BY {columns} LIMIT {CHUNK}"), &values, |row| {
        rows.push(row.clone());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(rows)
}

fn insert(tx: &Tx, table: &str, row: &Row) -> anyhow::Result<()> {
    let columns: Vec<String> = row.names.iter().map(|name| format!("\"{name}\"")).collect();
    let places: Vec<String> = (1..=columns.len()).map(|at| format!("${at}")).collect();
    let sql = format!("INSERT INTO {table} ({}) VALUES ({})", columns.join(", "), places.join(", "));
    let values: Vec<_> = row.values.iter().map(ToParam::param).collect();
    tx.execute(&sql, &values).map(drop)
}

/// As the schema declares it.
fn primary_key(table: &str) -> anyhow::Result<Vec<String>> {
    let start = format!("CREATE TABLE {table} (");
    let Some(body) = SCHEMA.iter().find_map(|step| step.split_once(start.as_str())).map(|(_, rest)| rest.split(';').next().unwrap_or(rest))
    else {
        bail!("no such table in the schema");
    };
    if let Some((_, columns)) = body.split_once("PRIMARY KEY (") {
        let columns = columns.split(')').next().unwrap_or_default();
        return Ok(columns.split(',').map(|column| column.trim().to_owned()).collect());
    }
    let first = body.split_whitespace().next().context("a table without a column")?;
    ensure!(body.contains("PRIMARY KEY"), "a table without a key");
    Ok(vec![first.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_key_by_which_it_is_read() {
        let keys: Vec<(String, Vec<String>)> =
            tables(SCHEMA).into_iter().map(|(table, _)| (table.clone(), primary_key(&table).expect("a key"))).collect();
        assert!(keys.iter().all(|(_, key)| !key.is_empty()));
        let of = |name: &str| keys.iter().find(|(table, _)| table == name).map(|(_, key)| key.join(" "));
        assert_eq!(of("stream").as_deref(), Some("id"));
        assert_eq!(of("batch").as_deref(), Some("stream first_seq end_seq"));
        assert_eq!(of("sample").as_deref(), Some("id"));
        assert_eq!(of("assignment_slot").as_deref(), Some("device generation slot"));
    }
}

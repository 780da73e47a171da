//! How results look on stdout: a table for people, JSON for programs.
//!
//! Invariant: with `json`, stdout holds one JSON document and nothing else. Not here: progress and errors (stderr).

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::Value;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

/// A column of a table: its heading, and what it shows of a row.
pub type Column = (&'static str, fn(&Value) -> String);

impl Output {
    /// Prints an array of objects.
    pub fn rows(self, rows: &Value, columns: &[Column]) -> anyhow::Result<()> {
        match self {
            Self::Json => print(&format!("{}\n", serde_json::to_string_pretty(rows)?)),
            Self::Table => print(&table(rows.as_array().map(Vec::as_slice).unwrap_or_default(), columns)),
        }
    }

    /// Prints one object: as a table of one row.
    pub fn row(self, row: &Value, columns: &[Column]) -> anyhow::Result<()> {
        match self {
            Self::Json => self.rows(row, columns),
            Self::Table => print(&table(std::slice::from_ref(row), columns)),
        }
    }
}

/// The text at a JSON pointer; "-" where there is none.
pub fn text(row: &Value, pointer: &str) -> String {
    match row.pointer(pointer) {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn table(rows: &[Value], columns: &[Column]) -> String {
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|(heading, _)| heading.to_uppercase()).collect()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|(_, show)| printable(&show(row))).collect()));
    let widths: Vec<usize> =
        (0..columns.len()).map(|c| lines.iter().map(|line| line[c].chars().count()).max().unwrap_or_default()).collect();
    let mut out = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Devices name things; a control character in a name must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough (`| head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_aligns_its_columns_and_defuses_control_characters() {
        let rows = [json!({"id": "cam-1", "n": 3}), json!({"id": "a\u{1b}[31m", "n": null})];
        let shown = table(&rows, &[("id", |r| text(r, "/id")), ("n", |r| text(r, "/n"))]);
        assert_eq!(shown, "ID      N\ncam-1   3\na\u{fffd}[31m  -\n");
    }
}

//! Where in a text of a package something is wrong: file, line, column, reason.
//!
//! Invariant: lines and columns count from 1, columns in characters. Not here: what is right (each parser says that itself).

use std::ops::Range;

/// A text of a package that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}, column {column}: {reason}")]
pub struct Malformed {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub reason: String,
}

impl Malformed {
    /// At the start of `span` (bytes of `text`).
    pub fn at(file: &str, text: &str, span: Range<usize>, reason: impl Into<String>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            file: file.into(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            reason: reason.into(),
        }
    }

    pub fn toml(file: &str, text: &str, error: &toml::de::Error) -> Self {
        Self::at(file, text, error.span().unwrap_or(0..0), error.message().trim())
    }

    pub fn json(file: &str, error: &serde_json::Error) -> Self {
        let text = error.to_string();
        // serde_json appends the place, which is told apart here.
        let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        Self { file: file.into(), line: error.line(), column: error.column(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_counted_in_lines_and_characters() {
        let text = "a = 1\nß = \"é\" x\n";
        let at = text.find('x').unwrap();
        let found = Malformed::at("f.toml", text, at..at + 1, "no");
        assert_eq!((found.line, found.column), (2, 9));
        assert_eq!(found.to_string(), "f.toml, line 2, column 9: no");
        assert_eq!(Malformed::at("f", text, 900..901, "no").line, 3);
    }
}

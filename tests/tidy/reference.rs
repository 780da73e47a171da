//! The configuration reference: every key that a configuration file may have is in the document, and no other.
//!
//! Invariant: keys come from the structs that refuse unknown keys, as serde names them. Not here: what a key's text says.

use std::collections::BTreeSet;

use crate::code::Source;

/// The keys of every struct or enum that refuses unknown ones and is read from a file.
pub fn keys(source: &Source) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (at, _) in source.text.match_indices("deny_unknown_fields") {
        if source.text[..at].lines().count() >= source.tests_from {
            break;
        }
        let item = &source.text[at..];
        let Some(open) = item.find('{') else { continue };
        // Requests of the REST API refuse unknown keys too, and no file has them.
        let head = &item[..open];
        if !head.contains("struct ") && !head.contains("enum ") || head.contains("Request") {
            continue;
        }
        // An enum that is told apart by a key has that key too, named in the same attribute.
        let attribute = source.text[..at].rfind("#[").map_or("", |from| &source.text[from..at]);
        if let Some(tag) = attribute.split("tag = \"").nth(1).and_then(|rest| rest.split('"').next()) {
            keys.insert(tag.to_owned());
        }
        let mut renamed = None;
        for line in lines_of(&item[open..]) {
            let line = line.trim();
            if let Some((_, rest)) = line.split_once("rename = \"") {
                renamed = rest.split('"').next().map(str::to_owned);
            }
            if let Some(field) = field(line) {
                let key = renamed.take().unwrap_or_else(|| field.to_owned());
                keys.insert(key);
            }
        }
    }
    keys
}

/// The lines of the block that `text` begins with.
fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0i32;
    let mut end = text.len();
    for (i, c) in text.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            end = i;
            break;
        }
    }
    text[..end].lines()
}

/// `pub data_dir: PathBuf,` → `data_dir`; `Embedded { listen: SocketAddr }` is not a line with one field.
fn field(line: &str) -> Option<&str> {
    let line =
        line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub(super) ")).or_else(|| line.strip_prefix("pub ")).unwrap_or(line);
    let (name, _) = line.split_once(": ")?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    is_name.then_some(name)
}

/// Keys that only one side has. A key stands in the document as the first cell of a table row, in backticks.
pub fn differences(document: &str, text: &str, keys: &BTreeSet<String>) -> Vec<String> {
    let documented: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect();
    let missing = keys.difference(&documented).map(|key| format!("{document} does not explain the key `{key}`"));
    let invented = documented.difference(keys).map(|key| format!("{document} explains `{key}`, and no configuration has it"));
    missing.chain(invented).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_differences_are_found() {
        let source = Source::new(
            "agent/src/config.rs",
            "#[serde(deny_unknown_fields)]\npub struct Config {\n    /// Text: more.\n    pub data_dir: PathBuf,\n    #[serde(rename = \"job\")]\n    \
             pub jobs: Vec<Job>,\n    name: String,\n}\n#[serde(deny_unknown_fields)]\nstruct LabelRequest {\n    label: String,\n}\n\
             #[cfg(test)]\nmod tests {\n#[serde(deny_unknown_fields)]\nstruct T {\n    x: u8,\n}\n}\n",
        );
        let keys = keys(&source);
        assert_eq!(keys.iter().map(String::as_str).collect::<Vec<_>>(), ["data_dir", "job", "name"]);
        let tagged = Source::new(
            "a.rs",
            "#[serde(tag = \"kind\", deny_unknown_fields)]\npub enum Config {\n    A {\n        url: String,\n    },\n}\n",
        );
        assert_eq!(super::keys(&tagged), BTreeSet::from(["kind".to_owned(), "url".to_owned()]));
        let text = "| `data_dir` | where |\n| `job` | what |\n| `nmae` | typo |\n";
        assert_eq!(
            differences("d.md", text, &keys),
            ["d.md does not explain the key `name`", "d.md explains `nmae`, and no configuration has it"]
        );
        assert!(differences("d.md", &text.replace("nmae", "name"), &keys).is_empty());
    }
}

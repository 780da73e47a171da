//! The rules of the code that a machine can check, each a named function that prints file and line.
//!
//! Invariant: a rule is a function of the files' text, and each has been seen red on planted text below. Not here: what rustc,
//! rustfmt and clippy check.

#[path = "tidy/code.rs"]
mod code;
#[path = "tidy/reference.rs"]
mod reference;
#[path = "tidy/rules.rs"]
mod rules;

use std::{
    fs,
    path::{Path, PathBuf},
};

use code::Source;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub what: String,
}

pub fn finding(source: &Source, line: usize, what: impl Into<String>) -> Finding {
    Finding { path: source.path.clone(), line, what: what.into() }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

/// Every Rust file of the workspace, by path.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for member in ["common", "models", "agent", "sync-server", "tests"] {
        rust_files(&workspace().join(member), &mut paths);
    }
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(workspace()).expect("found below the workspace").to_string_lossy().into_owned();
        Source::new(&name, &fs::read_to_string(path).expect("a file of the workspace can be read"))
    };
    paths.iter().map(read).collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                rust_files(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Prints every finding and fails if there is one.
fn check(rule: fn(&Source) -> Vec<Finding>) {
    report(sources().iter().flat_map(rule).collect());
}

fn report(findings: Vec<Finding>) {
    let lines: Vec<String> = findings.iter().map(|f| format!("{}:{}: {}", f.path, f.line, f.what)).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

#[test]
fn every_file_opens_with_its_purpose() {
    check(rules::opens_with_doc);
}

#[test]
fn no_file_is_a_drawer_for_the_rest() {
    check(rules::has_a_real_name);
}

#[test]
fn pure_files_touch_nothing_outside() {
    let all = sources();
    for listed in rules::PURE {
        assert!(all.iter().any(|s| s.path == *listed), "{listed} is listed as pure and is not there");
    }
    report(all.iter().flat_map(rules::is_pure).collect());
}

#[test]
fn files_and_functions_stay_short() {
    check(rules::is_short);
}

#[test]
fn tests_are_run_and_wait_for_conditions() {
    check(rules::tests_are_honest);
}

#[test]
fn topic_text_stands_in_one_file() {
    check(rules::topics_in_one_place);
}

#[test]
fn sql_stands_beside_its_store() {
    check(rules::sql_in_stores);
}

#[test]
fn the_environment_is_read_in_one_file() {
    check(rules::environment_in_config);
}

#[test]
fn tasks_do_not_import_tasks() {
    check(rules::tasks_apart);
}

#[test]
fn only_main_imports_the_composition_root() {
    check(rules::root_for_main_alone);
}

#[test]
fn decision_records_are_numbered_without_gaps() {
    let folder = workspace().join("docs/decisions");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("there are decision records")
        .map(|entry| entry.expect("an entry can be read").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(rules::numbering(&names), Vec::<String>::new());
}

#[test]
fn the_configuration_reference_matches_the_structs() {
    let all = sources();
    let mut wrong = Vec::new();
    for (document, folder) in [("docs/reference/agent-config.md", "agent/src/"), ("docs/reference/server-config.md", "sync-server/src/")] {
        let text = fs::read_to_string(workspace().join(document)).unwrap_or_default();
        // What stands below api/ are requests, which no file holds.
        let of_files = |s: &&Source| s.path.starts_with(folder) && !s.path.starts_with("sync-server/src/api/");
        let keys = all.iter().filter(of_files).flat_map(reference::keys).collect();
        wrong.extend(reference::differences(document, &text, &keys));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_top_level_holds_only_what_it_may() {
    let names: Vec<String> = fs::read_dir(workspace())
        .expect("the workspace can be read")
        .map(|entry| entry.expect("an entry can be read").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(rules::strangers(&names), Vec::<String>::new());
}

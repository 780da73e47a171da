//! The rules on single files, and on lists of names.
//!
//! Invariant: a rule looks at text alone. Not here: finding the files (`tidy`), the configuration reference (`reference`).

use crate::{Finding, code::Source, finding};

/// Machines, plans and plain functions that decide; with everything under `common/`.
pub const PURE: &[&str] = &[
    "agent/src/drift.rs",
    "agent/src/epoch.rs",
    "agent/src/ledger.rs",
    "agent/src/sampling.rs",
    "agent/src/updater/event.rs",
    "agent/src/updater/machine.rs",
    "sync-server/src/broker/acl.rs",
    "sync-server/src/drift/judge.rs",
    "sync-server/src/ingest/check.rs",
    "sync-server/src/rollout/plan.rs",
    "sync-server/src/rollout/status.rs",
    "tests/src/demo/identity.rs",
    "tests/src/demo/ranges.rs",
];

/// Modules that run by themselves and are wired in the composition root.
const TASKS: &[(&str, &[&str])] =
    &[("agent/src/", &["sense", "pipeline::camera", "pipeline::sensor", "uplink"]), ("sync-server/src/", &[])];

const MAX_LINES: usize = 600;
const MAX_FUNCTION: usize = 60;

pub fn opens_with_doc(source: &Source) -> Vec<Finding> {
    match source.text.lines().next() {
        Some(first) if first.starts_with("//! ") => Vec::new(),
        _ => vec![finding(source, 1, "does not open with //!, what it is")],
    }
}

pub fn has_a_real_name(source: &Source) -> Vec<Finding> {
    let name = source.path.rsplit('/').next().unwrap_or_default();
    match name {
        "utils.rs" | "util.rs" | "helpers.rs" | "helper.rs" | "misc.rs" => vec![finding(source, 1, "name the thing and give it a file")],
        "mod.rs" => vec![finding(source, 1, "is foo/mod.rs; write foo.rs beside foo/")],
        _ => Vec::new(),
    }
}

pub fn is_pure(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("common/src/") && !PURE.contains(&source.path.as_str()) {
        return Vec::new();
    }
    const EFFECTS: [&str; 6] = ["tokio", "std::fs", "std::net", "std::thread", "::now()", "rand::rng"];
    let named = |(line, code): (usize, &str)| {
        EFFECTS.iter().find(|effect| code.contains(**effect)).map(|effect| finding(source, line, format!("names {effect} in a pure file")))
    };
    source.code_before_tests().filter_map(named).collect()
}

/// Tests are not counted: a table test is mostly rows.
pub fn is_short(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let lines = source.text.lines().count().min(source.tests_from - 1);
    if lines > MAX_LINES {
        found.push(finding(source, MAX_LINES + 1, format!("{lines} lines before its tests, and {MAX_LINES} are allowed")));
    }
    for function in source.functions().iter().filter(|f| f.first_line < source.tests_from) {
        let lines = function.last_line + 1 - function.first_line;
        if lines > MAX_FUNCTION {
            found.push(finding(
                source,
                function.first_line,
                format!("{} has {lines} lines, and {MAX_FUNCTION} are allowed", function.name),
            ));
        }
    }
    found
}

pub fn tests_are_honest(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (i, line) in source.code.lines().enumerate() {
        for attribute in ["#[ignore", "#[should_panic"] {
            if line.contains(attribute) {
                found.push(finding(source, i + 1, format!("{attribute}]: assert what must hold today")));
            }
        }
    }
    for function in source.functions().iter().filter(|f| f.is_test) {
        if let Some(at) = function.body.lines().position(|line| line.contains("sleep(")) {
            found.push(finding(
                source,
                function.first_line + at,
                format!("{} sleeps; wait for a condition with a deadline", function.name),
            ));
        }
    }
    found
}

pub fn topics_in_one_place(source: &Source) -> Vec<Finding> {
    if source.path == "common/src/topic.rs" || source.path.starts_with("tests/") {
        return Vec::new();
    }
    let is_topic = |text: &str| text.contains("wayside/v") || ["/up/", "/dn/"].iter().any(|part| text.contains(part));
    strings_before_tests(source, is_topic, "topic text outside of common/src/topic.rs")
}

pub fn sql_in_stores(source: &Source) -> Vec<Finding> {
    const STORES: [&str; 5] = ["sync-server/src/db/", "agent/src/state.rs", "agent/src/state/", "agent/src/spool.rs", "agent/src/spool/"];
    if source.path.starts_with("tests/") || STORES.iter().any(|store| source.path.starts_with(store)) {
        return Vec::new();
    }
    const VERBS: [&str; 8] =
        ["SELECT ", "INSERT ", "UPDATE ", "DELETE FROM ", "CREATE TABLE ", "CREATE INDEX ", "PRAGMA ", "BEGIN IMMEDIATE"];
    let is_sql = |text: &str| VERBS.iter().any(|verb| text.trim_start().starts_with(verb));
    strings_before_tests(source, is_sql, "SQL outside of db/, state and spool")
}

fn strings_before_tests(source: &Source, is: impl Fn(&str) -> bool, what: &str) -> Vec<Finding> {
    let before = source.strings.iter().filter(|(line, text)| *line < source.tests_from && is(text));
    before.map(|(line, _)| finding(source, *line, what)).collect()
}

pub fn environment_in_config(source: &Source) -> Vec<Finding> {
    if source.path.ends_with("/config.rs") || source.path.starts_with("tests/") {
        return Vec::new();
    }
    let reads = source.code_before_tests().filter(|(_, code)| code.contains("env::var"));
    reads.map(|(line, _)| finding(source, line, "reads the environment outside of config.rs")).collect()
}

pub fn tasks_apart(source: &Source) -> Vec<Finding> {
    let Some((crate_path, module)) = module_of(source) else { return Vec::new() };
    let Some((_, named)) = TASKS.iter().find(|(path, _)| *path == crate_path) else { return Vec::new() };
    let is_task = |module: &str| named.contains(&module) || module.ends_with("::task");
    if !is_task(&module) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (line, code) in source.code_before_tests() {
        for used in uses_of_crate(code) {
            let other = named.iter().any(|task| used == *task || used.starts_with(&format!("{task}::"))) || used.contains("::task");
            if other && used != module && !used.starts_with(&format!("{module}::")) {
                found.push(finding(source, line, format!("the task {module} imports the task {used}")));
            }
        }
    }
    found
}

/// Paths after `crate::` on a line.
fn uses_of_crate(code: &str) -> Vec<&str> {
    let path = |rest: &str| rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
    code.match_indices("crate::").map(|(at, found)| &code[at + found.len()..]).map(|rest| &rest[..path(rest)]).collect()
}

/// `agent/src/updater/task.rs` → (`agent/src/`, `updater::task`).
fn module_of(source: &Source) -> Option<(&str, String)> {
    let at = source.path.find("/src/")? + "/src/".len();
    Some((&source.path[..at], source.path[at..].strip_suffix(".rs")?.replace('/', "::")))
}

pub fn root_for_main_alone(source: &Source) -> Vec<Finding> {
    const ROOTS: [(&str, &str); 2] = [("agent/src/", "agent"), ("sync-server/src/", "server")];
    let Some((crate_path, module)) = module_of(source) else { return Vec::new() };
    let Some((_, root)) = ROOTS.iter().find(|(path, _)| *path == crate_path) else { return Vec::new() };
    if module == "main" || module == *root || module.starts_with(&format!("{root}::")) {
        return Vec::new();
    }
    let imports = |code: &str| uses_of_crate(code).iter().any(|used| used == root || used.starts_with(&format!("{root}::")));
    let lines = source.code_before_tests().filter(|(_, code)| imports(code) || in_crate_group(code, root));
    lines.map(|(line, _)| finding(source, line, format!("imports the composition root {root}.rs, which is for main.rs alone"))).collect()
}

/// `use crate::{broker, server::Server};` names the root inside braces.
fn in_crate_group(code: &str, root: &str) -> bool {
    let Some((_, group)) = code.split_once("crate::{") else { return false };
    group.split([',', '{', '}', ';']).map(str::trim).any(|part| part == root || part.starts_with(&format!("{root}::")))
}

/// What is wrong with the names of the decision records.
pub fn numbering(names: &[String]) -> Vec<String> {
    let wrong = |(i, name): (usize, &String)| {
        let expected = format!("{:04}-", i + 1);
        (!name.starts_with(&expected) || !name.ends_with(".md")).then(|| format!("{name} stands where {expected}….md should"))
    };
    names.iter().enumerate().filter_map(wrong).collect()
}

/// Names that have no business at the top level.
pub fn strangers(names: &[String]) -> Vec<String> {
    const ALLOWED: [&str; 13] = [
        "Cargo.toml",
        "Cargo.lock",
        "Justfile",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "agent",
        "common",
        "cross",
        "docs",
        "models",
        "sync-server",
        "tests",
    ];
    // Built or written here (the demo's report), and ignored by git.
    const LOCAL: [&str; 2] = ["target", "target-cross"];
    let known = |name: &str| name.starts_with('.') || name.ends_with(".json") || ALLOWED.contains(&name) || LOCAL.contains(&name);
    names.iter().filter(|name| !known(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        rule: fn(&Source) -> Vec<Finding>,
        path: &'static str,
        text: String,
        /// The lines on which it is red.
        red: &'static [usize],
    }

    fn case(rule: fn(&Source) -> Vec<Finding>, path: &'static str, text: impl Into<String>, red: &'static [usize]) -> Case {
        Case { rule, path, text: text.into(), red }
    }

    fn lines(n: usize, line: &str) -> String {
        format!("{line}\n").repeat(n)
    }

    fn check(cases: Vec<Case>) {
        for (i, Case { rule, path, text, red }) in cases.into_iter().enumerate() {
            let found = rule(&Source::new(path, &text));
            assert_eq!(found.iter().map(|f| f.line).collect::<Vec<_>>(), red, "case {i}, {path}: {found:?}\n{text}");
        }
    }

    #[test]
    fn planted_faults_of_form_are_found() {
        check(vec![
            case(opens_with_doc, "agent/src/a.rs", "//! What it is.\n", &[]),
            case(opens_with_doc, "agent/src/a.rs", "use std::fs;\n", &[1]),
            case(opens_with_doc, "agent/src/a.rs", "", &[1]),
            case(has_a_real_name, "agent/src/utils.rs", "", &[1]),
            case(has_a_real_name, "agent/src/source/mod.rs", "", &[1]),
            case(has_a_real_name, "agent/src/source.rs", "", &[]),
            case(is_short, "agent/src/a.rs", lines(600, "//"), &[]),
            case(is_short, "agent/src/a.rs", lines(601, "//"), &[601]),
            case(is_short, "agent/src/a.rs", lines(600, "//") + "#[cfg(test)]\nmod tests {\n}\n", &[]),
            case(is_short, "agent/src/a.rs", format!("fn f() {{\n{}}}\n", lines(58, "x();")), &[]),
            case(is_short, "agent/src/a.rs", format!("//!\nfn f() {{\n{}}}\n", lines(59, "x();")), &[2]),
            case(is_short, "agent/src/a.rs", format!("#[cfg(test)]\nmod tests {{\nfn f() {{\n{}}}\n}}\n", lines(90, "x();")), &[]),
        ]);
    }

    #[test]
    fn planted_effects_in_pure_files_are_found() {
        check(vec![
            case(is_pure, "common/src/a.rs", "use std::fs;\nlet now = Instant::now();\n", &[1, 2]),
            case(is_pure, "common/src/a.rs", "// std::fs is not used\nlet text = \"tokio\";\n", &[]),
            case(is_pure, "common/src/a.rs", "#[cfg(test)]\nmod tests {\nuse std::fs;\n}\n", &[]),
            case(is_pure, "agent/src/a.rs", "use std::fs;\n", &[]),
            case(
                is_pure,
                "tests/src/demo/ranges.rs",
                "std::thread::spawn(f);\nrand::rng();\nuse tokio::sync;\nstd::net::x();\n",
                &[1, 2, 3, 4],
            ),
        ]);
    }

    #[test]
    fn planted_tests_that_prove_nothing_are_found() {
        check(vec![
            case(tests_are_honest, "agent/src/a.rs", "#[test]\n#[ignore]\nfn t() {}\n", &[2]),
            case(tests_are_honest, "agent/src/a.rs", "#[test]\n#[should_panic(expected = \"x\")]\nfn t() {}\n", &[2]),
            case(tests_are_honest, "agent/src/a.rs", "#[test]\nfn t() {\n    a();\n    thread::sleep(d);\n}\n", &[4]),
            case(tests_are_honest, "agent/src/a.rs", "#[tokio::test]\nasync fn t() {\n    sleep(d).await;\n}\n", &[3]),
            case(tests_are_honest, "agent/src/a.rs", "fn poll() {\n    thread::sleep(d);\n}\n#[test]\nfn t() { poll(); }\n", &[]),
        ]);
    }

    #[test]
    fn planted_text_in_the_wrong_place_is_found() {
        check(vec![
            case(topics_in_one_place, "agent/src/a.rs", "let t = \"wayside/v1/f/d\";\nlet u = format!(\"{d}/up/batch\");\n", &[1, 2]),
            case(topics_in_one_place, "common/src/topic.rs", "let t = \"wayside/v1/f/d\";\n", &[]),
            case(topics_in_one_place, "agent/src/a.rs", "// wayside/v1/f/d\n", &[]),
            case(sql_in_stores, "sync-server/src/api/a.rs", "db.query(\"SELECT 1\");\nlet s = r#\"\n   INSERT INTO t\"#;\n", &[1, 2]),
            case(sql_in_stores, "sync-server/src/db/sqlite/a.rs", "db.query(\"SELECT 1\");\n", &[]),
            case(sql_in_stores, "agent/src/spool.rs", "db.query(\"PRAGMA x\");\n", &[]),
            case(sql_in_stores, "agent/src/a.rs", "let help = \"SELECTED\";\n", &[]),
            case(environment_in_config, "agent/src/a.rs", "std::env::var(\"X\");\nenv::var_os(\"X\");\n", &[1, 2]),
            case(environment_in_config, "agent/src/config.rs", "std::env::var(\"X\");\n", &[]),
        ]);
    }

    #[test]
    fn planted_imports_against_the_grain_are_found() {
        check(vec![
            case(tasks_apart, "agent/src/uplink.rs", "use crate::sense::Sensed;\nuse crate::spool;\n", &[1]),
            case(tasks_apart, "agent/src/uplink.rs", "use crate::uplink::Part;\n", &[]),
            case(tasks_apart, "agent/src/updater/task.rs", "use crate::uplink;\nuse crate::updater::slots;\n", &[1]),
            case(tasks_apart, "sync-server/src/drift/task.rs", "use crate::rollout::task::Rollout;\n", &[1]),
            case(tasks_apart, "agent/src/agent.rs", "use crate::sense;\n", &[]),
            case(root_for_main_alone, "agent/src/sense.rs", "use crate::agent::Agent;\n", &[1]),
            case(root_for_main_alone, "sync-server/src/api.rs", "use crate::{broker, server::Server};\n", &[1]),
            case(root_for_main_alone, "sync-server/src/main.rs", "use crate::server::Server;\n", &[]),
            case(root_for_main_alone, "sync-server/src/server.rs", "use crate::server::Part;\n", &[]),
            case(root_for_main_alone, "sync-server/src/api.rs", "use crate::server_time;\n", &[]),
        ]);
    }

    #[test]
    fn planted_names_are_found() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert!(numbering(&names(&["0001-a.md", "0002-b.md"])).is_empty());
        assert_eq!(numbering(&names(&["0001-a.md", "0003-b.md"])).len(), 1);
        assert_eq!(numbering(&names(&["0001-a.md", "0001-b.md"])).len(), 1);
        assert_eq!(numbering(&names(&["0001-a.txt"])).len(), 1);
        assert!(strangers(&names(&["Cargo.toml", ".ci", "docs", "target"])).is_empty());
        assert_eq!(strangers(&names(&["notes.txt", "agent"])), ["notes.txt"]);
    }
}

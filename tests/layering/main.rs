//! The house rules that a machine can see: imports point down, no circle of files stands inside a
//! room, files and functions stay small, `unsafe` stays in its room; scenarios that a list names are
//! there, and runbooks that alerts name.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the tree must fail")]

mod alerts;
mod allowed;
mod circles;
mod comments;
mod functions;
mod merges;
mod parity;
mod phrases;
mod tree;

use functions::Function;
use tree::{File, Import, files};

/// Lowest first; a room imports only from those before it.
const LAYERS: &[&str] = &[
    "sys",
    "lifecycle",
    "identity",
    "net",
    "observe",
    "http",
    "rpc",
    "tls",
    "credentials",
    "authority",
    "spiffe_api",
    "policy",
    "mesh",
    "relay",
    "hbone",
    "proxy",
    "roles",
    "pods",
    "config",
    "admin",
    "app",
    "guide",
    "cli",
];

/// Rooms whose errors are types: who calls them decides by the error.
const TYPED_ERRORS: &[&str] = &["hbone", "proxy", "relay"];

const LONGEST_FILE: usize = 400;
const LONGEST_FUNCTION: usize = 80;
const MOST_PARAMETERS: usize = 6;

/// One sentence for each place that breaks a rule, or the test passes. What is `allowed` for now
/// breaks it still, or it is struck from the list.
fn none(rule: &str, broken: &[String], allowed: &[&str]) {
    let more: Vec<&str> = broken
        .iter()
        .map(String::as_str)
        .filter(|b| !allowed.iter().any(|a| b.starts_with(a)))
        .collect();
    assert!(more.is_empty(), "{rule}:\n  {}", more.join("\n  "));
    let mended: Vec<&&str> =
        allowed.iter().filter(|a| !broken.iter().any(|b| b.starts_with(**a))).collect();
    assert!(mended.is_empty(), "{rule}: strike from tests/layering/allowed.rs: {mended:?}");
}

#[test]
fn imports_point_down() {
    let rank = |room: &str| LAYERS.iter().position(|l| *l == room);
    let mut broken = Vec::new();
    for file in files() {
        let Some(own) = rank(file.room()) else { continue }; // lib.rs, main.rs
        for Import { path, .. } in &file.imports {
            let used = path.first().map_or("", String::as_str);
            if used != file.room() && rank(used).is_none_or(|r| r >= own) {
                broken.push(format!("{}: `{}` imports `{used}`", file.path, file.room()));
            }
        }
    }
    none("a room imports only from the rooms below it", &broken, &[]);
}

#[test]
fn no_circle_of_files_stands_inside_a_room() {
    none("files of a room use each other in a circle", &circles::found(&files()), allowed::CIRCLES);
}

#[test]
fn files_are_short() {
    let long = |f: &&File| f.lines > LONGEST_FILE;
    let said = |f: &File| format!("{} has {} lines", f.path, f.lines);
    let broken: Vec<String> = files().iter().filter(long).map(said).collect();
    none("a file has at most 400 lines", &broken, allowed::LONG_FILES);
}

/// Nine files of ten are shorter than this.
const MOST_ARE_SHORTER: usize = 300;

#[test]
fn nine_files_of_ten_are_shorter_still() {
    let mut lines: Vec<usize> = files().iter().map(|f| f.lines).collect();
    lines.sort_unstable();
    let ninetieth = lines[lines.len() * 9 / 10];
    assert!(ninetieth < MOST_ARE_SHORTER, "the 90th percentile is {ninetieth} lines");
}

#[test]
fn each_scenario_that_the_list_beside_ztunnel_names_exists() {
    let (named, unknown) = parity::unknown();
    assert!(named > 100, "{named} scenarios: is the list read?");
    assert!(unknown.is_empty(), "tests/ambient/parity.md: nobody has {}", unknown.join(", "));
}

#[test]
fn each_alert_has_a_runbook_that_is_there_and_the_manifest_has_the_same_alerts() {
    let (alerts, faults) = alerts::without_runbook();
    assert!(alerts > 20, "{alerts} alerts: is the file read?");
    none("an alert names its runbook", &faults, &[]);
    assert!(alerts::manifest_is_in_step(), "run scripts/deploy.sh --write");
}

#[test]
fn no_file_has_the_marks_of_a_conflict() {
    none("a merge is whole", &merges::left(), &[]);
}

#[test]
fn phrases_that_were_mended_do_not_come_back() {
    none("a user understands a sentence at the first reading", &phrases::found(), &[]);
}

#[test]
fn a_doc_comment_is_understood_alone_and_in_the_words_of_the_field() {
    none("a doc comment is understood alone", &comments::found(), allowed::COMMENTS);
}

#[test]
fn functions_are_short_and_take_few_parameters() {
    let mut broken = Vec::new();
    for file in files() {
        for Function { name, first, lines, parameters } in functions::of(&file.text) {
            let path = &file.path;
            if lines > LONGEST_FUNCTION {
                broken.push(format!("{path}: `{name}` has {lines} lines, from line {first} on"));
            }
            if parameters > MOST_PARAMETERS {
                broken.push(format!(
                    "{path}: `{name}` takes {parameters} parameters, in line {first}"
                ));
            }
        }
    }
    none("a function has at most 80 lines and 6 parameters", &broken, allowed::LONG_FUNCTIONS);
}

#[test]
fn errors_of_the_data_path_are_types() {
    let mut broken = Vec::new();
    for file in files().iter().filter(|f| TYPED_ERRORS.contains(&f.room())) {
        for (n, line) in file.text.lines().enumerate() {
            if line.contains("Result<") && line.contains(", String>") {
                broken.push(format!("{}:{}: {}", file.path, n + 1, line.trim()));
            }
        }
    }
    none("an error of the data path is not text", &broken, allowed::TEXT_ERRORS);
}

#[test]
fn unsafe_stays_in_sys() {
    for file in files() {
        let has =
            file.text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains("unsafe {"));
        assert!(file.room() == "sys" || !has, "{} has unsafe code", file.path);
    }
}

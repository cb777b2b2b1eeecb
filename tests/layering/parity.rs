//! The list of what ztunnel does (`tests/ambient/parity.md`) names scenarios that exist.

use std::{collections::BTreeSet, fs};

use crate::tree::texts;

/// The scenarios that the list names, and of those the ones that nobody defines.
pub(crate) fn unknown() -> (usize, Vec<String>) {
    let list = fs::read_to_string("tests/ambient/parity.md").unwrap();
    let rows = list.lines().filter(|line| line.starts_with("| "));
    let named: BTreeSet<&str> = rows
        .filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | "))
        .flat_map(|(_, scenarios)| scenarios.split('`').skip(1).step_by(2))
        .collect();
    let all = texts(&["src", "tests/", "scripts/interop"], &["rs", "sh"]);
    let defined: BTreeSet<String> = all.iter().flat_map(|text| names(text)).collect();
    let unknown = named.iter().filter(|name| !defined.contains(**name));
    (named.len(), unknown.map(|name| (*name).to_owned()).collect())
}

/// Tests and stories: `fn name(`, `"module::name"`, `story_name() {`.
fn names(text: &str) -> Vec<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let word = |rest: &str| rest.chars().take_while(|c| is_of_name(*c)).collect::<String>();
    let after = |mark: &'static str| text.match_indices(mark).map(move |(at, _)| at + mark.len());
    let stories = text.lines().filter(|line| line.starts_with("story_")).map(word);
    let tests = after("fn ").chain(after("::")).map(|at| word(&text[at..]));
    stories.chain(tests).collect()
}

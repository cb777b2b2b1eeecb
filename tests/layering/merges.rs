//! What a merge by hand has left behind.

use std::fs;

use crate::tree;

const BEGINNINGS: [&str; 3] = ["<<<<<<< ", ">>>>>>> ", "||||||| "];

/// Each line that begins as the marks of git around a conflict, in all that is text.
pub(crate) fn left() -> Vec<String> {
    let folders =
        ["src", "tests", "scripts", "deploy", "benches", ".github", "README.md", "CHANGELOG.md"];
    let endings = ["rs", "md", "py", "sh", "yaml", "yml", "toml", "json", "txt", "service"];
    let mut left = Vec::new();
    for path in tree::paths(&folders, &endings) {
        let text = fs::read_to_string(&path).unwrap();
        let marked = |line: &&str| BEGINNINGS.iter().any(|mark| line.starts_with(mark));
        left.extend(text.lines().find(marked).map(|line| format!("{path}: {line}")));
    }
    left
}

//! Phrases that must not come back into the doc comments of `src`: an editor shows one at a time, so
//! each has to be understood alone, in the words of the field.

use std::fs;

use crate::{
    phrases::{Phrase, in_words},
    tree,
};

/// In lower case, as whole words; tests under `src` are read too.
const PHRASES: &[Phrase] = &[
    ("whom we", "name the peer, target or caller", &[]),
    ("believe", "trust", &[]),
    ("believes", "trusts", &[]),
    ("believed", "trusted", &[]),
    ("held to", "checked against", &[]),
    ("come to be", "be established", &[]),
    ("be had", "is available, can be read", &[]),
    ("may be here", "is allowed", &[]),
    ("nobody may", "all calls are denied", &[]),
    ("what becomes of", "what happens to …, how … is treated", &[]),
];

/// What a comment may not begin with, in lower case: the item before it is not shown with it, and a
/// subject comes first.
const BEGINNINGS: &[&str] = &[
    "the same,",
    "the same as",
    "the same for",
    "the same in",
    "the same of",
    "the same on",
    "the same to",
    "the same where",
    "the same with",
    "whom",
];

/// What is wrong with the doc comments of `src`: `path: ` and the phrase come first, as the list of
/// what is allowed for now names them.
pub(crate) fn found() -> Vec<String> {
    let mut found = Vec::new();
    for path in tree::paths(&["src"], &["rs"]) {
        let text = fs::read_to_string(&path).unwrap();
        for (line, comment) in comments(&text) {
            found.extend(wrong(&comment).map(|why| format!("{path}: {why} (line {line})")));
        }
    }
    found
}

fn wrong(comment: &str) -> impl Iterator<Item = String> + use<> {
    let lower = comment.to_lowercase();
    let begins = |with: &&&str| {
        lower.strip_prefix(**with).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    let first = BEGINNINGS.iter().find(begins);
    let first = first.map(|words| format!("`{words}` says nothing alone: name what is meant"));
    first.into_iter().chain(in_words(comment, PHRASES))
}

/// Each doc comment as one line of text, with the line that it begins at.
fn comments(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let Some(words) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
            open = false;
            continue;
        };
        match found.last_mut().filter(|_| open) {
            Some((_, comment)) => {
                comment.push(' ');
                comment.push_str(words.trim());
            }
            None => found.push((at + 1, words.trim().to_owned())),
        }
        open = true;
    }
    found
}

#[test]
fn a_comment_is_read_as_a_whole_and_by_its_beginning() {
    let text =
        "/// What peers are held\n    /// to now.\nfn a() {}\n/// The same, later.\nfn b() {}\n";
    let all = comments(text);
    assert_eq!(all.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 4]);
    let wrong = |text: &str| wrong(text).collect::<Vec<_>>();
    assert!(wrong(&all[0].1)[0].starts_with("`held to`"));
    assert!(wrong(&all[1].1)[0].starts_with("`the same,`"));
    assert!(wrong("The same pool, which trusts others. Not the same as before.").is_empty());
}

//! Words that are known, and what somebody probably meant who wrote another.

use crate::identity::has_long_run;

/// Longer words are not compared with those that are known.
const WORD: usize = 64;

/// Keys of secrets that are named by their file only, and the key of that file.
const SECRETS: [(&str, &str); 4] = [
    ("password", "passwordFile"),
    ("pass", "passwordFile"),
    ("storepass", "passwordFile"),
    ("pin", "pinFile"),
];

/// Whether a key is a word. Another, such as a line of a file of passwords, is not told.
pub(super) fn is_name(key: &str) -> bool {
    let is_of_name = |c: char| c.is_alphanumeric() || "-_./".contains(c);
    key.len() <= WORD && key.chars().all(is_of_name) && !has_long_run(key)
}

/// `ALLOW or DENY`; `conn, tls or v1`.
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

pub(super) fn unknown(name: &str, known: &[&str]) -> String {
    let is_secret = |(word, file): &&(&str, &str)| *word == name && known.contains(file);
    if let Some((_, file)) = SECRETS.iter().find(is_secret) {
        let why = "takes a path: write the secret into a file and name that";
        return format!("unknown key; `{file}` {why}");
    }
    match suggest(name, known) {
        s if s.is_empty() => format!("unknown key; known here: {}", known.join(", ")),
        s => format!("unknown key{s}"),
    }
}

pub(super) fn suggest(word: &str, among: &[&str]) -> String {
    nearest(word, among).map_or(String::new(), |near| format!("; did you mean {near}?"))
}

/// The one of these words that was probably to be written.
pub(super) fn nearest<'a>(word: &str, among: &[&'a str]) -> Option<&'a str> {
    if word.len() > WORD {
        return None;
    }
    // What is cut short is meant rather than what has as many letters.
    let lower = word.to_ascii_lowercase();
    let begins = |known: &&&str| word.len() > 1 && known.to_ascii_lowercase().starts_with(&lower);
    if let Some(whole) = among.iter().filter(begins).min_by_key(|known| known.len()) {
        return Some(whole);
    }
    let (distance, near) =
        among.iter().map(|w| (strsim::damerau_levenshtein(word, w), *w)).min()?;
    (distance <= 1 + word.chars().count() / 3).then_some(near)
}

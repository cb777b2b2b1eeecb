//! The probable mistake in a text that is not YAML, in plain words. The parser only says which token it
//! expected, and that is rarely the character that is missing.

use saphyr_parser::ScanError;

use super::{Fault, words::is_name};
use crate::identity::without_keys;

/// A probable mistake: where it is, and what to write instead.
struct Cause {
    line: usize,
    /// Columns from 1: of the first character, and behind the last.
    columns: (usize, Option<usize>),
    message: String,
}

/// The fault of a text that the parser gave up.
pub(super) fn fault(text: &str, error: &ScanError) -> Fault {
    let (line, column) = (error.marker().line(), error.marker().col() + 1);
    let lines: Vec<_> = text.lines().collect();
    let cause = tab(&lines, line, error.info())
        .or_else(|| cause(&lines[..line.min(lines.len())], (line, column), error.info()))
        .unwrap_or_else(|| Cause {
            line,
            columns: (column, None),
            message: without_keys(error.info()).into_owned(),
        });
    let (column, end_column) = cause.columns;
    let message = format!("not YAML: {}", cause.message);
    Fault { end_column, ..Fault::at(cause.line, column, message) }
}

/// A tab in the indentation of the line, or of one below a value that may go on there.
fn tab(lines: &[&str], line: usize, info: &str) -> Option<Cause> {
    let some = if info.contains("tab") { 3 } else { 1 };
    let mut numbered = lines.iter().enumerate().skip(line - 1).take(some);
    let (number, column) = numbered.find_map(|(number, text)| {
        let indent = &text[..text.len() - text.trim_start().len()];
        Some((number + 1, indent.find('\t')? + 1))
    })?;
    let message = "a tab in the indentation; use spaces, as many as the lines around it have";
    Some(Cause { line: number, columns: (column, None), message: message.into() })
}

/// The cause, if it is one of the usual; `lines` end with that of the error.
fn cause(lines: &[&str], (line, column): (usize, usize), info: &str) -> Option<Cause> {
    let here = lines.get(line - 1).copied().unwrap_or_default();
    let at = |column, message: &str| {
        Some(Cause { line, columns: (column, None), message: message.into() })
    };
    let has = |words: &[&str]| words.iter().any(|word| info.contains(word));
    if has(&["duplicated key"]) {
        return Some(duplicated(lines, (line, column)));
    }
    if has(&["unknown anchor", "anchor or alias"]) {
        let why = "a value that begins with * means an alias in YAML; put it in quotes, such as \"*.example.com\"";
        return at(column, why);
    }
    if let Some(rest) = info.strip_prefix("unexpected character: `") {
        let first = rest.chars().next()?;
        return at(column, &format!("a value cannot begin with {first}; put it in quotes"));
    }
    if has(&["mapping values are not allowed", "simple key expect"]) {
        return lacks_space(lines).or_else(|| {
            let before = here.char_indices().nth(column - 1).map_or(here, |(end, _)| &here[..end]);
            match before.contains(": ") {
                true => at(column, "a second colon in the value; put the value in quotes"),
                false if has(&["mapping values"]) => at(
                    column,
                    "a key below a line that has a value already; put it in line with the key above",
                ),
                false => lacks_colon(lines),
            }
        });
    }
    if has(&["did not find expected key", "did not find expected '-' indicator"]) {
        let indent = here.len() - here.trim_start().len();
        return match column <= indent + 1 {
            true => at(
                column,
                "the indentation fits no line above; put the keys of one mapping, and the `-` of one \
                 list, at one depth",
            ),
            // The first character of the item, or the end of a `-` alone.
            false if here.trim_start().starts_with('-') && column <= entry_of(here).0 => at(
                indent + 1,
                "a list item outside of a list; put the `-` below the key of the list, at the depth \
                 of its other items",
            ),
            false => at(column, "something follows the value; put the whole value in quotes"),
        };
    }
    let usual = [
        (
            "found unexpected end of stream",
            "a quotation mark that nothing closes; put another behind the value",
        ),
        (
            "trailing content after",
            "something follows the closing quotation mark; put the whole value in quotes",
        ),
        ("unknown escape character", "a backslash in double quotes; use single quotes"),
        (
            "block sequence entries",
            "a list in the line of its key; put each `- ` in a line of its own",
        ),
        (
            "expected ',' or",
            "a bracket is not closed, or a comma is missing; write [a, b] or { key: value }",
        ),
        (
            "illegal placement of ':'",
            "a bracket is not closed, or a comma is missing; write [a, b] or { key: value }",
        ),
    ];
    let (_, why) = usual.iter().find(|(word, _)| info.contains(word))?;
    at(column, why)
}

/// A key that its mapping has already.
fn duplicated(lines: &[&str], (line, column): (usize, usize)) -> Cause {
    let Some((key, value)) = lines.get(line - 1).and_then(|text| key_at(text, column)) else {
        let message = "a key that its mapping has already; remove one of the two".into();
        return Cause { line, columns: (column, None), message };
    };
    let first = first_of(key, &lines[..line - 1], column);
    let first = first.map_or(String::new(), |first| format!(", first in line {first}"));
    let is_of_lines = value.is_empty() || value.starts_with('#');
    let advice = match is_of_lines {
        true => format!("put the entries of both under one `{key}:`"),
        false => "remove one of the two".to_owned(),
    };
    let message = format!("{key} is there twice{first}; {advice}");
    Cause { line, columns: (column, Some(column + key.len())), message }
}

/// The key at a column, which is a word, and what stands behind its colon.
fn key_at(text: &str, column: usize) -> Option<(&str, &str)> {
    let (start, _) = text.char_indices().nth(column - 1)?;
    let (key, value) = text[start..].split_once(':')?;
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphabetic()) && is_name(key);
    is_key.then_some((key, value.trim()))
}

/// The last of these lines that has the key, in the block that goes on below them.
fn first_of(key: &str, lines: &[&str], column: usize) -> Option<usize> {
    let numbered = lines.iter().enumerate().map(|(n, text)| (n + 1, *text)).rev();
    let entries = numbered.filter(|(_, text)| {
        let text = text.trim_start();
        !text.is_empty() && !text.starts_with('#')
    });
    for (number, text) in entries {
        let at = entry_of(text).0;
        if at == column && key_at(text, column).is_some_and(|(found, _)| found == key) {
            return Some(number);
        }
        // What is further left, or begins an item, is above the mapping.
        if at < column || at == column && text.trim_start().starts_with('-') {
            return None;
        }
    }
    None
}

/// `key:value` in the last line, or the last before it that has anything in it.
fn lacks_space(lines: &[&str]) -> Option<Cause> {
    last_two(lines).into_iter().find_map(|(number, text)| {
        let (column, entry) = entry_of(text);
        let key = glued_key(entry)?;
        let end = column + key.chars().count() + 1;
        let message = no_space_behind(key);
        Some(Cause { line: number, columns: (column, Some(end)), message })
    })
}

/// The key of `key:value`, which YAML takes for one word.
pub(super) fn glued_key(entry: &str) -> Option<&str> {
    let (key, value) = entry.split_once(':')?;
    let is_glued = !value.is_empty() && !value.starts_with([' ', '/', '\\', ':']);
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphabetic()) && is_name(key);
    (is_glued && is_key).then_some(key)
}

/// What is said where a key that is known is followed by a value without a colon.
pub(super) fn no_colon_behind(key: &str) -> String {
    format!("there is no colon behind {key}; write `{key}: ` and then the value")
}

/// What is said of it.
pub(super) fn no_space_behind(key: &str) -> String {
    format!("no space behind the colon of {key}; write `{key}: ` and then the value")
}

/// A line that is neither a key with its value nor an item.
fn lacks_colon(lines: &[&str]) -> Option<Cause> {
    let (number, text) = last_two(lines).into_iter().find(|(_, text)| !text.contains(':'))?;
    let message = "a line without a colon among keys; write `key: value`".into();
    Some(Cause { line: number, columns: (entry_of(text).0, None), message })
}

/// The last line, and the last before it, of those that are not empty, numbered from 1.
fn last_two<'a>(lines: &[&'a str]) -> Vec<(usize, &'a str)> {
    let numbered = lines.iter().enumerate().map(|(n, line)| (n + 1, *line)).rev();
    let is_something = |(_, line): &(usize, &str)| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with('#')
    };
    numbered.filter(is_something).take(2).collect()
}

/// What stands in a line behind the `-` of a list, with its column.
fn entry_of(line: &str) -> (usize, &str) {
    let entry = line.trim_start_matches([' ', '-']);
    (line.len() - entry.len() + 1, entry)
}

#[cfg(test)]
mod tests {
    use crate::config::{Files, check_standalone_for, parse};

    #[test]
    fn the_usual_mistakes_are_told_in_plain_words() {
        for (text, says) in [
            (
                "services:\n- mode:server\n  listen: :8443\n",
                "2:3: not YAML: no space behind the colon of mode; write `mode: ` and then the value",
            ),
            (
                "services:\n- listen: :8443\n  mode:server\n  target: a\n",
                "3:3: not YAML: no space behind the colon of mode;",
            ),
            (
                "ca: {}\ntrustDomain:td\n",
                "2:1: not YAML: no space behind the colon of trustDomain;",
            ),
            (
                "ca: {}\ntrustDomain:td\n# why\n\nservices: []\n",
                "2:1: not YAML: no space behind the colon of trustDomain;",
            ),
            (
                "ca: {}\ntrustDomain\nservices: []\n",
                "2:1: not YAML: a line without a colon among keys; write `key: value`",
            ),
            (
                "a:\n  dnsNames: [*.example.com]\n",
                "2:14: not YAML: a value that begins with * means an alias in YAML; put it in quotes, such as \"*.example.com\"",
            ),
            ("a:\n- *\n", "2:3: not YAML: a value that begins with *"),
            (
                "services:\n- mode: server\n\tlisten: a\n",
                "3:1: not YAML: a tab in the indentation; use spaces",
            ),
            ("services:\n\t- mode: server\n", "2:1: not YAML: a tab in the indentation"),
            ("a: @x\n", "1:4: not YAML: a value cannot begin with @; put it in quotes"),
            ("a: b: c\n", "1:5: not YAML: a second colon in the value; put the value in quotes"),
            ("a: x\n  b: 1\n", "2:4: not YAML: a key below a line that has a value already"),
            ("a:\n  b: 1\n c: 2\n", "3:2: not YAML: the indentation fits no line above"),
            (
                "a: [::1]:80\n",
                "1:9: not YAML: something follows the value; put the whole value in quotes",
            ),
            ("a: \"x\n", "1:4: not YAML: a quotation mark that nothing closes"),
            ("a: 'it's'\n", "1:8: not YAML: something follows the closing quotation mark"),
            ("a: \"C:\\path\"\n", "1:4: not YAML: a backslash in double quotes; use single quotes"),
            ("a: [1, 2\nb: 3\n", "2:2: not YAML: a bracket is not closed"),
            (
                "services:\n- name: a\ndrain: {}\nservices:\n- name: b\n",
                "4:1: not YAML: services is there twice, first in line 1; put the entries of both \
                 under one `services:`",
            ),
            (
                "services:\n- name: a\n  name: b\n",
                "3:3: not YAML: name is there twice, first in line 2; remove one of the two",
            ),
            ("a: x\n- b\n", "2:1: not YAML: a list item outside of a list; put the `-` below"),
            ("a:\n  b: x\n  - c: d\n", "3:3: not YAML: a list item outside of a list;"),
            ("a:\n- b\nc: [x]\n- d\n", "4:1: not YAML: a list item outside of a list;"),
            ("a: { b: 1, b: 2 }\n", "1:12: not YAML: b is there twice; remove one of the two"),
            ("a: - b\n", "1:4: not YAML: a list in the line of its key"),
        ] {
            let said = parse("f", text).unwrap_err().to_string();
            assert!(said.starts_with(&format!("f:{says}")), "{text}{said}");
        }
    }

    #[test]
    fn a_key_and_its_value_without_a_space_are_known_where_they_are_yaml_nevertheless() {
        let services = |text: &str| {
            let read = check_standalone_for("f", text, Files::Elsewhere);
            read.map(drop).unwrap_err().to_string()
        };
        let says = "no space behind the colon of mode; write `mode: ` and then the value";
        for text in ["services:\n- mode:server\n", "services:\n- { mode:server, listen: ':1' }\n"] {
            let said = services(text);
            assert!(said.contains(says), "{said}");
        }
        let said = services("services:\n- listen { name: x }\n");
        let says = "there is no colon behind listen; write `listen: ` and then the value";
        assert!(said.contains(says), "{said}");
        let said = services("services:\n- hunter2:secret\n");
        assert!(said.contains("expected a mapping") && !said.contains("hunter2"), "{said}");
    }

    #[test]
    fn what_is_not_told_is_not_quoted() {
        for text in [
            "hunter2: 1\nhunter2: 2\n",
            "a:\n- password:hunter2\n  b: 1\n",
            "a: @hunter2\n",
            "a: *hunter2\n",
            "b: 1\nhunter2\n",
        ] {
            let said = parse("f", text).unwrap_err().to_string();
            assert!(said.contains("not YAML") && !said.contains("hunter2"), "{said}");
        }
    }
}

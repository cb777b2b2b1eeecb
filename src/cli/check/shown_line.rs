//! The line of a file beside what is wrong with it. What stands there may be a secret: a password
//! under a key that nobody knows, a file that holds something else. So nothing is shown but the keys
//! that lead to the place, and the value there, if the message quotes it too and nothing about it is
//! like a secret; the rest is `…`.

use std::ops::Range;

use crate::{
    config::Fault,
    identity::{has_long_run, may_be_shown, without_keys, without_lines_of_keys},
};

/// The longest line that is shown, bytes.
const MAX_LINE: usize = 400;

/// What is shown in place of what is not.
const BLANK: &str = "…";

/// A line as it is shown.
pub(super) struct ShownLine {
    /// Its text, which is as wide as that of the file up to the place.
    pub(super) source: String,
    /// The bytes that the fault is about, at least one.
    pub(super) marked: Range<usize>,
}

impl ShownLine {
    /// The line of `fault`; `None` if nothing of it may be shown.
    pub(super) fn of(text: &str, fault: &Fault) -> Option<Self> {
        let line = text.lines().nth(fault.line.checked_sub(1)?)?;
        if line.len() > MAX_LINE {
            return None;
        }
        let (before, whole, after) = parts(line, fault);
        let name = fault.key.rsplit(['.', '[']).find(|name| !name.ends_with(']'));
        let place = place_of(whole, name.unwrap_or_default(), fault);
        let before = keys_before(before, fault, name.unwrap_or_default());
        let after = end_of(&[whole.strip_prefix(place).unwrap_or_default(), after].concat());
        if place == BLANK && !before.trim_end().ends_with(':') {
            return None;
        }
        let marked = before.len()..before.len() + place.len();
        let source = format!("{before}{place}{after}");
        let is_safe = without_keys(&source) == source && without_lines_of_keys(&source) == source;
        is_safe.then_some(Self { source, marked })
    }
}

/// The line before the place, at it, and behind it.
fn parts<'a>(line: &'a str, fault: &Fault) -> (&'a str, &'a str, &'a str) {
    let byte = |column: usize| {
        let mut chars = line.char_indices().map(|(at, _)| at);
        chars.nth(column.max(1) - 1).unwrap_or(line.len())
    };
    let start = byte(fault.column);
    let end = fault.end_column.map_or(line.len(), byte).max(start);
    let place = &line[start..end];
    let place = place.split(" #").next().unwrap_or(place).trim_end();
    (&line[..start], place, &line[start + place.len()..])
}

/// What is shown of the place.
fn place_of<'a>(place: &'a str, name: &str, fault: &Fault) -> &'a str {
    let is_plain = place.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '*'));
    let quoted = ['"', '\''].into_iter().find_map(|quote| {
        let inner = place.strip_prefix(quote)?.strip_suffix(quote)?;
        (!inner.contains(quote)).then_some(inner)
    });
    let key = place.split_once(':').filter(|(_, value)| value.is_empty() || value.starts_with(' '));
    let is_told = |value: &str| fault.message.contains(value) && may_be_shown(name, value);
    match (fault.end_column, key) {
        // Nothing is there.
        _ if place.is_empty() => " ",
        _ if place.starts_with('{') => "{…}",
        _ if place.starts_with('[') => "[…]",
        // What it is called is said anyway.
        (Some(_), None) if fault.message.starts_with("unknown key") && place == name => place,
        (Some(_), None) if is_plain && is_told(place) => place,
        (Some(_), _) if quoted.is_some_and(is_told) => place,
        // A mapping begins with a key, whose value is another matter.
        (_, Some((key, _))) if is_plain && !has_long_run(key) => key,
        _ => BLANK,
    }
}

/// What stands before the place: keys that lead there; from where something else begins, nothing but
/// the last of them.
fn keys_before(before: &str, fault: &Fault, name: &str) -> String {
    let is_word = |c: char| !c.is_whitespace() && !"-{[,:\"'?".contains(c);
    let key = before.trim_end().trim_end_matches(':').trim_end_matches(['"', '\'']);
    let has_key = before.trim_end().ends_with(':')
        && key.strip_suffix(name).is_some_and(|head| !head.ends_with(is_word));
    let (head, own) = before.split_at(match has_key {
        true => key.len() - name.len(),
        false => before.len(),
    });
    let leads = |word: &str| fault.key.split(['.', '[', ']']).any(|part| part == word);
    let mut kept = 0;
    while let Some(start) = head[kept..].find(is_word) {
        let start = kept + start;
        let end = head[start..].find(|c| !is_word(c)).map_or(head.len(), |length| start + length);
        if !leads(&head[start..end]) {
            let blank = head[start..].chars().count() - 1;
            return format!("{}{BLANK}{}{own}", &head[..start], " ".repeat(blank));
        }
        kept = end;
    }
    before.to_owned()
}

/// What stands behind it: brackets, and whether there is more.
fn end_of(after: &str) -> String {
    let after = after.trim_end();
    let more = after.find(|c: char| !"\"'}], :".contains(c));
    match more {
        Some(more) => format!("{}{BLANK}", &after[..more]),
        None => after.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of a line, with the marked part in `<>`.
    fn shown(line: &str, place: &str, key: &str, message: &str) -> Option<String> {
        let at = line[..line.find(place).unwrap()].chars().count() + 1;
        let fault = Fault {
            line: 1,
            column: at,
            end_column: Some(at + place.chars().count()),
            key: key.into(),
            message: message.into(),
        };
        let ShownLine { source, marked } = ShownLine::of(line, &fault)?;
        let (before, after) = (&source[..marked.start], &source[marked.end..]);
        Some(format!("{before}<{}>{after}", &source[marked]))
    }

    #[test]
    fn a_value_of_a_known_key_is_shown_with_the_keys_that_lead_there() {
        for (line, place, key, is) in [
            ("- listen: x:y", "x:y", "services[0].listen", "- listen: <x:y>"),
            ("- listen: x:y # hunter2", "x:y", "services[0].listen", "- listen: <x:y> …"),
            ("  'listen': 'x:y'", "'x:y'", "a.listen", "  'listen': <'x:y'>"),
            (
                "{\"services\": [{\"listen\": \"x:y\"}]}",
                "\"x:y\"",
                "services[0].listen",
                "{\"services\": [{\"listen\": <\"x:y\">}]}",
            ),
            (
                "- { nmae: hunter2, listen: x:y, to: hunter2 }",
                "x:y",
                "services[0].listen",
                "- { …              listen: <x:y>, …",
            ),
            ("  ids: [a, hunter2, b]", "b", "allow.ids[2]", "  ids: […           <b>]"),
        ] {
            let value = place.trim_matches(['"', '\'']);
            let message = format!("{value:?}: no");
            assert_eq!(shown(line, place, key, &message).as_deref(), Some(is), "{line}");
        }
    }

    #[test]
    fn no_value_is_shown_that_may_be_a_secret() {
        let unknown = "unknown key; known here: listen";
        for (line, place, key, message, is) in [
            ("  pasword: hunter2", "pasword", "a.pasword", unknown, Some("  <pasword>: …")),
            (
                "  credential: { a: hunter2, pasword: hunter2 }",
                "pasword",
                "services[0].credential.pasword",
                unknown,
                Some("  credential: { …           <pasword>: …"),
            ),
            (
                "  passwordFile: hunter2",
                "hunter2",
                "c.passwordFile",
                "b:hunter2@p, hunter2hunter2hunter2: no",
                Some("  passwordFile: <…>"),
            ),
            (
                "  privateKey: hunter2",
                "hunter2",
                "c.privateKey",
                "b:hunter2@p, hunter2hunter2hunter2: no",
                Some("  privateKey: <…>"),
            ),
            (
                "  proxy: b:hunter2@p",
                "b:hunter2@p",
                "s.proxy",
                "b:hunter2@p, hunter2hunter2hunter2: no",
                Some("  proxy: <…>"),
            ),
            (
                "  name: hunter2hunter2hunter2",
                "hunter2hunter2hunter2",
                "s.name",
                "b:hunter2@p, hunter2hunter2hunter2: no",
                Some("  name: <…>"),
            ),
            ("  c: { a: hunter2 }", "{ a: hunter2 }", "c", "is empty", Some("  c: <{…}>")),
            (
                "- pasword: hunter2",
                "pasword: hunter2",
                "s[0]",
                "target is missing",
                Some("- <pasword>: …"),
            ),
            ("- 'a': hunter2", "'a': hunter2", "s[0]", "target is missing", None),
            ("- 'a': 'hunter2'", "'a': 'hunter2'", "s[0]", "target is missing", None),
            ("  c: hunter2", "hunter2", "s.c", "is for the other mode", Some("  c: <…>")),
            ("  - hunter2", "- hunter2", "s", "no", None),
            ("root:hunter2:", "root:hunter2:", "", "expected a mapping", None),
            ("  &x hunter2", "&x hunter2", "s", "no", None),
            ("# hunter2", "# hunter2", "", "no", None),
        ] {
            let shown = shown(line, place, key, message);
            assert_eq!(shown.as_deref(), is, "{line}");
            assert!(!shown.unwrap_or_default().contains("hunter2"), "{line}");
        }
    }
}

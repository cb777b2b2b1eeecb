//! An error of a file as people read it: what is wrong, the line with a mark under the place, and
//! what to do.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::{
    cli::output,
    config::Fault,
    identity::{without_keys, without_lines_of_keys},
};

/// The longest line that is shown, bytes.
const MAX_LINE: usize = 400;

/// How an advice begins.
const ADVICE: [&str; 8] =
    ["did you mean", "for example", "known here", "write ", "use ", "put ", "give ", "set "];

/// How serious it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Severity {
    Error,
    Warning,
}

/// `fault` of `file`, whose text this is.
pub(super) fn rendered(
    severity: Severity,
    file: &str,
    text: &str,
    fault: &Fault,
    colours: bool,
) -> String {
    let level = match severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let (what, advice) = match fault.message.split_once("; ") {
        Some((what, advice)) => (what, Some(advice)),
        None => (&*fault.message, None),
    };
    let title = match &*fault.key {
        "" => what.to_owned(),
        key => format!("{key}: {what}"),
    };
    let mut group = Group::with_title(level.primary_title(title));
    group = match line(text, fault.line) {
        Some(source) => {
            let span = span(source, fault);
            let snippet = Snippet::source(source).line_start(fault.line).path(file);
            group.element(snippet.annotation(AnnotationKind::Primary.span(span)))
        }
        None => group.element(Origin::path(file).line(fault.line).char_column(fault.column)),
    };
    if let Some(advice) = advice {
        let to_do = ADVICE.iter().any(|begin| advice.starts_with(begin));
        let level = if to_do { Level::HELP } else { Level::NOTE };
        group = group.element(level.message(advice));
    }
    let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
    renderer.term_width(output::columns()).render(&[group])
}

/// A line of the file, unless a key may be in it, or it is too long to be looked at.
fn line(text: &str, number: usize) -> Option<&str> {
    let before = number.checked_sub(1)?;
    let line = text.lines().nth(before)?;
    // The last line of a key may be short: it is known by the line above.
    let around = text.lines().skip(before.saturating_sub(1)).take(3);
    let is_shown = !line.trim().is_empty()
        && line.len() <= MAX_LINE
        && without_keys(text) == text
        && around.into_iter().all(|line| without_lines_of_keys(line) == line);
    is_shown.then_some(line)
}

/// The bytes of the line that the fault is about, at least one.
fn span(line: &str, fault: &Fault) -> std::ops::Range<usize> {
    let byte = |column: usize| {
        let mut chars = line.char_indices().map(|(at, _)| at);
        chars.nth(column - 1).unwrap_or(line.len())
    };
    let start = byte(fault.column.max(1));
    let end = fault.end_column.map_or(line.len(), |column| byte(column.max(1)));
    let marked = line.get(start..end.max(start)).unwrap_or_default().trim_end();
    let marked = marked.split(" #").next().unwrap_or(marked).trim_end();
    match marked.is_empty() {
        false => start..start + marked.len(),
        true => start..line[start..].chars().next().map_or(start, |c| start + c.len_utf8()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: usize, column: usize, end_column: Option<usize>, message: &str) -> Fault {
        Fault {
            line,
            column,
            end_column,
            key: "services[0].listen".into(),
            message: message.into(),
        }
    }

    #[test]
    fn the_place_is_marked_and_what_to_do_stands_below() {
        let text = "services:\n- listen: x:y  # here\n";
        let wrong = fault(2, 11, Some(14), "\"x:y\" is not a valid address; for example :8443");
        assert_eq!(
            rendered(Severity::Error, "s.yaml", text, &wrong, false),
            "\
error: services[0].listen: \"x:y\" is not a valid address
 --> s.yaml:2:11
  |
2 | - listen: x:y  # here
  |           ^^^
  |
  = help: for example :8443"
        );
        assert!(rendered(Severity::Error, "s.yaml", text, &wrong, true).contains('\u{1b}'));
    }

    #[test]
    fn what_goes_on_below_is_marked_to_the_end_of_its_line() {
        for (text, column, end, marked) in [
            ("- a: 1\n  b: 2\n", 3, None, "^^^^"),
            ("ä: öü\n", 4, Some(6), "^^"),
            ("a: x   # why\n", 4, None, "^"),
            ("a:\n", 9, None, "^"),
        ] {
            let shown = rendered(Severity::Warning, "f", text, &fault(1, column, end, "no"), false);
            let carets = shown.chars().filter(|c| *c == '^').count();
            assert_eq!(carets, marked.len(), "{shown}");
            assert!(shown.starts_with("warning: "), "{shown}");
        }
    }

    #[test]
    fn a_line_that_may_hold_a_key_is_not_shown() {
        let key = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQghsecret";
        for (at, text) in [
            (1, format!("key: {key}\n")),
            (1, format!("key: '-----BEGIN PRIVATE KEY----- {key}'\n")),
            (3, format!("key: |\n  {key}\n  hsecret\n")),
            (4, "key: |\n  -----BEGIN PRIVATE KEY-----\n  abc\n  hsecret\n".to_owned()),
        ] {
            let shown = rendered(Severity::Error, "f", &text, &fault(at, 6, None, "no"), false);
            assert!(!shown.contains("hsecret"), "{shown}");
            assert!(shown.contains(&format!("f:{at}:6")), "{shown}");
        }
        let shown = rendered(Severity::Error, "f", "a\n", &fault(7, 1, None, "no"), false);
        assert!(shown.contains("f:7:1"), "{shown}");
    }
}

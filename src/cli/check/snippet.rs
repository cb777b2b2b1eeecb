//! An error of a file as people read it: what is wrong, the line with a mark under the place, and
//! what to do.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::shown_line::ShownLine;
use crate::{cli::output, config::Fault};

/// How an advice begins.
const ADVICE: [&str; 8] =
    ["did you mean", "for example", "known here", "write ", "use ", "put ", "give ", "set "];

/// How serious it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Severity {
    Error,
    Warning,
}

/// `fault` of `file`; `text` is empty if no line of it may be shown.
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
    let (what, advice) = fault.parts();
    let title = match &*fault.key {
        "" => what.to_owned(),
        key => format!("{key}: {what}"),
    };
    let mut group = Group::with_title(level.primary_title(title));
    group = match ShownLine::of(text, fault) {
        Some(ShownLine { source, marked }) => {
            let snippet = Snippet::source(source).line_start(fault.line).path(file);
            group.element(snippet.annotation(AnnotationKind::Primary.span(marked)))
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
2 | - listen: x:y  …
  |           ^^^
  |
  = help: for example :8443"
        );
        let wrong = fault(2, 11, Some(16), "\"x; y\" is not a valid address; for example :8443");
        let shown = rendered(Severity::Error, "s.yaml", "s:\n- listen: x; y\n", &wrong, false);
        assert!(shown.starts_with("error: services[0].listen: \"x; y\" is not a valid"), "{shown}");
        assert!(shown.ends_with("= help: for example :8443"), "{shown}");
        assert!(rendered(Severity::Error, "s.yaml", text, &wrong, true).contains('\u{1b}'));
    }

    #[test]
    fn what_goes_on_below_is_marked_at_its_first_key() {
        for (text, column, end, marked) in [
            ("- address: 1\n  b: 2\n", 3, None, "^^^^^^^"),
            ("listen: öü\n", 9, Some(11), "^^"),
            ("listen: x   # why\n", 9, Some(10), "^"),
            ("listen: |\n  x\n", 9, None, "^"),
            ("listen:\n", 9, None, "^"),
        ] {
            let shown =
                rendered(Severity::Warning, "f", text, &fault(1, column, end, "öü, x: no"), false);
            let carets = shown.chars().filter(|c| *c == '^').count();
            assert_eq!(carets, marked.len(), "{shown}");
            assert!(shown.starts_with("warning: "), "{shown}");
        }
    }

    #[test]
    fn a_line_that_may_hold_a_key_is_not_shown() {
        let key = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQghsecret";
        for (at, column, text) in [
            (1, 9, format!("listen: {key}\n")),
            (1, 9, format!("listen: '-----BEGIN PRIVATE KEY----- {key}'\n")),
            (3, 3, format!("listen: |\n  {key}\n  hsecret\n")),
            (4, 3, "listen: |\n  -----BEGIN PRIVATE KEY-----\n  abc\n  hsecret\n".to_owned()),
        ] {
            for end in [None, Some(12), Some(200)] {
                let fault = fault(at, column, end, "no");
                let shown = rendered(Severity::Error, "f", &text, &fault, false);
                assert!(!shown.contains(&key[..8]), "{shown}");
                assert!(shown.contains(&format!("f:{at}:{column}")), "{shown}");
            }
        }
        let shown = rendered(Severity::Error, "f", "a\n", &fault(7, 1, None, "no"), false);
        assert!(shown.contains("f:7:1"), "{shown}");
    }
}

//! Phrases that must not come back into what a user reads: messages of the program, its help, the
//! README, guides, runbooks, charts. Each has the better words beside it.

use std::fs;

use crate::tree;

/// A phrase, what stands in its place, and where the same letters are well.
pub(crate) type Phrase = (&'static str, &'static str, &'static [&'static str]);

/// In lower case, as whole words.
const PHRASES: &[Phrase] = &[
    ("is no", "is not a …", &["there is no", "is no longer", "is no more than"]),
    ("are no", "are not …", &["there are no", "are no longer"]),
    ("is none of", "must be A, B or C", &[]),
    ("none of pass", "must be pass, count or drop", &[]),
    ("neither allow_any", "must be ALLOW_ANY or REGISTRY_ONLY", &[]),
    ("believed", "trusted", &[]),
    ("believes", "trusts", &[]),
    ("whom", "name the caller, peer or client", &["from whom", "call whom", "kill-whom"]),
    ("anew", "again", &[]),
    ("unwell", "unhealthy", &[]),
    ("is well again", "is healthy", &[]),
    ("lest", "so that … not", &[]),
    ("somebody listens", "another process is listening", &[]),
    ("hears of", "receives, is told of", &[]),
    ("vouches for", "is signed by", &[]),
    ("short way", "sockmap redirect, short path", &[]),
    ("long way", "by TCP", &[]),
    ("faults in", "errors in", &[]),
    ("fault in", "error in", &[]),
    ("every fault", "every error", &[]),
    ("named by no rule", "matches no rule", &[]),
    ("carries the tcp", "proxies the TCP", &[]),
    ("carry the pods", "proxy the pods", &[]),
    ("pod carried", "pod attached", &[]),
    ("pod is carried", "pod is attached", &[]),
    ("pods carried", "pods attached", &[]),
    ("not carried", "not attached, not proxied, not imported", &[]),
    ("no pod is carried", "no pod is attached", &[]),
    ("what was before", "the previous …", &[]),
    ("what was read before stays", "keeping the previous …", &[]),
    ("the last good one stays", "keeping the previous one", &[]),
    ("stays what it was", "is unchanged", &[]),
    ("stays as it was", "is unchanged; keeping the last known …", &[]),
    ("the last servers stay", "keeping the previous name servers", &[]),
    ("are not taken", "are rejected", &[]),
    ("is not taken", "is rejected", &[]),
    ("refused, the last", "rejected; keeping the previous one", &[]),
    ("configuration read", "configuration reloaded", &["configuration reader"]),
    ("had not ended in time", "did not finish in time", &[]),
    ("stopping: no new", "shutting down: draining …", &[]),
    ("the watchdog is not fed", "not notifying the watchdog", &[]),
    ("metrics are not taken", "metrics push rejected", &[]),
    ("in the place of the process", "took over from the previous process", &[]),
    ("take effect when", "takes effect after a restart", &[]),
    ("by our clock", "by this machine's clock", &[]),
    ("that was asked for", "that was requested", &[]),
    ("a text", "a string, text", &["as a text file", "a text editor"]),
    ("is not that of", "does not belong to", &[]),
    ("is that of a ca", "is a CA certificate", &[]),
    ("does not count", "is ignored", &[]),
    ("says which is", "shows which is", &[]),
    ("passes by adit", "bypasses adit", &[]),
    ("pass by adit", "bypass adit", &[]),
    ("goes on with", "continues with", &[]),
    ("nobody listens", "no process is listening", &[]),
    ("done in its name", "so adit does not act for it", &[]),
    ("stands again", "is in place again", &[]),
    ("stand again", "are in place again", &[]),
    ("cannot be had", "cannot be read, is not available", &[]),
    ("breaks a rail", "is not allowed", &[]),
    ("the role changed", "the mode of the service changed", &[]),
    ("holds no certificate", "contains no certificate", &[]),
    ("holds none of", "contains none of", &[]),
    ("leaving an endpoint out", "endpoint ejected", &[]),
    ("adit asks no", "adit does not query", &[]),
    ("adit stays in front", "adit runs in the foreground", &[]),
    ("nothing is forgiven", "there is no further tolerance", &[]),
    ("a source that was away", "after an outage of the CA", &[]),
    ("judge anybody", "validate SVIDs from any issuer", &[]),
    ("an identity nothing", "ban an identity", &[]),
    ("system calls that it never makes", "system calls that adit never uses", &[]),
    ("sigint then cuts", "a second Ctrl-C closes them at once", &[]),
    ("a deny goes before", "DENY rules win over all others", &[]),
    ("what cannot be honoured", "unsupported options", &[]),
    ("take notice", "read it, use it", &[]),
    ("is let pass", "is allowed", &[]),
    ("are let pass", "are allowed", &[]),
    ("out of time", "expired, or not valid yet", &[]),
    ("showed no certificate", "presented no certificate", &[]),
    ("interim answers", "interim responses (RFC 9110)", &[]),
    ("vouch for", "sign, issue", &[]),
    ("in peace", "while nothing changes", &[]),
    ("the former", "name it again", &[]),
    ("passes no node", "bypasses the node", &[]),
    ("otherother", "the cause in words", &[]),
    ("invalidcharacter(", "the cause in words", &[]),
    ("os error 98", "another process is listening there", &[]),
    ("1 services", "1 service", &[]),
    ("1 policies", "1 policy", &[]),
    ("1 certificates", "1 certificate", &[]),
    ("1 connections", "1 connection", &[]),
];

/// Nouns that stand after a count: `identity::counted` makes them agree with it.
const COUNTED: &[&str] = &[
    "services",
    "policies",
    "workloads",
    "pods",
    "connections",
    "certificates",
    "identities",
    "targets",
    "errors",
    "warnings",
    "SVIDs",
];

/// Messages in which a count is more than one for sure, as it is above a limit.
const ABOVE_LIMIT: &[&str] =
    &["at most", "the limit is", "expected 1 to", "more than", "instead of one"];

/// What is wrong with what a user reads, a place and a better word in each text.
pub(crate) fn found() -> Vec<String> {
    let mut found = Vec::new();
    for tree::File { path, text, .. } in tree::files() {
        for (line, message) in literals(&text) {
            if !message.contains(' ') {
                continue;
            }
            found.extend(in_words(&message, PHRASES).map(|why| format!("{path}:{line}: {why}")));
            found.extend(uncounted(&message).map(|why| format!("{path}:{line}: {why}")));
        }
        if path.starts_with("src/cli/") {
            let whole = fs::read_to_string(&path).unwrap();
            let help = whole
                .lines()
                .enumerate()
                .filter_map(|(at, line)| Some((at + 1, line.trim_start().strip_prefix("/// ")?)));
            for (line, help) in help {
                found.extend(in_words(help, PHRASES).map(|why| format!("{path}:{line}: {why}")));
            }
        }
    }
    for path in tree::paths(DOCUMENTS, &["md", "yaml", "json", "tpl", "txt", "service"]) {
        let text = fs::read_to_string(&path).unwrap();
        let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
        found.extend(in_words(&joined, PHRASES).map(|why| format!("{path}: {why}")));
    }
    found
}

/// Where a user reads, beside the program.
const DOCUMENTS: &[&str] = &["README.md", "CHANGELOG.md", "src/guide", "src/cli/init", "deploy"];

/// The phrases of `list` in a text, with what to write instead.
pub(crate) fn in_words(text: &str, list: &[Phrase]) -> impl Iterator<Item = String> + use<> {
    let lower = text.to_lowercase();
    let mut found = Vec::new();
    for (phrase, better, well) in list {
        let rest = well.iter().fold(lower.clone(), |rest, well| rest.replace(well, "·"));
        for (at, _) in rest.match_indices(phrase) {
            let before = rest[..at].chars().next_back();
            let after = rest[at + phrase.len()..].chars().next();
            let inner = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            if inner(before) || (inner(after) && !phrase.ends_with('(')) {
                continue;
            }
            let from = rest[..at].char_indices().rev().nth(30).map_or(0, |(at, _)| at);
            let near: String = rest[from..].chars().take(60 + phrase.len()).collect();
            found.push(format!("`{phrase}`: write {better}: …{near}…"));
        }
    }
    found.into_iter()
}

/// A number before a plural in a message: `{} services`.
fn uncounted(message: &str) -> Option<String> {
    let above = ABOVE_LIMIT.iter().any(|words| message.contains(words));
    let noun = COUNTED.iter().find(|noun| {
        message.match_indices(&format!("}} {noun}")).any(|(at, _)| {
            let (before, name) = message[..at].rsplit_once('{').unwrap_or_default();
            let constant = name.chars().any(|c| c.is_ascii_uppercase());
            !constant && !before.ends_with('{') && !name.ends_with('}')
        })
    });
    let noun = noun.filter(|_| !above)?;
    Some(format!("`{{}} {noun}` is wrong for one: write `identity::counted`: {message}"))
}

/// The string literals of a source up to its tests, each with its line, as one line of text.
fn literals(text: &str) -> Vec<(usize, String)> {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let (mut found, mut rest) = (Vec::new(), text);
    let line = |rest: &str| text[..text.len() - rest.len()].matches('\n').count() + 1;
    while let Some(at) = rest.find(['"', '\'', '/']) {
        let (before, here) = rest.split_at(at);
        let raw = before.len() - before.trim_end_matches('#').len();
        let is_raw = here.starts_with('"') && before[..before.len() - raw].ends_with('r');
        let taken = match here.as_bytes() {
            [b'/', b'/', ..] => here.find('\n').unwrap_or(here.len()),
            [b'"', ..] if is_raw => {
                let end = format!("\"{}", "#".repeat(raw));
                let length = here[1..].find(&end).map_or(here.len(), |n| n + 1);
                found.push((line(here), here[1..length].to_owned()));
                length + end.len().min(here.len() - length)
            }
            [b'"', ..] => {
                let mut escaped = false;
                let end = here[1..].find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                });
                let end = end.map_or(here.len() - 1, |n| n + 1);
                let words = here[1..end].replace("\\\n", " ").replace("\\n", " ");
                found.push((line(here), words.split_whitespace().collect::<Vec<_>>().join(" ")));
                end + 1
            }
            // A character, not a lifetime.
            [b'\'', b'\\', _, b'\'', ..] => 4,
            [b'\'', b'"', b'\'', ..] => 3,
            _ => 1,
        };
        rest = &here[taken..];
    }
    found
}

#[test]
fn a_phrase_is_found_where_it_is_one() {
    let texts =
        literals("fn f() { g(\"x is no \\\n    address\", '\"', r#\"a \"b\" c\"#); } // \"no\"\n");
    assert_eq!(texts, [(1, "x is no address".to_owned()), (2, "a \"b\" c".to_owned())]);
    assert_eq!(in_words("x is no address", PHRASES).count(), 1);
    assert_eq!(in_words("x is no longer there; there is no node", PHRASES).count(), 0);
    assert!(uncounted("{} services").is_some() && uncounted("{MOST} services").is_none());
    assert!(uncounted("{n} targets, at most 8 are allowed").is_none());
}

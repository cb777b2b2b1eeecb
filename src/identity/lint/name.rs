//! SPIFFE-ID §2, rule by rule.

use super::{Given, Report, shown};
use crate::identity::{SpiffeId, TrustDomain};

/// Adds the rules for a text that must be a SPIFFE ID with a path; the ID if it is one.
pub(super) fn spiffe_id(
    report: &mut Report,
    text: &str,
    given: &Given<'_>,
    path_clause: &'static str,
) -> Option<SpiffeId> {
    let parsed = grammar(report, text);
    const HAS_PATH: &str = "SPIFFE ID has a path";
    const EXPECTED: &str = "SPIFFE ID is of the expected trust domain";
    match &parsed {
        None => report.not_checked(HAS_PATH, path_clause, "the name is not a SPIFFE ID"),
        Some(id) if id.path().is_empty() => report.fail(
            HAS_PATH,
            path_clause,
            format!("{id} names the trust domain itself"),
            "issue it for a workload, as spiffe://trust-domain/a/path",
        ),
        Some(id) => report.ok(HAS_PATH, path_clause, id.path()),
    }
    match (given.trust_domain, &parsed) {
        (None, _) => {}
        (Some(_), None) => {
            report.not_checked(EXPECTED, "SPIFFE-ID §2.1", "the name is not a SPIFFE ID");
        }
        (Some(expected), Some(id)) => {
            let same = id.trust_domain() == expected;
            let found = format!("it is of {}, expected {expected}", id.trust_domain());
            let advice =
                "request it from that trust domain's authority, or change the expected one";
            let result = if same { Ok(expected.to_string()) } else { Err(found) };
            report.judge(EXPECTED, "SPIFFE-ID §2.1", result, advice);
        }
    }
    parsed
}

fn grammar(report: &mut Report, text: &str) -> Option<SpiffeId> {
    let long = text.len() > SpiffeId::MAX_LEN;
    let bytes = format!("{} of at most {} bytes", text.len(), SpiffeId::MAX_LEN);
    let result = if long { Err(bytes) } else { Ok(bytes) };
    report.judge("SPIFFE ID length", "SPIFFE-ID §2.3", result, "use a shorter path");

    let rest = text.strip_prefix("spiffe://");
    let scheme = rest.map(|_| "spiffe".to_owned());
    let scheme = scheme.ok_or_else(|| format!("{:?} does not begin with spiffe://", shown(text)));
    let advice = "write the scheme as spiffe://, in lower case";
    report.judge("SPIFFE ID scheme", "SPIFFE-ID §2", scheme, advice);

    let (domain_rule, path_rule) = ("trust domain name", "SPIFFE ID path");
    let Some(rest) = rest else {
        report.not_checked(domain_rule, "SPIFFE-ID §2.1", "the scheme is not spiffe");
        report.not_checked(path_rule, "SPIFFE-ID §2.2", "the scheme is not spiffe");
        return None;
    };
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let known: Result<TrustDomain, _> = domain.parse();
    let why = |_| match domain {
        "" => "it is empty".to_owned(),
        _ if domain.len() > 255 => format!("{} bytes, at most 255 are allowed", domain.len()),
        _ => {
            let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            illegal(domain, |c| lower(c) || ".-_".contains(c))
        }
    };
    let known = known.map(|domain| domain.to_string()).map_err(why);
    let advice = "use 1 to 255 of a-z 0-9 . - _, without a port, user or percent-encoding";
    report.judge(domain_rule, "SPIFFE-ID §2.1", known, advice);

    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let legal = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let result = if path.ends_with('/') {
        Err("it ends in a slash".to_owned())
    } else if segments.contains(&"") {
        Err("it has an empty segment".to_owned())
    } else if segments.iter().any(|s| matches!(*s, "." | "..")) {
        Err("it has a segment of . or ..".to_owned())
    } else if !segments.iter().all(|s| s.chars().all(legal)) {
        Err(illegal(path, |c| c == '/' || legal(c)))
    } else {
        Ok(if path.is_empty() { "none".to_owned() } else { path.to_owned() })
    };
    let advice = "use segments of A-Z a-z 0-9 . - _, without query, fragment or percent-encoding";
    report.judge(path_rule, "SPIFFE-ID §2.2", result, advice);
    text.parse().ok()
}

fn illegal(text: &str, legal: impl Fn(char) -> bool) -> String {
    let mut bad: Vec<char> = text.chars().filter(|c| !legal(*c)).take(8).collect();
    bad.dedup();
    format!("{:?} has {bad:?}", shown(text))
}

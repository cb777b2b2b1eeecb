//! What is right and wrong with anybody's SVIDs and bundles: every rule with its clause, not only
//! the first that is broken. The rules are those of the verifiers ([`super::verify_svid`],
//! [`super::validate_jwt_svid`], [`super::TrustBundle::from_document`]), whose own verdict is the
//! last line of each report: what they refuse fails here, and what they accept does not. What a
//! specification demands and no verifier insists on is a warning.
//! Not here: reading files and printing ([`crate::cli`]).

mod authority;
mod document;
mod jwt;
mod name;
mod public_key;
mod x509;

use std::time::SystemTime;

use pki_types::{CertificateDer, UnixTime};
use serde::Serialize;

pub use authority::authority;
pub use document::bundle_document;
pub use jwt::jwt_svid;
pub use x509::x509_svid;

use super::{BundleSet, SpiffeId, TrustDomain};

/// How one rule was kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Kept.
    Ok,
    /// Not as the specification has it, and accepted by adit and most others all the same.
    Warn,
    /// Broken: who keeps the specification refuses this.
    Fail,
    /// Could not be judged; the finding says why.
    NotChecked,
}

/// One rule and how it was kept.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// The rule, in a few words that do not change with what is found.
    pub rule: String,
    /// Where it is written, as `X509-SVID §4.3`.
    pub clause: &'static str,
    /// How it was kept.
    pub verdict: Verdict,
    /// What there is, or why it was not checked.
    pub found: String,
    /// What to do about it; empty where there is nothing to do.
    pub advice: String,
}

/// All rules for one thing, in the order in which a verifier looks.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Report {
    /// What it is: `X.509-SVID`, `JWT-SVID`, …
    pub kind: &'static str,
    /// Whose it is, as far as it says so.
    pub subject: Option<String>,
    /// The rules.
    pub findings: Vec<Finding>,
}

/// What is known beside the thing itself.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The time to judge by.
    pub now: SystemTime,
    /// What it is checked against; without, trust is not checked.
    pub bundles: Option<&'a BundleSet>,
    /// The trust domain that it should be of.
    pub trust_domain: Option<&'a TrustDomain>,
    /// The audience that a token should have.
    pub audience: Option<&'a str>,
}

impl Given<'_> {
    /// Nothing but the time.
    #[must_use]
    pub fn at(now: SystemTime) -> Self {
        Self { now, bundles: None, trust_domain: None, audience: None }
    }

    fn unix_time(&self) -> UnixTime {
        unix_time(self.now)
    }
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

impl Report {
    /// An empty one.
    #[must_use]
    pub fn new(kind: &'static str) -> Self {
        Self { kind, subject: None, findings: Vec::new() }
    }

    /// How many rules have this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// Whether a rule is broken.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.count(Verdict::Fail) > 0
    }

    /// A rule that is kept.
    pub fn ok(&mut self, rule: &str, clause: &'static str, found: impl Into<String>) {
        self.add(rule, clause, Verdict::Ok, found.into(), "");
    }

    /// Reports a deviation from the specification that adit and most other implementations accept.
    pub fn warn(
        &mut self,
        rule: &str,
        clause: &'static str,
        found: impl Into<String>,
        advice: &str,
    ) {
        self.add(rule, clause, Verdict::Warn, found.into(), advice);
    }

    /// A rule that is broken.
    pub fn fail(
        &mut self,
        rule: &str,
        clause: &'static str,
        found: impl Into<String>,
        advice: &str,
    ) {
        self.add(rule, clause, Verdict::Fail, found.into(), advice);
    }

    /// A rule that could not be judged.
    pub fn not_checked(&mut self, rule: &str, clause: &'static str, why: impl Into<String>) {
        self.add(rule, clause, Verdict::NotChecked, why.into(), "");
    }

    /// Kept, or broken with a reason.
    pub fn judge<E: ToString>(
        &mut self,
        rule: &str,
        clause: &'static str,
        result: Result<String, E>,
        advice: &str,
    ) {
        match result {
            Ok(found) => self.ok(rule, clause, found),
            Err(why) => self.fail(rule, clause, why.to_string(), advice),
        }
    }

    /// Kept, or broken in a way that nobody minds.
    fn expect(
        &mut self,
        rule: &str,
        clause: &'static str,
        kept: Result<String, String>,
        advice: &str,
    ) {
        match kept {
            Ok(found) => self.ok(rule, clause, found),
            Err(why) => self.warn(rule, clause, why, advice),
        }
    }

    fn add(
        &mut self,
        rule: &str,
        clause: &'static str,
        verdict: Verdict,
        found: String,
        advice: &str,
    ) {
        let (rule, found, advice) = (printable(rule), printable(&found), advice.to_owned());
        self.findings.push(Finding { rule, clause, verdict, found, advice });
    }
}

/// The trust domain that a certificate claims to be of, whatever else is wrong with it.
#[must_use]
pub fn claimed_by_certificate(leaf: &CertificateDer<'_>) -> Option<TrustDomain> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, cert) = X509Certificate::from_der(leaf).ok()?;
    first_id(&super::x509::uris(&cert).ok()?).map(|id| id.trust_domain().clone())
}

/// The trust domain that a token claims to be of, whatever else is wrong with it.
#[must_use]
pub fn claimed_by_token(token: &str) -> Option<TrustDomain> {
    jwt::claimed_id(token).map(|id| id.trust_domain().clone())
}

/// What there is to say of a file in PEM that cannot be read whole.
#[must_use]
pub fn broken_pem(error: super::pem::PemError) -> Report {
    let mut report = Report::new("PEM");
    let advice = "the file is damaged: every line must belong to an item or to the text around items; \
         restore it";
    report.fail("the file can be read whole", "RFC 7468 §2", error.to_string(), advice);
    report
}

fn first_id(uris: &[&str]) -> Option<SpiffeId> {
    uris.iter().find_map(|uri| uri.parse().ok())
}

/// A text with a peer's words in it, for a terminal: what would steer it, or turn the order of
/// letters, is written as `\u{…}`.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { printable.extend(c.escape_unicode()) } else { printable.push(c) }
    }
    printable
}

/// JSON with a peer's words in it, for a terminal: what would steer it, or turn the order of
/// letters, is written as `\u` and four digits, except line breaks between values.
#[must_use]
pub fn printable_json(json: &str) -> String {
    let mut printable = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            // Between values only: in a text it is escaped.
            '\n' => printable.push(c),
            c if steers(c) => printable += &format!("\\u{:04x}", u32::from(c)),
            c => printable.push(c),
        }
    }
    printable
}

fn steers(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

/// A peer's text for a terminal: cut, and without control characters.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(100) {
        match c {
            '"' | '\'' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_peer_says_steers_a_terminal() {
        let said = "a\u{1b}[2J\u{9b}1m\u{7f}\u{202e}\u{2028}é\"\n";
        let text = printable(said);
        assert_eq!(text, "a\\u{1b}[2J\\u{9b}1m\\u{7f}\\u{202e}\u{2028}é\"\\u{a}");
        let value = serde_json::json!({ "said": [said] });
        let json = printable_json(&format!("{value:#}"));
        assert!(json.chars().all(|c| c == '\n' || !steers(c)), "{json:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
        let mut report = Report::new("a peer");
        report.fail("of \u{1b}", "§1", said, "");
        assert!(!report.findings[0].found.contains(char::is_control));
        assert!(!report.findings[0].rule.contains(char::is_control));
    }
}

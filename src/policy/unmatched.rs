//! What a record says of a peer that no rule names: what its certificate shows, and by what it could
//! have been named.

use std::fmt::{self, Display, Write as _};

use super::Access;
use crate::identity::PeerCert;

/// How many names of a certificate are told.
const MOST_NAMES: usize = 5;
/// And how many characters of all of them.
const MOST_CHARS: usize = 300;

/// Why a peer is not admitted that no rule names.
pub(super) struct Unmatched<'a> {
    pub(super) peer: &'a PeerCert,
    pub(super) named: &'a Access,
}

impl Display for Unmatched<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} matches no rule", self.peer.name())?;
        let kinds = kinds(self.named);
        if !kinds.is_empty() {
            write!(f, " (there are rules for {})", kinds.join(", "))?;
        }
        write!(f, "; its certificate shows {}", shown(self.peer))?;
        match self.peer.id_fault.as_deref().or(self.peer.spiffe_fault.as_deref()) {
            Some(fault) => write!(f, "; its SPIFFE ID is ignored: {fault}"),
            None => Ok(()),
        }
    }
}

/// What somebody is named by, as flags call it.
fn kinds(named: &Access) -> Vec<&'static str> {
    let all = [
        ("cn", !named.cn.is_empty()),
        ("ou", !named.ou.is_empty()),
        ("dns", !named.dns.is_empty()),
        ("uri", !named.uri.is_empty()),
        ("ip", !named.ip.is_empty()),
        ("id", !named.ids.is_empty()),
        ("trust-domain", !named.trust_domains.is_empty()),
        ("policy", named.rego.is_some()),
        ("authorization-policy", named.policies.is_some()),
    ];
    all.into_iter().filter_map(|(kind, given)| given.then_some(kind)).collect()
}

/// Some of the names, quoted and escaped: whoever made the certificate has chosen them.
fn shown(peer: &PeerCert) -> String {
    let quoted = |kind: &'static str| move |name: &String| (kind, name.clone());
    let names = peer.cn.iter().map(quoted("CN"));
    let names = names.chain(peer.dns.iter().map(quoted("DNS")));
    let names = names.chain(peer.uris.iter().map(quoted("URI")));
    let names = names.chain(peer.ips.iter().map(|ip| ("IP", ip.to_string())));
    let names = names.chain(peer.ous.iter().map(quoted("OU")));
    let (mut text, mut told, mut all, mut room) = (String::new(), 0, 0, MOST_CHARS);
    for (kind, name) in names {
        all += 1;
        if told == MOST_NAMES || room == 0 {
            continue;
        }
        let part: String = name.escape_debug().take(room).collect();
        room -= part.chars().count();
        let rest = if room == 0 { "…" } else { "" };
        // Writing to a String does not fail.
        let _ = write!(text, "{}{kind} '{part}{rest}'", if told == 0 { "" } else { ", " });
        told += 1;
    }
    if told < all {
        let _ = write!(text, " and {} more", all - told);
    }
    if all == 0 { "no name".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_was_shown_and_what_was_asked_for() {
        let peer = PeerCert {
            cn: Some("app3".into()),
            dns: vec!["app3.example".into()],
            uris: vec!["urn:app:3".into()],
            subject: "O=Acme, CN=app3".into(),
            ..PeerCert::default()
        };
        let named = Access {
            cn: vec!["app1".into()],
            dns: vec!["app2.example".into()],
            ..Access::default()
        };
        let said = Unmatched { peer: &peer, named: &named }.to_string();
        assert_eq!(
            said,
            "O=Acme, CN=app3 matches no rule (there are rules for cn, dns); its certificate shows \
             CN 'app3', DNS 'app3.example', URI 'urn:app:3'"
        );
        let nobody = Unmatched { peer: &PeerCert::default(), named: &named }.to_string();
        assert!(nobody.ends_with("shows no name"), "{nobody}");
    }

    #[test]
    fn what_a_certificate_shows_is_bounded_and_escaped() {
        let many = (0..40).map(|n| format!("n{n}.example")).collect();
        let peer = PeerCert { cn: Some("a'\n\u{1b}[31m".into()), dns: many, ..PeerCert::default() };
        let said = shown(&peer);
        assert!(said.starts_with("CN 'a\\'\\n\\u{1b}[31m', DNS 'n0.example'"), "{said}");
        assert!(said.ends_with("'n3.example' and 36 more"), "{said}");
        let long = PeerCert { cn: Some("ä".repeat(5000)), dns: vec!["b".into()], ..peer };
        let said = shown(&long);
        assert!(said.chars().count() < MOST_CHARS + 30, "{said}");
        assert!(said.ends_with("ä…' and 1 more"), "{said}");
    }
}

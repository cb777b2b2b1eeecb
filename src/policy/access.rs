//! The clients that a service allows, or the targets that it accepts, as configured: plain values.
//! What is made of them is [`super::AccessControl`].

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use super::RegoConfig;
use crate::{
    identity::{SpiffeId, TrustDomain},
    policy::Rules,
};

/// What is asked of a peer that has proven its certificate: any of these is enough. Nothing named,
/// nobody admitted; a policy that denies is asked first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Access {
    /// Allow every client whose certificate verifies.
    pub all: bool,
    /// The subject's common name, exactly.
    pub cn: Vec<String>,
    /// One of the subject's organizational units, exactly.
    pub ou: Vec<String>,
    /// A DNS name, exactly.
    pub dns: Vec<String>,
    /// A URI; one of SPIFFE counts in an X.509-SVID only.
    pub uri: Vec<UriPattern>,
    /// An IP address in the certificate.
    pub ip: Vec<IpAddr>,
    /// A SPIFFE ID, exactly.
    pub ids: Vec<SpiffeId>,
    /// Any SPIFFE ID of this trust domain.
    pub trust_domains: Vec<TrustDomain>,
    /// A file of Istio policies: who is denied there is refused whatever else is named.
    pub policies: Option<PathBuf>,
    /// A Rego policy.
    pub rego: Option<RegoConfig>,
    /// A file of banned SPIFFE IDs, refused whatever else allows them. It does not count as an
    /// allow rule.
    pub bans: Option<PathBuf>,
}

impl Access {
    /// Whether `all` is set together with other names, which then have no effect. Istio policies do
    /// not count: they can deny.
    #[must_use]
    pub fn all_and_names(&self) -> bool {
        let names = Self { all: false, policies: None, ..self.clone() };
        self.all && !names.is_empty()
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let rego = self.rego.as_ref().map(|rego| &rego.file);
        self.policies.iter().chain(rego).chain(&self.bans)
    }

    /// Whether nothing is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        Self { bans: None, ..self.clone() } == Self::default()
    }

    /// Whether it names nobody but in policies, and none of those allows anything; `policies` is
    /// what is in their file.
    #[must_use]
    pub fn only_denies(&self, policies: Option<&Rules>) -> bool {
        let others = Self { policies: None, ..self.clone() };
        others.is_empty() && policies.is_some_and(|policies| !policies.allows())
    }
}

/// A URI with wildcards: `*` stands for one segment, `**` at the end for all that follow. A `/`
/// at the end changes nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UriPattern {
    segments: Vec<String>,
    open_end: bool,
}

impl UriPattern {
    /// Whether the URI is of this shape.
    #[must_use]
    pub fn matches(&self, uri: &str) -> bool {
        let parts: Vec<&str> = trimmed(uri).split('/').collect();
        let long_enough = if self.open_end {
            parts.len() > self.segments.len()
        } else {
            parts.len() == self.segments.len()
        };
        long_enough
            && self
                .segments
                .iter()
                .zip(parts)
                .all(|(wanted, part)| if wanted == "*" { !part.is_empty() } else { wanted == part })
    }
}

fn trimmed(uri: &str) -> &str {
    uri.strip_suffix('/').unwrap_or(uri)
}

impl FromStr for UriPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 2048 {
            return Err("a pattern has 1 to 2048 bytes".into());
        }
        let mut segments: Vec<String> = trimmed(text).split('/').map(ToOwned::to_owned).collect();
        let open_end = segments.last().is_some_and(|last| last == "**");
        if open_end {
            segments.pop();
        }
        if segments.first().is_some_and(|first| first != "*" && !first.contains(':')) {
            return Err("a URI begins with its scheme, such as spiffe://".into());
        }
        match segments.iter().find(|s| s.contains('*') && *s != "*") {
            Some(segment) if segment == "**" => Err("`**` can only be the last segment".into()),
            Some(segment) => Err(format!("{segment:?}: a `*` stands for a whole segment")),
            None => Ok(Self { segments, open_end }),
        }
    }
}

impl fmt::Display for UriPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segments.join("/"))?;
        if self.open_end { f.write_str("/**") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_whole_segments() {
        for (pattern, uri, matches) in [
            ("spiffe://a/b", "spiffe://a/b", true),
            ("spiffe://a/b/", "spiffe://a/b", true),
            ("spiffe://a/b", "spiffe://a/b/", true),
            ("spiffe://a/*", "spiffe://a/b", true),
            ("spiffe://a/*", "spiffe://a/b/c", false),
            ("spiffe://a/*", "spiffe://a", false),
            ("spiffe://a/*/c", "spiffe://a/b/c", true),
            ("spiffe://*/b", "spiffe://other/b", true),
            ("spiffe://a/**", "spiffe://a/b/c/d", true),
            ("spiffe://a/**", "spiffe://ab/c", false),
            ("spiffe://a/**", "spiffe://a", false),
            ("spiffe://a/b", "spiffe://a/B", false),
        ] {
            let parsed: UriPattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(uri), matches, "{pattern} on {uri}");
        }
        for bad in ["", "spiffe://a/b*", "spiffe://**/b", "a*/b"] {
            assert!(bad.parse::<UriPattern>().is_err(), "{bad}");
        }
    }
}

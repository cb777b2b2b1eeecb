//! Whose bundles are wanted, and where each comes from (SPIFFE Federation §5.1): address,
//! profile and trust domain are three statements of the operator; none is inferred.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use http::Uri;

use crate::identity::{SpiffeId, TrustDomain};

/// One foreign trust domain that is trusted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Relation {
    /// Which.
    pub trust_domain: TrustDomain,
    /// Where its bundle comes from.
    pub from: BundleFrom,
}

/// Where a bundle comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BundleFrom {
    /// A file, which is read again when it changes.
    File(PathBuf),
    /// A bundle endpoint, which is asked again and again.
    Endpoint {
        /// Its address.
        url: EndpointUrl,
        /// How it proves who it is.
        profile: Profile,
    },
}

/// How a bundle endpoint proves who it is (SPIFFE Federation §5.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Profile {
    /// `https_web`: by a certificate for its host name.
    Web {
        /// The roots that are accepted, PEM; without it the system's.
        roots: Option<PathBuf>,
    },
    /// `https_spiffe`: by an X.509-SVID.
    Spiffe {
        /// Exactly this one.
        endpoint_id: SpiffeId,
        /// The bundle that the first visit is checked against: that of the endpoint's trust
        /// domain.
        bundle: Option<PathBuf>,
    },
}

impl Profile {
    /// As in the mesh file.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Web { .. } => "https_web",
            Self::Spiffe { .. } => "https_spiffe",
        }
    }
}

/// The address of a bundle endpoint: `https`, a host, no userinfo (SPIFFE Federation §5.1.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointUrl(Arc<Uri>);

/// Why a text is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidUrl {
    /// Not a URL at all.
    #[error("is not a URL: {0}")]
    Syntax(String),
    /// Another scheme, or none.
    #[error("must begin with https:// (SPIFFE Federation §5.1.1)")]
    Scheme,
    /// A user or a password.
    #[error("must not have a user or a password (SPIFFE Federation §5.1.1)")]
    Userinfo,
    /// A fragment.
    #[error("must not have a #fragment")]
    Fragment,
}

impl FromStr for EndpointUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        if text.contains('#') {
            return Err(InvalidUrl::Fragment);
        }
        let uri: Uri =
            text.parse().map_err(|e: http::uri::InvalidUri| InvalidUrl::Syntax(e.to_string()))?;
        if uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
            return Err(InvalidUrl::Scheme);
        }
        let authority = uri.authority().ok_or(InvalidUrl::Scheme)?;
        if authority.as_str().contains('@') {
            return Err(InvalidUrl::Userinfo);
        }
        if authority.host().is_empty() {
            return Err(InvalidUrl::Syntax("no host".into()));
        }
        Ok(Self(uri.into()))
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl EndpointUrl {
    /// A name or an address, without brackets.
    pub(super) fn host(&self) -> &str {
        let host = self.0.host().unwrap_or_default();
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(443)
    }

    /// What `Host:` says.
    pub(super) fn authority(&self) -> &str {
        self.0.authority().map_or("", |a| a.as_str())
    }

    pub(super) fn path_and_query(&self) -> &str {
        self.0.path_and_query().map_or("/", |p| p.as_str())
    }

    /// Where a `Location:` in an answer of this address leads: another https URL, or a path on
    /// the same host.
    pub(super) fn redirected(&self, location: &str) -> Result<Self, InvalidUrl> {
        let location = location.split('#').next().unwrap_or_default();
        if location.starts_with('/') && !location.starts_with("//") {
            return format!("https://{}{location}", self.authority()).parse();
        }
        location.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_https_with_a_host_and_nothing_that_hides_one() {
        for (text, expected) in [
            ("https://a.example/bundle?x=1", Ok(("a.example", 443, "/bundle?x=1"))),
            ("https://a.example:8443", Ok(("a.example", 8443, "/"))),
            ("https://[fd00::1]:8443/b", Ok(("fd00::1", 8443, "/b"))),
            ("http://a.example/", Err(InvalidUrl::Scheme)),
            ("a.example", Err(InvalidUrl::Scheme)),
            ("/bundle", Err(InvalidUrl::Scheme)),
            ("https://a.example@evil.test/", Err(InvalidUrl::Userinfo)),
            ("https://u:p@a.example/", Err(InvalidUrl::Userinfo)),
            ("https://a.example/#x", Err(InvalidUrl::Fragment)),
        ] {
            let url = text.parse::<EndpointUrl>();
            let seen = url.as_ref().map(|u| (u.host(), u.port(), u.path_and_query()));
            assert_eq!(seen.map_err(Clone::clone), expected, "{text}");
        }
        assert!(matches!("https:///x".parse::<EndpointUrl>(), Err(InvalidUrl::Syntax(_))));
    }

    #[test]
    fn redirects_lead_to_https_only() {
        let from: EndpointUrl = "https://a.example:8443/bundle".parse().unwrap();
        for (location, to) in [
            ("/moved?x=1#y", Some("https://a.example:8443/moved?x=1")),
            ("https://b.example/", Some("https://b.example/")),
            ("http://a.example/", None),
            ("//b.example/", None),
            ("bundle", None),
            ("https://a@b.example/", None),
            ("", None),
        ] {
            let url = from.redirected(location).ok().map(|u| u.to_string());
            assert_eq!(url.as_deref(), to, "{location}");
        }
    }
}

//! OpenID Connect Discovery 1.0 for JWT-SVIDs: what a cloud's IAM reads to accept them.
//! Pure: the issuer's URL in, the document out; the keys are [`TrustBundle::to_jwks`].
//!
//! [`TrustBundle::to_jwks`]: super::TrustBundle::to_jwks

use std::{fmt, str::FromStr, sync::Arc};

use http::Uri;
use serde_json::{Value, json};

/// An issuer: an https URL without user, query and fragment (Discovery §3), no slash at its
/// end, at most 256 bytes. It is the `iss` of tokens, byte for byte.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OidcIssuer(Arc<str>);

/// A text that is no [`OidcIssuer`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the OIDC issuer {why}: write it as https://host[:port][/path] (OIDC Discovery §3)")]
pub struct InvalidIssuer {
    why: &'static str,
}

impl OidcIssuer {
    /// Where the document must be served, below the issuer.
    pub const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
    /// Where its `jwks_uri` points to, below the issuer.
    pub const JWKS_PATH: &str = "/keys";

    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The discovery document (Discovery §3). RS256 is listed because §3 demands it; tokens are
    /// never asked for here, so `authorization_endpoint` is empty, as SPIRE's is.
    #[must_use]
    pub fn discovery_document(&self) -> Value {
        json!({
            "issuer": *self.0,
            "jwks_uri": format!("{}{}", self.0, Self::JWKS_PATH),
            "authorization_endpoint": "",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "ES384"],
        })
    }
}

impl FromStr for OidcIssuer {
    type Err = InvalidIssuer;

    fn from_str(url: &str) -> Result<Self, InvalidIssuer> {
        let invalid = |why| Err(InvalidIssuer { why });
        if url.len() > 256 {
            return invalid("is longer than 256 bytes");
        }
        let Ok(uri) = url.parse::<Uri>() else { return invalid("is not a URL") };
        if !url.starts_with("https://") {
            return invalid("is not an https URL");
        }
        if uri.authority().is_none_or(|a| a.host().is_empty() || a.as_str().contains('@')) {
            return invalid("has no host, or a user");
        }
        if url.contains(['?', '#']) {
            return invalid("has a query or a fragment");
        }
        if url.ends_with('/') {
            return invalid("ends with a slash");
        }
        Ok(Self(url.into()))
    }
}

impl fmt::Display for OidcIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers() {
        for (url, valid) in [
            ("https://oidc.example.org", true),
            ("https://oidc.example.org:8443/td", true),
            ("http://oidc.example.org", false),
            ("HTTPS://oidc.example.org", false),
            ("https://", false),
            ("https://:443", false),
            ("https://u@example.org", false),
            ("https://example.org/", false),
            ("https://example.org?a", false),
            ("https://example.org#a", false),
            ("https://exa mple.org", false),
            ("oidc.example.org", false),
            ("", false),
        ] {
            assert_eq!(url.parse::<OidcIssuer>().is_ok(), valid, "{url}");
        }
    }

    #[test]
    fn the_document_has_what_discovery_requires() {
        let issuer: OidcIssuer = "https://oidc.example.org/td".parse().unwrap();
        let document = issuer.discovery_document();
        assert_eq!(document["issuer"], issuer.as_str());
        assert_eq!(document["jwks_uri"], "https://oidc.example.org/td/keys");
        for required in
            ["response_types_supported", "subject_types_supported", "authorization_endpoint"]
        {
            assert!(document.get(required).is_some(), "{required}");
        }
        let algorithms = document["id_token_signing_alg_values_supported"].as_array().unwrap();
        assert!(algorithms.contains(&json!("RS256")) && algorithms.contains(&json!("ES256")));
    }
}

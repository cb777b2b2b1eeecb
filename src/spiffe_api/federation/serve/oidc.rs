//! What a cloud's IAM reads to check our JWT-SVIDs: `OpenID` Connect Discovery 1.0 §3, and the
//! keys as a JWK Set.

use std::{fmt, str::FromStr};

use serde_json::Value;

pub use crate::identity::InvalidIssuer;
use crate::identity::{OidcIssuer, TrustBundle};

/// An issuer's URL, and where below it we serve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issuer {
    url: OidcIssuer,
    /// Of the URL: empty or with a leading slash.
    path: String,
}

impl FromStr for Issuer {
    type Err = InvalidIssuer;

    fn from_str(text: &str) -> Result<Self, InvalidIssuer> {
        let url: OidcIssuer = text.parse()?;
        let path = text.parse::<http::Uri>().map(|uri| uri.path().trim_end_matches('/').to_owned());
        Ok(Self { url, path: path.unwrap_or_default() })
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl Issuer {
    /// The document at `path`; the inner `None` while there is no bundle.
    pub(super) fn document(
        &self,
        path: &str,
        bundle: Option<&TrustBundle>,
    ) -> Option<Option<Value>> {
        match path.strip_prefix(self.path.as_str())? {
            OidcIssuer::DISCOVERY_PATH => Some(Some(self.url.discovery_document())),
            OidcIssuer::JWKS_PATH => Some(bundle.map(TrustBundle::to_jwks)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_an_https_url_and_its_documents_are_below_its_path() {
        for bad in ["http://a.example", "https://a.example/", "https://a.example?x", "a.example"] {
            assert!(bad.parse::<Issuer>().is_err(), "{bad}");
        }
        for (issuer, prefix) in
            [("https://oidc.example", ""), ("https://oidc.example:8443/cluster", "/cluster")]
        {
            let issuer: Issuer = issuer.parse().unwrap();
            let path = format!("{prefix}/.well-known/openid-configuration");
            let discovery = issuer.document(&path, None).unwrap().unwrap();
            assert_eq!(discovery["issuer"], issuer.to_string());
            assert_eq!(discovery["jwks_uri"], format!("{issuer}/keys"));
            assert_eq!(issuer.document(&format!("{prefix}/keys"), None), Some(None));
            assert_eq!(issuer.document("/", None), None);
            assert_eq!(issuer.document("/x/keys", None), None);
        }
    }
}

//! What a cloud's IAM reads to check our JWT-SVIDs: `OpenID` Connect Discovery 1.0 §3, and the
//! keys as a JWK Set.

use std::{fmt, str::FromStr};

use serde_json::{Value, json};

use super::document;
use crate::identity::TrustBundle;

/// An issuer's URL: `https`, no query, no fragment (OIDC Discovery §3), without a slash at its
/// end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issuer {
    url: String,
    /// Of the URL: empty or with a leading slash.
    path: String,
}

/// Why a text is no issuer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be https://HOST[/PATH] without query and fragment (OpenID Connect Discovery §3)")]
pub struct InvalidIssuer;

impl FromStr for Issuer {
    type Err = InvalidIssuer;

    fn from_str(text: &str) -> Result<Self, InvalidIssuer> {
        let url: super::super::EndpointUrl = text.parse().map_err(|_| InvalidIssuer)?;
        if text.contains('?') || text.ends_with('/') {
            return Err(InvalidIssuer);
        }
        let path = url.path_and_query().trim_end_matches('/').to_owned();
        Ok(Self { url: text.into(), path })
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
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
            "/.well-known/openid-configuration" => Some(Some(self.discovery())),
            "/keys" => Some(bundle.map(keys)),
            _ => None,
        }
    }

    fn discovery(&self) -> Value {
        json!({
            "issuer": self.url,
            "jwks_uri": format!("{}/keys", self.url),
            "authorization_endpoint": "",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "ES384"],
        })
    }
}

/// The JWT authorities as others than SPIFFE implementations know keys: `use` is `sig`, and the
/// only algorithm that fits is named.
fn keys(bundle: &TrustBundle) -> Value {
    let mut whole = document::write(bundle);
    let keys = whole["keys"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let jwt = keys.into_iter().filter(|key| key["use"] == "jwt-svid");
    let keys: Vec<Value> = jwt
        .map(|mut key| {
            key["use"] = "sig".into();
            let alg = match (key["kty"].as_str(), key["crv"].as_str()) {
                (Some("RSA"), _) => Some("RS256"),
                (Some("EC"), Some("P-256")) => Some("ES256"),
                (Some("EC"), Some("P-384")) => Some("ES384"),
                (Some("EC"), Some("P-521")) => Some("ES512"),
                _ => None,
            };
            if let Some(alg) = alg {
                key["alg"] = alg.into();
            }
            key
        })
        .collect();
    json!({ "keys": keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_an_https_url_and_its_documents_are_below_its_path() {
        for bad in ["http://a.example", "https://a.example/", "https://a.example?x", "a.example"] {
            assert_eq!(bad.parse::<Issuer>(), Err(InvalidIssuer), "{bad}");
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

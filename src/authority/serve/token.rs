//! Kubernetes service-account tokens: what they must say. Whose key signs them is
//! [`super::keys`]'s business.

use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, errors::ErrorKind, jwk::Jwk};
use serde_json::{Map, Value};

use super::authorize::PodToken;

/// The longest token that is looked at.
pub(super) const LONGEST: usize = 16 << 10;
/// The API server's clock may be this much ahead.
const SKEW: Duration = Duration::from_secs(10);
/// What a signature may be made with: no secrets shared with the verifier.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// What a token must say to be taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExpectedClaims {
    /// Its `iss`.
    pub issuer: String,
    /// One of its `aud`.
    pub audience: String,
}

/// Why a token is not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// It is not a JWT, or not of this kind.
    #[error("the token is not a service-account token: {0}")]
    Malformed(String),
    /// Nobody known signed it.
    #[error("no key of the JWKS has the token's kid {0:?}")]
    UnknownKey(String),
    /// Somebody else signed it.
    #[error("the token's signature is not valid")]
    Signature,
    /// Of another cluster.
    #[error("the token's issuer {0:?} is not the configured one")]
    Issuer(String),
    /// Made for another service.
    #[error("the token's audience is not {0:?}")]
    Audience(String),
    /// Too late.
    #[error("the token expired {} ago", crate::identity::length(*.0))]
    Expired(u64),
    /// Too early.
    #[error("the token is not valid yet, for another {}", crate::identity::length(*.0))]
    NotYet(u64),
    /// Not bound to a pod: it would outlive it.
    #[error("the token is not bound to a pod (name and UID)")]
    Unbound,
    /// The keys cannot be fetched.
    #[error("the issuer's keys cannot be fetched: {0}")]
    NoKeys(String),
    /// The API server says no.
    #[error("the API server does not authenticate the token: {0}")]
    Rejected(String),
    /// The API server does not answer.
    #[error("the API server does not answer: {0}")]
    NoReview(String),
}

/// The header of a token whose signature may be checked.
///
/// # Errors
/// It is too long, no JWT, or signed with an algorithm that is not taken.
pub(super) fn header(token: &str) -> Result<(Header, String), TokenError> {
    let bad = |why: &str| TokenError::Malformed(why.into());
    if token.len() > LONGEST {
        return Err(bad("longer than 16 KiB"));
    }
    let header =
        jsonwebtoken::decode_header(token).map_err(|_| bad("its header is not a JWT header"))?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(bad("its algorithm is not one of RS, PS, ES or EdDSA"));
    }
    if header.crit.is_some() {
        return Err(bad("it has a critical header"));
    }
    let kid = header.kid.clone().filter(|kid| !kid.is_empty() && kid.len() <= 256);
    let kid = kid.ok_or_else(|| bad("it has no kid"))?;
    Ok((header, kid))
}

/// The claims, if `key` signed them.
///
/// # Errors
/// Another key signed it, or `key` is for something else.
pub(super) fn claims(
    token: &str,
    header: &Header,
    key: &Jwk,
) -> Result<Map<String, Value>, TokenError> {
    let said = key.common.key_algorithm.map(|a| a.to_string());
    if said.is_some_and(|said| said != format!("{:?}", header.alg)) {
        return Err(TokenError::Signature);
    }
    let key = DecodingKey::from_jwk(key).map_err(|_| TokenError::Signature)?;
    let mut validation = Validation::new(header.alg);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) =
        (false, false, false);
    match jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation) {
        Ok(decoded) => Ok(decoded.claims),
        Err(e) => Err(match e.kind() {
            ErrorKind::Json(_) | ErrorKind::Base64(_) | ErrorKind::Utf8(_) => {
                TokenError::Malformed("its claims are not a JSON object".into())
            }
            _ => TokenError::Signature,
        }),
    }
}

/// Judges signed claims as of `now`. Pure.
///
/// # Errors
/// The first rule they break: issuer, audience, time, pod.
pub(super) fn judge(
    claims: &Map<String, Value>,
    expected: &ExpectedClaims,
    now: SystemTime,
) -> Result<PodToken, TokenError> {
    let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    if issuer != expected.issuer {
        return Err(TokenError::Issuer(issuer.chars().take(200).collect()));
    }
    let for_us = |audience: &Value| audience.as_str() == Some(&expected.audience);
    let named = match claims.get("aud") {
        Some(Value::Array(many)) => many.iter().any(for_us),
        Some(one) => for_us(one),
        None => false,
    };
    if !named {
        return Err(TokenError::Audience(expected.audience.clone()));
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let expires = seconds(claims, "exp")?
        .ok_or_else(|| TokenError::Malformed("it never expires: it has no exp".into()))?;
    if expires <= now {
        return Err(TokenError::Expired(now - expires));
    }
    for begins in [seconds(claims, "nbf")?, seconds(claims, "iat")?].into_iter().flatten() {
        if begins > now + SKEW.as_secs() {
            return Err(TokenError::NotYet(begins - now));
        }
    }
    let kubernetes = claims.get("kubernetes.io").ok_or(TokenError::Unbound)?;
    let text =
        |at: &str| Some(kubernetes.pointer(at)?.as_str()?.to_owned()).filter(|t| !t.is_empty());
    let no = |what: &str| TokenError::Malformed(format!("it has no {what}"));
    let token = PodToken {
        pod: text("/pod/name").ok_or(TokenError::Unbound)?,
        uid: text("/pod/uid").ok_or(TokenError::Unbound)?,
        node: text("/node/name"),
        namespace: text("/namespace").ok_or_else(|| no("namespace"))?,
        service_account: text("/serviceaccount/name").ok_or_else(|| no("service account"))?,
    };
    let subject = format!("system:serviceaccount:{}:{}", token.namespace, token.service_account);
    if claims.get("sub").and_then(Value::as_str) != Some(&subject) {
        return Err(TokenError::Malformed(format!("its sub is not {subject}")));
    }
    Ok(token)
}

fn seconds(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, TokenError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    // Whole seconds; some issuers write fractions.
    let number = value.as_u64().or_else(|| value.as_f64().filter(|n| *n >= 0.0).map(|n| n as u64));
    number.map(Some).ok_or_else(|| TokenError::Malformed(format!("its {name} is not a valid time")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Value {
        json!({
            "iss": "https://k8s", "aud": ["x", "istio-ca"], "exp": 2000, "nbf": 1000, "iat": 1000,
            "sub": "system:serviceaccount:shop:web",
            "kubernetes.io": {
                "namespace": "shop", "serviceaccount": { "name": "web", "uid": "s" },
                "pod": { "name": "web-1", "uid": "u" }, "node": { "name": "n1", "uid": "n" },
            },
        })
    }

    fn judged(change: impl FnOnce(&mut Value)) -> Result<PodToken, TokenError> {
        let mut claims = good();
        change(&mut claims);
        let expected = ExpectedClaims { issuer: "https://k8s".into(), audience: "istio-ca".into() };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1500);
        judge(claims.as_object().unwrap(), &expected, now)
    }

    #[test]
    fn what_a_token_must_say() {
        let token = judged(|_| ()).unwrap();
        assert_eq!((token.pod.as_str(), token.node.as_deref()), ("web-1", Some("n1")));
        assert!(judged(|c| c["aud"] = json!("istio-ca")).is_ok());
        assert!(judged(|c| c["nbf"] = json!(1510)).is_ok(), "clocks may differ by 10 s");
        let old_cluster = judged(|c| {
            c["kubernetes.io"].as_object_mut().unwrap().remove("node");
        });
        assert_eq!(old_cluster.unwrap().node, None);
        type Change = fn(&mut Value);
        let unsaid: [(Change, TokenError); 10] = [
            (|c| c["iss"] = json!("https://evil"), TokenError::Issuer("https://evil".into())),
            (|c| c["iss"] = json!(["https://k8s"]), TokenError::Issuer(String::new())),
            (|c| c["aud"] = json!("istio-ca2"), TokenError::Audience("istio-ca".into())),
            (|c| c["aud"] = json!([]), TokenError::Audience("istio-ca".into())),
            (|c| c["exp"] = json!(1500), TokenError::Expired(0)),
            (|c| c["exp"] = json!(1400.5), TokenError::Expired(100)),
            (|c| c["nbf"] = json!(1511), TokenError::NotYet(11)),
            (|c| c["iat"] = json!(1600), TokenError::NotYet(100)),
            (|c| c["kubernetes.io"]["pod"] = Value::Null, TokenError::Unbound),
            (|c| c["kubernetes.io"]["pod"]["uid"] = json!(""), TokenError::Unbound),
        ];
        for (change, error) in unsaid {
            assert_eq!(judged(change).unwrap_err(), error);
        }
        let malformed: [Change; 5] = [
            |c| c["exp"] = Value::Null,
            |c| c["exp"] = json!("2000"),
            |c| c["exp"] = json!(-1),
            |c| c["sub"] = json!("system:serviceaccount:shop:db"),
            |c| c["kubernetes.io"]["namespace"] = json!(7),
        ];
        for change in malformed {
            assert!(matches!(judged(change), Err(TokenError::Malformed(_))));
        }
    }

    #[test]
    fn secrets_and_none_are_no_signature() {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
        for alg in ["HS256", "none", "ES256K"] {
            let header = B64.encode(format!(r#"{{"alg":"{alg}","kid":"k"}}"#));
            assert!(matches!(
                super::header(&format!("{header}.e30.")),
                Err(TokenError::Malformed(_))
            ));
        }
        // RFC 7515 §4.1.11: what must be understood and is not makes the whole of it wrong.
        for (header, taken) in [
            (r#"{"alg":"ES256","kid":"k"}"#, true),
            (r#"{"alg":"ES256","kid":"k","crit":["exp"]}"#, false),
            (r#"{"alg":"ES256"}"#, false),
            (r#"{"alg":"ES256","kid":""}"#, false),
        ] {
            let read = super::header(&format!("{}.e30.", B64.encode(header)));
            assert_eq!(read.is_ok(), taken, "{header}");
        }
        assert!(super::header(&"x".repeat(LONGEST + 1)).is_err());
    }
}

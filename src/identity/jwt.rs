//! JWT-SVIDs (JWT-SVID §2–§5): who a caller says it is, in a token. [`validate_jwt_svid`] is the
//! only judge of one; [`JwtSigner`] makes them.
//! Not here: which caller may have which ID, and where bundles come from.

mod error;
mod sign;

use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

pub use error::JwtError;
pub use sign::{JwtSignError, JwtSigner};

use super::{
    BundleSet, Curve, JwtAuthority, PublicKey, SpiffeId,
    strict_json::{self, JsonError},
};

/// The longest token that is read, in bytes.
pub const MAX_TOKEN: usize = 16 << 10;

/// A JWT-SVID that was found right.
#[derive(Clone, Debug)]
pub struct JwtSvid {
    /// Its `sub`.
    pub id: SpiffeId,
    /// Its `aud`.
    pub audiences: Vec<String>,
    /// Its `exp`.
    pub expires: SystemTime,
    /// All its claims.
    pub claims: Map<String, Value>,
}

/// Judges a token for `audience` as of `now`, with the JWT authorities of the bundle of its own
/// trust domain and no other. `kid` is demanded, as other implementations do, and there is no
/// leeway for clocks: the spec allows some (Appendix A) and requires none.
///
/// # Errors
/// The first rule it breaks, with its clause.
pub fn validate_jwt_svid(
    token: &str,
    audience: &str,
    bundles: &BundleSet,
    now: SystemTime,
) -> Result<JwtSvid, JwtError> {
    let parts = Parts::split(token)?;
    let header = Header::read(parts.header)?;
    let svid = read_claims(object(parts.claims, CLAIMS)?)?;
    let authority = authority(&header, &svid.id, bundles)?;
    check_signature(&parts, &header, authority)?;
    check_time(&svid, now)?;
    if !svid.audiences.iter().any(|presented| presented == audience) {
        let presented = svid.audiences.iter().take(8).map(|audience| cut(audience)).collect();
        return Err(JwtError::Audience { presented, expected: cut(audience) });
    }
    Ok(svid)
}

pub(super) const HEADER: &str = "header";
pub(super) const CLAIMS: &str = "claims";

/// The three parts of the Compact Serialization (RFC 7515 §3.1), still encoded.
pub(super) struct Parts<'a> {
    signed: &'a str,
    pub(super) header: &'a str,
    pub(super) claims: &'a str,
    pub(super) signature: &'a str,
}

impl<'a> Parts<'a> {
    pub(super) fn split(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN {
            return Err(JwtError::TooLong(token.len()));
        }
        if token.trim_start().starts_with('{') {
            return Err(JwtError::JsonSerialization);
        }
        let not_compact = || JwtError::NotCompact { parts: token.split('.').count() };
        let (signed, signature) = token.rsplit_once('.').ok_or_else(not_compact)?;
        let (header, claims) = signed.split_once('.').ok_or_else(not_compact)?;
        if claims.contains('.') {
            return Err(not_compact());
        }
        Ok(Self { signed, header, claims, signature })
    }
}

pub(super) fn decode(text: &str, part: &'static str) -> Result<Vec<u8>, JwtError> {
    BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| JwtError::Encoding(part))
}

pub(super) fn object(text: &str, part: &'static str) -> Result<Map<String, Value>, JwtError> {
    match strict_json::parse(&decode(text, part)?) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(JwtError::Json { part, why: "it has another type".into() }),
        Err(JsonError::Duplicate(name)) => Err(JwtError::DuplicateMember { part, name }),
        Err(JsonError::Syntax(why)) => Err(JwtError::Json { part, why }),
        Err(JsonError::TooManyValues) => {
            Err(JwtError::Json { part, why: "too many values".into() })
        }
    }
}

/// What the JOSE header says, once it keeps the rules of §2.
pub(super) struct Header {
    algorithm: &'static Algorithm,
    key_id: String,
}

impl Header {
    fn read(text: &str) -> Result<Self, JwtError> {
        let (header, faults) = Self::of(&object(text, HEADER)?);
        match faults.into_iter().next() {
            Some(first) => Err(first),
            None => header.ok_or(JwtError::NoKeyId),
        }
    }

    /// What it says, if that is enough to choose a key, and every rule of §2 that is broken.
    pub(super) fn of(header: &Map<String, Value>) -> (Option<Self>, Vec<JwtError>) {
        let mut faults = Vec::new();
        let name = header.get("alg").and_then(Value::as_str).unwrap_or_default();
        let algorithm = ALGORITHMS.iter().find(|known| known.name == name);
        if algorithm.is_none() {
            faults.push(JwtError::Algorithm(cut(name)));
        }
        let others = header.keys().filter(|m| !matches!(m.as_str(), "alg" | "kid" | "typ"));
        faults.extend(others.map(|other| JwtError::HeaderMember(cut(other))));
        match header.get("typ") {
            None => {}
            Some(Value::String(typ)) if matches!(typ.as_str(), "JWT" | "JOSE") => {}
            Some(typ) => faults.push(JwtError::Type(cut(&typ.to_string()))),
        }
        let key_id = header.get("kid").and_then(Value::as_str).filter(|id| !id.is_empty());
        if key_id.is_none() {
            faults.push(JwtError::NoKeyId);
        }
        let said = algorithm.zip(key_id);
        (said.map(|(algorithm, key_id)| Self { algorithm, key_id: key_id.into() }), faults)
    }
}

/// Which keys an algorithm goes with.
#[derive(PartialEq)]
enum Fits {
    Rsa,
    Ec(Curve),
}

struct Algorithm {
    name: &'static str,
    fits: Fits,
    verify: &'static (dyn VerificationAlgorithm + Sync),
}

/// The table of JWT-SVID §2.1.
static ALGORITHMS: [Algorithm; 9] = [
    Algorithm { name: "ES256", fits: Fits::Ec(Curve::P256), verify: &ECDSA_P256_SHA256_FIXED },
    Algorithm { name: "ES384", fits: Fits::Ec(Curve::P384), verify: &ECDSA_P384_SHA384_FIXED },
    Algorithm { name: "ES512", fits: Fits::Ec(Curve::P521), verify: &ECDSA_P521_SHA512_FIXED },
    Algorithm { name: "RS256", fits: Fits::Rsa, verify: &RSA_PKCS1_2048_8192_SHA256 },
    Algorithm { name: "RS384", fits: Fits::Rsa, verify: &RSA_PKCS1_2048_8192_SHA384 },
    Algorithm { name: "RS512", fits: Fits::Rsa, verify: &RSA_PKCS1_2048_8192_SHA512 },
    Algorithm { name: "PS256", fits: Fits::Rsa, verify: &RSA_PSS_2048_8192_SHA256 },
    Algorithm { name: "PS384", fits: Fits::Rsa, verify: &RSA_PSS_2048_8192_SHA384 },
    Algorithm { name: "PS512", fits: Fits::Rsa, verify: &RSA_PSS_2048_8192_SHA512 },
];

fn read_claims(claims: Map<String, Value>) -> Result<JwtSvid, JwtError> {
    let id = subject(&claims)?;
    let audiences = audiences(&claims)?;
    let expires = expires(&claims)?;
    let wrong = claim_type_faults(&claims).next();
    wrong.map_or(Ok(JwtSvid { id, audiences, expires, claims }), Err)
}

fn claim<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<&'a Value, JwtError> {
    claims.get(name).ok_or(JwtError::NoClaim(name))
}

/// `sub` (§3.1).
pub(super) fn subject(claims: &Map<String, Value>) -> Result<SpiffeId, JwtError> {
    let sub = claim(claims, "sub")?.as_str().ok_or(JwtError::ClaimType("sub", "a string"))?;
    let id: SpiffeId = sub.parse().map_err(JwtError::NotSpiffeId)?;
    if id.path().is_empty() { Err(JwtError::NoPath(id)) } else { Ok(id) }
}

/// `exp` (§3.3).
pub(super) fn expires(claims: &Map<String, Value>) -> Result<SystemTime, JwtError> {
    let expires = match claim(claims, "exp")? {
        Value::Number(exp) if exp.is_u64() => exp.as_u64(),
        Value::Number(exp) if exp.is_i64() => Some(0), // before 1970: as expired as can be
        _ => None,
    };
    expires
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or(JwtError::ClaimType("exp", "an integer of seconds since 1970"))
}

/// Registered claims of another type than theirs (RFC 7519 §4.1).
pub(super) fn claim_type_faults(claims: &Map<String, Value>) -> impl Iterator<Item = JwtError> {
    type Is = fn(&Value) -> bool;
    let number: (Is, _) = (Value::is_number, "a number");
    let text: (Is, _) = (Value::is_string, "a string");
    let rules = [("iat", number), ("nbf", number), ("iss", text), ("jti", text)];
    let wrong = |(name, (is, what)): (&'static str, (Is, &'static str))| {
        let wrong = claims.get(name).is_some_and(|value| !is(value));
        wrong.then_some(JwtError::ClaimType(name, what))
    };
    rules.into_iter().filter_map(wrong)
}

/// `aud` (§3.2).
pub(super) fn audiences(claims: &Map<String, Value>) -> Result<Vec<String>, JwtError> {
    let texts = match claim(claims, "aud")? {
        Value::Array(texts) if texts.is_empty() => return Err(JwtError::EmptyAudience),
        Value::Array(texts) => texts.as_slice(),
        text => std::slice::from_ref(text),
    };
    let text = |text: &Value| match text {
        Value::String(text) if text.is_empty() => Err(JwtError::EmptyAudience),
        Value::String(text) => Ok(text.clone()),
        _ => Err(JwtError::ClaimType("aud", "a string or an array of strings")),
    };
    texts.iter().map(text).collect()
}

/// The key that `kid` names, in the bundle of the ID's own trust domain.
pub(super) fn authority<'a>(
    header: &Header,
    id: &SpiffeId,
    bundles: &'a BundleSet,
) -> Result<&'a JwtAuthority, JwtError> {
    let trust_domain = id.trust_domain();
    let bundle = bundles.get(trust_domain);
    let bundle = bundle.ok_or_else(|| JwtError::UnknownTrustDomain(trust_domain.clone()))?;
    let mut authorities = bundle.jwt_authorities.iter();
    authorities.find(|authority| *authority.key_id == *header.key_id).ok_or_else(|| {
        JwtError::UnknownKey { key_id: cut(&header.key_id), trust_domain: trust_domain.clone() }
    })
}

pub(super) fn check_signature(
    parts: &Parts<'_>,
    header: &Header,
    authority: &JwtAuthority,
) -> Result<(), JwtError> {
    let bad_key = |why| JwtError::BadKey { key_id: cut(&header.key_id), why };
    let key = PublicKey::from_spki(&authority.public_key).map_err(bad_key)?;
    key.check_signs_jwts().map_err(bad_key)?;
    let fits = match key {
        PublicKey::Ec { curve, .. } => Fits::Ec(curve),
        PublicKey::Rsa { .. } | PublicKey::Ed25519(_) => Fits::Rsa, // Ed25519 was refused above
    };
    if fits != header.algorithm.fits {
        return Err(JwtError::KeyMismatch {
            algorithm: header.algorithm.name,
            key_id: cut(&header.key_id),
        });
    }
    let signature = decode(parts.signature, "signature")?;
    UnparsedPublicKey::new(header.algorithm.verify, &authority.public_key)
        .verify(parts.signed.as_bytes(), &signature)
        .map_err(|_| JwtError::Signature)
}

pub(super) fn check_time(svid: &JwtSvid, now: SystemTime) -> Result<(), JwtError> {
    if svid.expires <= now {
        let ago = now.duration_since(svid.expires).unwrap_or_default();
        return Err(JwtError::Expired { id: svid.id.clone(), ago_seconds: ago.as_secs() });
    }
    let Some(not_before) = svid.claims.get("nbf").and_then(Value::as_f64) else { return Ok(()) };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if not_before > now {
        let in_seconds = (not_before - now).ceil() as u64;
        return Err(JwtError::NotYetValid { id: svid.id.clone(), in_seconds });
    }
    Ok(())
}

/// A peer's text for our logs.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests; // src/identity/jwt/tests.rs

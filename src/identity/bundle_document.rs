//! SPIFFE bundle documents: a [`TrustBundle`] as a JWK Set (SPIFFE Trust Domain and Bundle §4,
//! X509-SVID §6, JWT-SVID §6), and the plain JWK Set that the Workload API and OIDC want.
//! A document does not name its trust domain: whoever fetched it knows.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    JwtAuthority, KeyError, PublicKey, TrustBundle, TrustDomain,
    strict_json::{self, JsonError},
};

/// The largest document that is read, in bytes.
pub const MAX_DOCUMENT: usize = 4 << 20;
/// The most keys that are read, known and unknown.
pub const MAX_KEYS: usize = 1_000;

/// Why bytes are no bundle document. The bundle one had stays the one to use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DocumentError {
    /// Larger than [`MAX_DOCUMENT`].
    #[error("the bundle document has {0} bytes, the limit is {MAX_DOCUMENT}")]
    TooLarge(usize),
    /// Not JSON, or not an object.
    #[error("the bundle document is not a JSON object: {0}")]
    Json(String),
    /// A member twice in one object (§6.3).
    #[error("the bundle document has a member {0:?} twice (Trust Domain and Bundle §6.3)")]
    DuplicateMember(String),
    /// No array `keys` (§4.1.3); an empty one is right and trusts nobody.
    #[error("the bundle document has no array `keys` (Trust Domain and Bundle §4.1.3)")]
    NoKeys,
    /// More than [`MAX_KEYS`].
    #[error("the bundle document has {0} keys, the limit is {MAX_KEYS}")]
    TooManyKeys(usize),
    /// `spiffe_sequence` or `spiffe_refresh_hint` is not an integer of 64 bits (§4.1.1, §4.1.2).
    #[error("{0} is not an integer from 0 to 2^64-1 (Trust Domain and Bundle §4.1)")]
    NotInteger(&'static str),
    /// An entry of a known type and use is wrong.
    #[error("entry {index} of `keys`: {why}")]
    Entry {
        /// Which, from 0.
        index: usize,
        /// What is wrong.
        why: EntryError,
    },
}

/// What is wrong with one entry.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EntryError {
    /// Not an object.
    #[error("it is not an object (RFC 7517 §5)")]
    NotObject,
    /// `kty` is missing or no text (§4.2.1).
    #[error("it has no kty (Trust Domain and Bundle §4.2.1)")]
    NoKeyType,
    /// The first of `x5c` is not one certificate.
    #[error("its x5c does not begin with one certificate, base64 of DER (X509-SVID §6.1)")]
    Certificate,
    /// A JWT key without `kid`.
    #[error("it has no kid (JWT-SVID §6.1)")]
    NoKeyId,
    /// Two different JWT keys with one `kid`.
    #[error("its kid {0:?} is also the kid of another key")]
    KeyIdTwice(String),
    /// The key itself.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl TrustBundle {
    /// Reads a bundle document that was fetched for `trust_domain`. Entries of unknown type or
    /// use are ignored; without known ones the bundle trusts nobody (§4.1.3). CRLs are no part
    /// of a document.
    ///
    /// # Errors
    /// What is wrong with it; one bad entry of a known use invalidates the document.
    pub fn from_document(
        trust_domain: TrustDomain,
        document: &[u8],
    ) -> Result<Self, DocumentError> {
        let document = object(document)?;
        let mut bundle = Self::new(trust_domain, Vec::new());
        bundle.sequence = integer(&document, "spiffe_sequence")?;
        bundle.refresh_hint = integer(&document, "spiffe_refresh_hint")?.map(Duration::from_secs);
        for (index, entry) in keys(&document)?.iter().enumerate() {
            bundle.add(entry).map_err(|why| DocumentError::Entry { index, why })?;
        }
        Ok(bundle)
    }

    pub(super) fn add(&mut self, entry: &Value) -> Result<(), EntryError> {
        let jwk = known(entry)?;
        match jwk.get("use").and_then(Value::as_str) {
            Some(X509_USE) => {
                if let Some(certificate) = certificate(jwk)?
                    && !self.authorities.contains(&certificate)
                {
                    self.authorities.push(certificate);
                }
                Ok(())
            }
            Some(JWT_USE) => add_jwt_authority(&mut self.jwt_authorities, jwk),
            _ => Ok(()), // §4.2.2: unknown or none
        }
    }

    /// The bundle document: one entry per authority.
    ///
    /// An authority whose key has no JWK form (as DSA) is left out: nobody could read it.
    #[must_use]
    pub fn to_document(&self) -> Value {
        let x509 = self.authorities.iter().filter_map(|authority| {
            let (_, parsed) = X509Certificate::from_der(authority).ok()?;
            let mut jwk = PublicKey::from_spki(parsed.public_key().raw).ok()?.to_jwk();
            jwk.insert("use".into(), X509_USE.into());
            // X509-SVID §6.1: exactly one certificate.
            jwk.insert("x5c".into(), json!([BASE64_STANDARD.encode(authority)]));
            Some(Value::Object(jwk))
        });
        let keys: Vec<Value> = x509.chain(self.jwt_keys(JWT_USE, false)).collect();
        let mut document = Map::new();
        document.insert("keys".into(), keys.into());
        if let Some(sequence) = self.sequence {
            document.insert("spiffe_sequence".into(), sequence.into());
        }
        if let Some(hint) = self.refresh_hint {
            document.insert("spiffe_refresh_hint".into(), hint.as_secs().into());
        }
        Value::Object(document)
    }

    /// The JWT authorities alone as a standard JWK Set, for the Workload API (`FetchJWTBundles`)
    /// and an OIDC `jwks_uri`.
    ///
    /// `use` is `sig` (RFC 7517 §4.2): some relying parties of OIDC insist on one, go-spiffe
    /// and the `spiffe` crate accept it there, and `jwt-svid` would make the former ignore the key.
    /// EC keys say their only `alg`; RSA keys fit six and name none.
    #[must_use]
    pub fn to_jwks(&self) -> Value {
        json!({ "keys": self.jwt_keys("sig", true).collect::<Vec<_>>() })
    }

    fn jwt_keys(&self, r#use: &'static str, with_algorithm: bool) -> impl Iterator<Item = Value> {
        self.jwt_authorities.iter().filter_map(move |authority| {
            let key = PublicKey::from_spki(&authority.public_key).ok()?;
            let mut jwk = key.to_jwk();
            jwk.insert("kid".into(), (*authority.key_id).into());
            jwk.insert("use".into(), r#use.into());
            if let (PublicKey::Ec { curve, .. }, true) = (&key, with_algorithm) {
                jwk.insert("alg".into(), curve.algorithm().into());
            }
            Some(Value::Object(jwk))
        })
    }
}

impl JwtAuthority {
    /// Reads the JWK Set that the Workload API gives for one trust domain, or a SPIFFE bundle
    /// document. `use` may be absent, `sig` or `jwt-svid`; other uses and unknown key types are
    /// ignored.
    ///
    /// # Errors
    /// As [`TrustBundle::from_document`].
    pub fn from_jwks(jwks: &[u8]) -> Result<Vec<Self>, DocumentError> {
        let jwks = object(jwks)?;
        let mut authorities = Vec::new();
        for (index, entry) in keys(&jwks)?.iter().enumerate() {
            let mut add = |entry| {
                let jwk = known(entry)?;
                match jwk.get("use").map(Value::as_str) {
                    None | Some(Some("sig" | JWT_USE)) => add_jwt_authority(&mut authorities, jwk),
                    Some(_) => Ok(()),
                }
            };
            add(entry).map_err(|why| DocumentError::Entry { index, why })?;
        }
        Ok(authorities)
    }
}

pub(super) const X509_USE: &str = "x509-svid";
pub(super) const JWT_USE: &str = "jwt-svid";

pub(super) fn object(text: &[u8]) -> Result<Map<String, Value>, DocumentError> {
    if text.len() > MAX_DOCUMENT {
        return Err(DocumentError::TooLarge(text.len()));
    }
    match strict_json::parse(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(DocumentError::Json("it has another type".into())),
        Err(JsonError::Duplicate(name)) => Err(DocumentError::DuplicateMember(name)),
        Err(JsonError::Syntax(why)) => Err(DocumentError::Json(why)),
        Err(JsonError::TooManyValues) => Err(DocumentError::Json("too many values".into())),
    }
}

pub(super) fn keys(document: &Map<String, Value>) -> Result<&[Value], DocumentError> {
    let keys = document.get("keys").and_then(Value::as_array).ok_or(DocumentError::NoKeys)?;
    if keys.len() > MAX_KEYS {
        return Err(DocumentError::TooManyKeys(keys.len()));
    }
    Ok(keys)
}

pub(super) fn integer(
    document: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<u64>, DocumentError> {
    let not_integer = DocumentError::NotInteger(name);
    document.get(name).map(|value| value.as_u64().ok_or(not_integer)).transpose()
}

fn known(entry: &Value) -> Result<&Map<String, Value>, EntryError> {
    let jwk = entry.as_object().ok_or(EntryError::NotObject)?;
    jwk.get("kty").and_then(Value::as_str).ok_or(EntryError::NoKeyType)?;
    Ok(jwk)
}

/// The first of `x5c`; none if there is none (X509-SVID §6.2), or if the key's type is unknown.
fn certificate(jwk: &Map<String, Value>) -> Result<Option<CertificateDer<'static>>, EntryError> {
    if !matches!(jwk["kty"].as_str(), Some("EC" | "RSA" | "OKP")) {
        return Ok(None); // §4.2.1
    }
    let first = match jwk.get("x5c") {
        None => return Ok(None),
        Some(Value::Array(certificates)) => certificates.first(),
        Some(_) => return Err(EntryError::Certificate),
    };
    let Some(first) = first else { return Ok(None) };
    let der = first.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
    let der = der.ok_or(EntryError::Certificate)?;
    match X509Certificate::from_der(&der) {
        Ok(([], _)) => Ok(Some(der.into())),
        _ => Err(EntryError::Certificate),
    }
}

fn add_jwt_authority(
    authorities: &mut Vec<JwtAuthority>,
    jwk: &Map<String, Value>,
) -> Result<(), EntryError> {
    let key = match PublicKey::from_jwk(jwk) {
        Err(KeyError::UnknownType(_)) => return Ok(()), // §4.2.1
        key => key?,
    };
    if matches!(key, PublicKey::Ed25519(_)) {
        return Ok(()); // no JWT-SVID algorithm goes with it: as unknown
    }
    key.check_signs_jwts()?;
    let key_id = jwk.get("kid").and_then(Value::as_str).filter(|id| !id.is_empty());
    let key_id: Arc<str> = key_id.ok_or(EntryError::NoKeyId)?.into();
    let new = JwtAuthority { key_id, public_key: key.to_spki().into() };
    match authorities.iter().find(|other| other.key_id == new.key_id) {
        None => authorities.push(new),
        Some(same) if *same == new => {}
        Some(_) => {
            return Err(EntryError::KeyIdTwice(new.key_id.chars().take(64).collect()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests; // src/identity/bundle_document/tests.rs

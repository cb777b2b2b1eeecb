//! Signing JWT-SVIDs with ES256. What is signed here, [`super::validate_jwt_svid`] accepts.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::MAX_TOKEN;
use crate::identity::{Curve, JwtAuthority, PrivateKey, PublicKey, SpiffeId};

/// Why a JWT-SVID cannot be signed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JwtSignError {
    /// The key is not P-256 in PKCS#8.
    #[error("the JWT signing key is not a P-256 key in PKCS#8")]
    Key,
    /// No audience, or an empty one.
    #[error("a JWT-SVID needs at least one audience, none of them empty (JWT-SVID §3.2)")]
    NoAudience,
    /// The ID names the trust domain itself.
    #[error("{0} has no path: it names the trust domain, and gets no JWT-SVID (JWT-SVID §3.1)")]
    NoPath(SpiffeId),
    /// Shorter than a second, or longer than time goes.
    #[error("a JWT-SVID cannot live for {0:?} from now: at least 1 s")]
    Lifetime(Duration),
    /// Longer than anybody reads.
    #[error("the token would have {0} bytes, the limit is {MAX_TOKEN}: ask for fewer audiences")]
    TooLong(usize),
    /// Cryptography failed.
    #[error("the JWT-SVID could not be signed")]
    Sign,
}

/// A JWT authority with its private key: P-256, always ES256, always with `kid`.
pub struct JwtSigner {
    key: EcdsaKeyPair,
    public_key: PublicKey,
    key_id: Arc<str>,
    issuer: Option<Arc<str>>,
}

impl fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtSigner({})", self.key_id)
    }
}

impl JwtSigner {
    /// Signs with `key`; the `kid` is its JWK thumbprint (RFC 7638), so that two keys never
    /// share one and no state is needed to know it.
    ///
    /// # Errors
    /// [`JwtSignError::Key`].
    pub fn new(key: &PrivateKey) -> Result<Self, JwtSignError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.pkcs8())
            .map_err(|_| JwtSignError::Key)?;
        let Some((4, point)) = key.public_key().as_ref().split_first() else {
            return Err(JwtSignError::Key);
        };
        let public_key = PublicKey::Ec { curve: Curve::P256, point: point.to_vec() };
        let key_id = public_key.thumbprint().into();
        Ok(Self { key, public_key, key_id, issuer: None })
    }

    /// This signer with another `kid`, which must be unique in the trust domain.
    #[must_use]
    pub fn with_key_id(self, key_id: &str) -> Self {
        Self { key_id: key_id.into(), ..self }
    }

    /// This signer with an `iss`, as OIDC federation wants: the issuer's URL.
    #[must_use]
    pub fn with_issuer(self, issuer: &str) -> Self {
        Self { issuer: Some(issuer.into()), ..self }
    }

    /// What the trust bundle says of this key.
    #[must_use]
    pub fn authority(&self) -> JwtAuthority {
        let public_key = self.public_key.to_spki().into();
        JwtAuthority { key_id: self.key_id.clone(), public_key }
    }

    /// A JWT-SVID for `id`, for `audiences` (one is advised, §3.2), from `now` for `lifetime` in
    /// whole seconds. Whether the caller may have it is decided before.
    ///
    /// # Errors
    /// What was asked for cannot be a JWT-SVID.
    pub fn sign_jwt_svid(
        &self,
        id: &SpiffeId,
        audiences: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, JwtSignError> {
        if id.path().is_empty() {
            return Err(JwtSignError::NoPath(id.clone()));
        }
        let aud = match audiences {
            [] => return Err(JwtSignError::NoAudience),
            _ if audiences.iter().any(String::is_empty) => return Err(JwtSignError::NoAudience),
            [only] => json!(only),
            several => json!(several),
        };
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
        let until = now.checked_add(lifetime).and_then(seconds);
        let (Some(now), Some(until), 1..) = (seconds(now), until, lifetime.as_secs()) else {
            return Err(JwtSignError::Lifetime(lifetime));
        };
        let mut claims = json!({
            "sub": id.as_str(), "aud": aud, "iat": now.as_secs(), "exp": until.as_secs(),
        });
        if let Some(issuer) = &self.issuer {
            claims["iss"] = json!(**issuer);
        }
        let header = json!({ "alg": "ES256", "kid": *self.key_id, "typ": "JWT" });
        self.sign(&header, &claims)
    }

    fn sign(&self, header: &Value, claims: &Value) -> Result<String, JwtSignError> {
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| JwtSignError::Sign)?;
        let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        match token.len() {
            ..=MAX_TOKEN => Ok(token),
            length => Err(JwtSignError::TooLong(length)),
        }
    }
}

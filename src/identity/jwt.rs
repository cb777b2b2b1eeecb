//! JWT-SVIDs (JWT-SVID §2–§5): who a caller says it is, in a token.

use std::time::SystemTime;

use serde_json::{Map, Value};

use super::{BundleSet, SpiffeId};

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

/// Why a token is no acceptable JWT-SVID.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JwtError {
    /// Nothing can be validated yet.
    #[error("JWT-SVIDs are not validated by this build")]
    NotBuilt,
}

/// Judges a token for `audience` as of `now`, with the JWT authorities of the bundle of its own
/// trust domain and no other.
///
/// # Errors
/// The first rule it breaks, with its clause.
pub fn validate_jwt_svid(
    _token: &str,
    _audience: &str,
    _bundles: &BundleSet,
    _now: SystemTime,
) -> Result<JwtSvid, JwtError> {
    Err(JwtError::NotBuilt)
}

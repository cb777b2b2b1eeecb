//! Bundles as text: the SPIFFE document, or for files also certificates in PEM.

use super::error::FetchError;
use crate::identity::{TrustBundle, TrustDomain, pem};

/// Reads a bundle document.
pub(super) fn read(trust_domain: &TrustDomain, text: &[u8]) -> Result<TrustBundle, FetchError> {
    TrustBundle::from_document(trust_domain.clone(), text)
        .map_err(|e| FetchError::NotBundle(e.to_string()))
}

/// Reads what an operator put into a file: a bundle document, or PEM.
pub(super) fn read_file(
    trust_domain: &TrustDomain,
    text: &[u8],
) -> Result<TrustBundle, FetchError> {
    if text.trim_ascii_start().starts_with(b"{") {
        return read(trust_domain, text);
    }
    let bad = |why: String| FetchError::NotBundle(why);
    let authorities = pem::certificates(text).map_err(|e| bad(e.to_string()))?;
    match authorities.is_empty() {
        true => Err(bad("not a bundle document and not PEM certificates".into())),
        false => Ok(TrustBundle::new(trust_domain.clone(), authorities)),
    }
}

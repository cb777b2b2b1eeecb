//! Bundles as text: the SPIFFE document, or for files also certificates in PEM.

use pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;

use super::error::FetchError;
use crate::identity::{TrustBundle, TrustDomain};

/// Reads a bundle document.
pub(super) fn read(trust_domain: &TrustDomain, text: &[u8]) -> Result<TrustBundle, FetchError> {
    let bad = |why: String| FetchError::NotBundle(why);
    let value: Value = serde_json::from_slice(text).map_err(|e| bad(e.to_string()))?;
    let keys = value["keys"].as_array().ok_or_else(|| bad("no keys".into()))?;
    let mut bundle = TrustBundle::new(trust_domain.clone(), Vec::new());
    for key in keys {
        use base64::Engine;
        let Some(der) = key["x5c"][0].as_str() else { continue };
        let der = base64::engine::general_purpose::STANDARD.decode(der);
        bundle.authorities.push(der.map_err(|e| bad(e.to_string()))?.into());
    }
    bundle.sequence = value["spiffe_sequence"].as_u64();
    bundle.refresh_hint = value["spiffe_refresh_hint"].as_u64().map(std::time::Duration::from_secs);
    Ok(bundle)
}

/// Reads what an operator put into a file: a bundle document, or PEM.
pub(super) fn read_file(
    trust_domain: &TrustDomain,
    text: &[u8],
) -> Result<TrustBundle, FetchError> {
    if text.trim_ascii_start().starts_with(b"{") {
        return read(trust_domain, text);
    }
    let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let bad = |why: String| FetchError::NotBundle(why);
    let authorities = authorities.map_err(|e| bad(format!("not PEM: {e}")))?;
    match authorities.is_empty() {
        true => Err(bad("neither a bundle document nor certificates in PEM".into())),
        false => Ok(TrustBundle::new(trust_domain.clone(), authorities)),
    }
}

/// Writes a bundle document.
pub(super) fn write(bundle: &TrustBundle) -> Value {
    use base64::Engine;
    let keys: Vec<Value> = bundle
        .authorities
        .iter()
        .map(|der| {
            let der = base64::engine::general_purpose::STANDARD.encode(der);
            serde_json::json!({ "use": "x509-svid", "kty": "EC", "x5c": [der] })
        })
        .collect();
    let mut value = serde_json::json!({ "keys": keys });
    if let Some(sequence) = bundle.sequence {
        value["spiffe_sequence"] = sequence.into();
    }
    if let Some(hint) = bundle.refresh_hint {
        value["spiffe_refresh_hint"] = hint.as_secs().into();
    }
    value
}

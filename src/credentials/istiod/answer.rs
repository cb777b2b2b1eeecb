//! Whether what istiod answered may be used: the whole of it, before any of it is.

use std::time::{Duration, SystemTime};

use pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{
    BundleSet, KeyUsageRule, Leaf, Purpose, SpiffeId, TrustBundle, parse_leaf_by, pem, verify_svid,
};

/// How many elements an answer may have: a leaf, intermediates, the roots.
const MOST_ELEMENTS: usize = 8;
/// How long one may be.
const LONGEST_ELEMENT: usize = 256 << 10;
/// How many roots are taken.
const MOST_ROOTS: usize = 64;

/// An answer that keeps all rules.
#[derive(Debug)]
pub(super) struct CheckedAnswer {
    /// Leaf first, no root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) leaf: Leaf,
    pub(super) bundle: TrustBundle,
}

/// Judges `cert_chain` for `id` and the public key `spki` (DER), of an issuer of which `key_usage`
/// is expected.
///
/// # Errors
/// The first rule it breaks.
pub(super) fn check(
    elements: &[String],
    id: &SpiffeId,
    spki: &[u8],
    key_usage: KeyUsageRule,
    now: SystemTime,
) -> Result<CheckedAnswer, String> {
    let [first, between @ .., last] = elements else {
        let chain = crate::identity::counted(elements.len(), "element");
        return Err(format!("its chain has {chain}, so the root is missing"));
    };
    if elements.len() > MOST_ELEMENTS {
        return Err(format!(
            "its chain has {} elements, the limit is {MOST_ELEMENTS}",
            elements.len()
        ));
    }
    if elements.iter().any(|e| e.len() > LONGEST_ELEMENT) {
        return Err(format!("an element of its chain has more than {LONGEST_ELEMENT} bytes"));
    }
    let roots = pem::certificates(last.as_bytes())
        .map_err(|e| format!("the last element of its chain: {e}"))?;
    if roots.is_empty() || roots.len() > MOST_ROOTS {
        return Err(format!("it has {} roots, expected 1 to {MOST_ROOTS}", roots.len()));
    }
    // Intermediates that belong together may share an element.
    let mut chain = several(first)?;
    for element in between {
        chain.append(&mut several(element)?);
    }
    // Some send the root among the intermediates as well.
    chain.retain(|der| !roots.contains(der));
    let leaf = chain.first().ok_or("its leaf certificate is a root")?;
    let leaf = parse_leaf_by(leaf, |_| key_usage).map_err(|e| e.to_string())?;
    if leaf.id != *id {
        return Err(format!("its leaf certificate is for {}", leaf.id));
    }
    let (_, certificate) = X509Certificate::from_der(&chain[0]).map_err(|e| e.to_string())?;
    if certificate.public_key().raw != spki {
        return Err("its leaf certificate is for another key".into());
    }
    let bundle = TrustBundle::new(id.trust_domain().clone(), roots);
    let bundle = TrustBundle { key_usage, ..bundle };
    let bundles: BundleSet = [bundle.clone()].into_iter().collect();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    for purpose in [Purpose::Server, Purpose::Client] {
        verify_svid(&chain, &bundles, UnixTime::since_unix_epoch(since), purpose)
            .map_err(|e| e.to_string())?;
    }
    Ok(CheckedAnswer { chain, leaf, bundle })
}

fn several(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    match pem::certificates(text.as_bytes()).map_err(|e| format!("an element of its chain: {e}"))? {
        none if none.is_empty() => {
            Err("an element of its chain contains no PEM certificate".into())
        }
        all => Ok(all),
    }
}

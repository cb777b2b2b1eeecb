//! Name constraints on URIs (RFC 5280 §4.2.1.10). The chain builder does not judge them: whoever is
//! below an authority that has some is refused, and this finds out whose they are.

use pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::x509::URI_TAG;

/// Whether an authority has name constraints on URIs.
pub(super) fn on_uris(authority: &X509Certificate<'_>) -> bool {
    let Ok(Some(constraints)) = authority.name_constraints() else { return false };
    let both = [&constraints.value.permitted_subtrees, &constraints.value.excluded_subtrees];
    let mut trees = both.into_iter().flatten().flatten();
    trees.any(|tree| matches!(tree.base, GeneralName::URI(_) | GeneralName::Invalid(URI_TAG, _)))
}

/// Why a chain breaks name constraints, if it has to: an authority above it has some on URIs.
pub(crate) fn explain<'a, 'b: 'a>(
    chain: &[CertificateDer<'_>],
    authorities: impl IntoIterator<Item = &'a CertificateDer<'b>>,
) -> Option<String> {
    let read = |der| Some(X509Certificate::from_der(der).ok()?.1);
    let chain: Vec<_> = chain.iter().filter_map(|der| read(der)).collect();
    let above = authorities.into_iter().filter_map(|der| read(der));
    let named = chain.iter().skip(1).cloned().chain(above).find(|authority| {
        chain.iter().any(|cert| cert.issuer() == authority.subject()) && on_uris(authority)
    })?;
    let name: String = named.subject().to_string().chars().take(256).collect();
    Some(format!(
        "the authority {name} has name constraints on URIs, which adit does not evaluate, so adit \
         trusts nothing below it: issue that authority without them"
    ))
}

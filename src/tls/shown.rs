//! Whose certificate a handshake was about: rustls forgets it when it refuses.
//!
//! A step of a handshake runs on one thread from its beginning to its end, and so does whoever
//! verifies in it: what was shown in this step is kept with the thread.

use std::cell::RefCell;

use pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

thread_local! {
    static SHOWN: RefCell<Option<CertificateDer<'static>>> = const { RefCell::new(None) };
}

/// The longest name that is told.
const LONGEST: usize = 256;

/// A verifier looks at this leaf.
pub(super) fn note(leaf: &CertificateDer<'_>) {
    SHOWN.with_borrow_mut(|shown| *shown = Some(leaf.clone().into_owned()));
}

/// A step begins.
pub(super) fn forget() {
    SHOWN.with_borrow_mut(|shown| *shown = None);
}

/// Who the leaf of this step says that it is, which proves nothing.
pub(super) fn named() -> Option<String> {
    name_in(&SHOWN.with_borrow_mut(Option::take)?)
}

/// Who this leaf says that it is, which proves nothing.
pub(super) fn name_in(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, cert) = X509Certificate::from_der(leaf).ok()?;
    let names = cert.subject_alternative_name().ok().flatten();
    let uri = names.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some((*uri).to_owned()),
            _ => None,
        })
    });
    let named = uri.unwrap_or_else(|| cert.subject().to_string());
    let shown: String =
        named.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    (!shown.is_empty()).then_some(shown)
}

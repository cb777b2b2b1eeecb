//! `bundle.pem`: all X.509 authorities that are trusted now, for whoever reads files. Unlike
//! `root.pem`, which is one authority and leaves with it, it holds good across a rotation.
//! Derived from the state: whoever finds it behind writes it.

use pki_types::CertificateDer;

use super::{
    error::CaError,
    signer::read_certificate,
    state::{AuthorityStatus, CaState},
    store::{Lock, Store},
};
use crate::identity::armour;

/// The file.
pub(super) const FILE: &str = "bundle.pem";

/// What is published of `state`, below an upstream's `roots` if there is one; who signs is first.
pub(super) fn authorities(
    store: &Store,
    state: &CaState,
    roots: &[CertificateDer<'static>],
) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let mut all = roots.to_vec();
    let mut own: Vec<_> = state.x509.iter().collect();
    own.sort_by_key(|authority| authority.status != AuthorityStatus::Active);
    for name in own.into_iter().filter_map(|authority| authority.certificate.as_ref()) {
        let certificate = read_certificate(&store.path(name))?;
        if !all.contains(&certificate) {
            all.push(certificate);
        }
    }
    Ok(all)
}

/// Whether the file says this.
pub(super) fn current(store: &Store, authorities: &[CertificateDer<'_>]) -> bool {
    store.text(FILE).is_ok_and(|text| text == pem(authorities))
}

/// Has it say this. Needs the exclusive lock.
pub(super) fn write(
    store: &Store,
    _lock: &Lock,
    authorities: &[CertificateDer<'_>],
) -> Result<(), CaError> {
    store.write_atomically(FILE, pem(authorities).as_bytes(), 0o644)
}

fn pem(authorities: &[CertificateDer<'_>]) -> String {
    authorities.iter().map(|der| armour("CERTIFICATE", der)).collect()
}

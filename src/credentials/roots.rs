//! The authorities that peers' certificates are checked against.

use std::path::PathBuf;

use pki_types::CertificateDer;

use crate::identity::{
    chain_words,
    key_files::{at, certificates},
};

/// The roots of a file, each of which can be one, or those of the system.
pub(crate) fn trusted(file: Option<&PathBuf>) -> Result<Vec<CertificateDer<'static>>, String> {
    let Some(path) = file else { return Ok(rustls_native_certs::load_native_certs().certs) };
    let all = certificates(path)?;
    for root in &all {
        webpki::anchor_from_trusted_cert(root).map_err(|e| at(path, chain_words(&e)))?;
    }
    Ok(all)
}

//! Clients of ordinary web servers.

use std::sync::Arc;

use pki_types::CertificateDer;
use rustls::{
    ClientConfig,
    version::{TLS12, TLS13},
};

use super::{PeerTrust, PeerVerifier, Verifier, classic_provider};

/// A client of ordinary web servers that shows nothing.
///
/// # Errors
/// If none of the roots is valid.
pub fn web_client(roots: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(classic_provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|e| e.to_string())?;
    let verifier = PeerVerifier::new(PeerTrust::roots(roots), true)?;
    let verifier = Verifier::new(verifier, classic_provider());
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    Ok(Arc::new(builder.with_no_client_auth()))
}

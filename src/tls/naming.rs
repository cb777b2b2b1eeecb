//! Refusals that say whom the refused certificate names, for handshakes that rustls or others
//! drive: it proves nothing, and tells where to look.

use std::sync::Arc;

use pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};

use super::shown::name_in;
use crate::identity::handshake_words;

#[derive(Debug, thiserror::Error)]
#[error("{why}; its certificate names {peer}")]
struct Named {
    why: String,
    peer: String,
}

/// The same error, with whom the leaf names if it does not say so.
#[must_use]
pub fn about(error: Error, leaf: &CertificateDer<'_>) -> Error {
    let Error::InvalidCertificate(_) = &error else { return error };
    let why = handshake_words(&error);
    match name_in(leaf) {
        Some(peer) if !why.contains(&peer) => {
            let named = Arc::new(Named { why, peer });
            Error::InvalidCertificate(CertificateError::Other(OtherError(named)))
        }
        _ => error,
    }
}

/// A judge of servers whose refusals say so.
#[derive(Debug)]
pub struct Naming(pub Arc<dyn ServerCertVerifier>);

impl ServerCertVerifier for Naming {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.0.verify_server_cert(leaf, intermediates, name, ocsp, now);
        judged.map_err(|error| about(error, leaf))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

//! Refusals that say whom the refused certificate names, for handshakes that rustls or others
//! drive: it proves nothing, and tells where to look.

use std::sync::Arc;

use pki_types::CertificateDer;
use rustls::{
    CertificateError, DistinguishedName, Error, OtherError, client::danger::ServerCertVerifier,
};

use super::{
    provider::web_provider,
    shown::name_in,
    verifier::{Presented, SvidVerifier, Verifier, VerifyPeer},
};
use crate::identity::{BundleSet, SpiffeId, handshake_words};

#[derive(Debug, thiserror::Error)]
#[error("{why}; its certificate names {peer}")]
struct ErrorWithPeer {
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
            let named = Arc::new(ErrorWithPeer { why, peer });
            Error::InvalidCertificate(CertificateError::Other(OtherError(named)))
        }
        _ => error,
    }
}

/// Whose refusals say so.
#[derive(Debug)]
pub struct Naming<V>(pub V);

impl<V: VerifyPeer> VerifyPeer for Naming<V> {
    fn verify(&self, peer: &Presented<'_>) -> Result<(), Error> {
        self.0.verify(peer).map_err(|error| about(error, peer.leaf))
    }

    fn demanded(&self) -> bool {
        self.0.demanded()
    }

    fn hints(&self) -> &[DistinguishedName] {
        self.0.hints()
    }
}

/// Accepts the server that has exactly this SPIFFE ID, by the bundle of its trust domain.
#[must_use]
pub fn only_server(expected: SpiffeId, bundles: BundleSet) -> Arc<dyn ServerCertVerifier> {
    let (bundles, expected) = (Arc::new(bundles), Some(vec![expected]));
    Verifier::new(Naming(SvidVerifier { bundles, expected }), web_provider())
}

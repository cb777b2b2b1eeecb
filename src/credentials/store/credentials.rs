//! What a service shows and trusts at one moment.

use std::{sync::Arc, time::SystemTime};

use pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::{
    identity::{LocalIdentity, PeerCert, PrivateKey},
    tls::{Expiries, PeerTrust, classic_provider},
};

/// What a service shows and trusts at one moment.
#[derive(Debug)]
pub struct Credentials {
    /// What is shown to peers.
    pub key: Option<Arc<CertifiedKey>>,
    /// What theirs is checked against.
    pub trust: PeerTrust,
    /// What our own certificate says.
    pub own: Option<PeerCert>,
    /// Our own certificate as an X.509-SVID, with the bundles that peers are verified against, if
    /// it is one.
    pub svid: Option<LocalIdentity>,
    /// When it ends.
    pub not_after: Option<SystemTime>,
    /// Where it is from, for people.
    pub source: String,
    /// When roots, CRLs and the certificate of files end.
    pub ends: Expiries,
    /// Why nothing of it may be used any more, if its source has taken it back: new connections
    /// are refused.
    pub gone: Option<String>,
}

impl Credentials {
    /// Whether peers refuse the certificate at `now`, because it has ended.
    #[must_use]
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.not_after.is_some_and(|end| end <= now)
    }

    /// These credentials after their source has taken back what is shown.
    pub(super) fn without_identity(&self, why: &str) -> Self {
        Self {
            key: None,
            trust: self.trust.clone(),
            own: self.own.clone(),
            svid: None,
            not_after: None,
            source: self.source.clone(),
            ends: self.ends.clone(),
            gone: Some(why.to_owned()),
        }
    }
}

/// The key as rustls uses it, if it is that of the leaf.
pub(super) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKey,
) -> Result<Arc<CertifiedKey>, String> {
    let der = PrivateKeyDer::Pkcs8(key.pkcs8().into());
    let certified = CertifiedKey::from_der(chain, der.clone_key(), &classic_provider());
    certified.map(Arc::new).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => {
            "the private key does not belong to the certificate".to_owned()
        }
        _ => "certificate and private key cannot be used for TLS".to_owned(),
    })
}

//! Who is at the other end.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use pki_types::CertificateDer;
use rustls::CommonState;

use super::{
    TlsError,
    provider::{cipher_name, group_name},
};
use crate::{
    identity::{KeyUsageRule, SpiffeId, parse_leaf_by},
    observe::conn::TlsFacts,
};

/// Who is at the other end, as proven by the handshake.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The ID in the peer's SVID.
    pub id: SpiffeId,
    /// When its SVID begins.
    pub not_before: SystemTime,
    /// When its SVID ends: nothing new may begin after that.
    pub not_after: SystemTime,
    /// What it showed, leaf first: to be judged again when bundles change.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// What was agreed on.
    pub tls: Arc<TlsFacts>,
}

impl Peer {
    /// When its SVID has ended; the last second is whole (RFC 5280 §4.1.2.5), as in the
    /// handshake.
    #[must_use]
    pub fn end(&self) -> SystemTime {
        self.not_after + Duration::from_secs(1)
    }

    /// Whether its SVID has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        SystemTime::now() >= self.end()
    }
}

/// The peer of a handshake that has ended: its leaf was judged there, by the bundle of its trust
/// domain, and is only read here.
pub(super) fn peer_of(tls: &CommonState) -> Result<Peer, TlsError> {
    let chain = tls.peer_certificates().ok_or(TlsError::NoPeerCertificate)?;
    let leaf = chain.first().ok_or(TlsError::NoPeerCertificate)?;
    let leaf = parse_leaf_by(leaf, |_| KeyUsageRule::Optional).map_err(TlsError::Svid)?;
    let group = tls.negotiated_key_exchange_group().map_or("none", |g| group_name(g.name()));
    let cipher = tls.negotiated_cipher_suite().map_or("none", |s| cipher_name(s.suite()));
    Ok(Peer {
        id: leaf.id,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        chain: chain.into(),
        tls: Arc::new(TlsFacts { version: "TLSv1.3", group, cipher, mutual: true, path: None }),
    })
}

//! Whether a peer that has proven its certificate may stay: by what is trusted now, by bans, and by
//! time.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::SystemTime,
};

use pki_types::UnixTime;

use super::peers::AuthenticatedPeer;
use crate::{
    hbone::PeerExpiry,
    identity::{PeerCert, Purpose, SpiffeId, common_validity},
    net::CloseReason,
    tls::{PeerTrust, PeerVerifier, Presented, StaleCrls, TlsError, VerifyPeer as _},
};

/// Why a connection may not stay.
pub type Verdict = (CloseReason, String);

/// Whether nobody of those that a peer shows to be is banned, and `own` neither.
///
/// # Errors
/// Who is.
pub fn is_not_banned(
    cert: &PeerCert,
    own: Option<&SpiffeId>,
    banned: &BTreeSet<SpiffeId>,
) -> Result<(), Verdict> {
    if banned.is_empty() {
        return Ok(());
    }
    match cert.shown_ids().chain(own.cloned()).find(|id| banned.contains(id)) {
        Some(id) => Err((CloseReason::IdentityBanned, format!("{id} is banned"))),
        None => Ok(()),
    }
}

/// Whether a certificate has not run out, or not for longer than a peer may stay then.
///
/// # Errors
/// Since when it has.
pub fn is_in_time(cert: &PeerCert, expiry: PeerExpiry, now: SystemTime) -> Result<(), Verdict> {
    let PeerExpiry::Grace(grace) = expiry else { return Ok(()) };
    match cert.not_after {
        Some(end) if now >= end + grace => {
            let why =
                format!("the certificate of {} expired, more than {grace:?} ago", cert.name());
            Err((CloseReason::SvidExpired, why))
        }
        _ => Ok(()),
    }
}

/// What comes of verifying the peers of open connections again: of many connections with one
/// peer, one is verified.
pub struct VerifiedAgain {
    judge: Result<Judge, Verdict>,
    known: HashMap<usize, (Arc<AuthenticatedPeer>, Result<(), Verdict>)>,
    now: SystemTime,
}

impl VerifiedAgain {
    /// Peers whose certificates are used so, checked against `trust`.
    #[must_use]
    pub fn by(trust: &PeerTrust, purpose: Purpose) -> Self {
        let judge = Judge::of(trust, purpose);
        Self { judge, known: HashMap::new(), now: SystemTime::now() }
    }

    /// Whether this peer is still trusted. Cancel safe.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn trusts(&mut self, peer: &Arc<AuthenticatedPeer>) -> Result<(), Verdict> {
        let judge = self.judge.as_ref().map_err(Clone::clone)?;
        let key = Arc::as_ptr(peer).addr();
        if let Some((_, known)) = self.known.get(&key) {
            return known.clone();
        }
        let trusted = judge.trusts(peer, self.now);
        self.known.insert(key, (Arc::clone(peer), trusted.clone()));
        // A chain may be long: others of this worker have their turn.
        tokio::task::yield_now().await;
        trusted
    }
}

/// Verifies again what a handshake has verified.
pub struct Judge {
    verifier: PeerVerifier,
    purpose: Purpose,
}

impl Judge {
    /// A CRL that is past its nextUpdate refuses new connections, and revokes nobody.
    ///
    /// # Errors
    /// What of `trust` cannot be used.
    pub fn of(trust: &PeerTrust, purpose: Purpose) -> Result<Self, Verdict> {
        let trust = match trust.clone() {
            PeerTrust::Roots { roots, crls, .. } => {
                PeerTrust::Roots { roots, crls, stale: StaleCrls::Warn }
            }
            other => other,
        };
        let verifier = PeerVerifier::new(trust, true);
        verifier
            .map(|verifier| Self { verifier, purpose })
            .map_err(|why| (CloseReason::UntrustedSvid, why))
    }

    /// Time is not judged here: a chain counts as of the last moment at which it was in time.
    ///
    /// # Errors
    /// Why it is not trusted.
    pub fn trusts(&self, peer: &AuthenticatedPeer, now: SystemTime) -> Result<(), Verdict> {
        let Some((leaf, intermediates)) = peer.chain.split_first() else { return Ok(()) };
        let (begin, end) = common_validity(&peer.chain).unwrap_or((now, now));
        let at = now.max(begin).min(end).duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(at.unwrap_or_default());
        let name = peer.name.as_ref();
        let presented = Presented { leaf, intermediates, name, purpose: self.purpose, now };
        self.verifier.verify(&presented).map_err(|error| {
            let error = TlsError::from_rustls(error);
            let reason = match error.close_reason() {
                CloseReason::UnknownTrustDomain => CloseReason::TrustDomainRemoved,
                CloseReason::TlsFailure => CloseReason::UntrustedSvid,
                reason => reason,
            };
            (reason, format!("the peer's certificate is no longer trusted: {error}"))
        })
    }
}

//! Open connections and tunnels are held to the roots, CRLs and bans of now, not to those of their
//! handshake: who is no longer trusted is closed, and so is whose certificate has run out where
//! `peerExpiry` says so.
//!
//! Tunnels stand in [`crate::hbone::TunnelRegistry`], one entry per tunnel; connections of plain
//! TLS stand here, one entry each ([`AuthenticatedPeer`]). Each is entered before it is judged by
//! what holds now: a change that comes in between is seen there, or by the re-check that follows
//! the change.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use pki_types::{CertificateDer, UnixTime};

use super::{
    Role, Service,
    outcome::Outcome,
    trusted_peers::{AuthenticatedPeer, Entered, Entry, TrustRevalidator},
};
use crate::{
    credentials::store::Credentials,
    hbone::{PeerExpiry, close_terminated},
    identity::{PeerCert, Purpose, SpiffeId, common_validity},
    lifecycle::{next_change, next_change_if_any},
    net::CloseReason,
    observe::conn::LiveConn,
    policy::Banned,
    tls::{PeerTrust, PeerVerifier, Presented, StaleCrls, TlsError, VerifyPeer as _},
};

/// How often peers' certificates are looked at where they may run out; the clock may be set
/// meanwhile.
const LOOK: Duration = Duration::from_millis(250);

/// Why a connection may not stay.
type Verdict = (CloseReason, String);

impl TrustRevalidator {
    fn banned(&self) -> Banned {
        self.banned.as_ref().map(|banned| Arc::clone(&banned.borrow())).unwrap_or_default()
    }

    /// Enters a connection whose handshake was checked against `credentials`, or against something
    /// newer.
    ///
    /// # Errors
    /// Why it may not come to be.
    pub(super) fn enter(
        &self,
        service: &Service,
        peer: AuthenticatedPeer,
        conn: &Arc<LiveConn>,
        credentials: &Arc<Credentials>,
    ) -> Result<Entered, Outcome> {
        let (entered, entry) = self.peers.enter(peer, conn);
        let now = service.store.current();
        let own = now.own.as_ref().and_then(|own| own.id.as_ref());
        let judged = is_not_banned(&entry.peer.cert, own, &self.banned()).and_then(|()| {
            match Arc::ptr_eq(&now, credentials) || now.trust == credentials.trust {
                true => Ok(()),
                false => Judge::of(&now.trust, service.config.role)
                    .and_then(|judge| judge.trusts(&entry.peer, SystemTime::now())),
            }
        });
        judged.map(|()| entered).map_err(|(reason, why)| (reason, Some(why)))
    }

    /// What the peers of open connections of plain TLS have shown, by connection.
    pub(super) fn peers(&self) -> impl Iterator<Item = (u64, Arc<PeerCert>)> {
        let open: Vec<_> = self.peers.lock().entries.values().cloned().collect();
        open.into_iter().map(|entry| (entry.conn.id, Arc::clone(&entry.peer.cert)))
    }

    /// Follows the credentials and the bans. Never returns.
    pub(super) async fn follow(&self, service: &Service) {
        let (mut changes, mut banned) = (service.store.watch(), self.banned.clone());
        let mut look = tokio::time::interval(LOOK);
        let mut held_to: Option<PeerTrust> = None;
        loop {
            let credentials = Arc::clone(&changes.borrow_and_update());
            banned.iter_mut().for_each(|banned| drop(banned.borrow_and_update()));
            let other = held_to.as_ref() != Some(&credentials.trust);
            // Also where they say the same: a tunnel knows by the place what it was checked
            // against.
            if let Some(own) = &credentials.svid {
                self.bundles.send_replace(Arc::clone(&own.bundles));
            }
            self.recheck_tunnels(service, other);
            self.recheck_peers(service, &credentials, other).await;
            held_to = Some(credentials.trust.clone());
            tokio::select! {
                () = next_change(&mut changes) => {}
                () = next_change_if_any(banned.as_mut()) => {}
                _ = look.tick(), if service.config.peer_expiry != PeerExpiry::Keep => {}
            }
        }
    }

    fn recheck_tunnels(&self, service: &Service, verify: bool) {
        let Some(trust) = self.tunnels.trust() else { return };
        let (expiry, now) = (service.config.peer_expiry, SystemTime::now());
        let terminated = self.tunnels.recheck(&trust, |_| verify, expiry, now);
        close_terminated(&terminated, &service.telemetry.live);
        for tunnel in &terminated {
            let Some(termination) = tunnel.termination() else { continue };
            service.tunnel_closed(termination.reason);
            let (service, why) = (service.config.name.as_str(), &*termination.why);
            let (peer, reason) = (&tunnel.peer.id, termination.reason.as_str());
            tracing::warn!(target: "tunnel", service, %peer, reason, why, "tunnel closed");
        }
    }

    async fn recheck_peers(&self, service: &Service, credentials: &Credentials, verify: bool) {
        let open: Vec<_> = self.peers.lock().entries.values().cloned().collect();
        if open.is_empty() {
            return;
        }
        let banned = self.banned();
        let own = credentials.own.as_ref().and_then(|own| own.id.as_ref());
        let judge = verify.then(|| Judge::of(&credentials.trust, service.config.role));
        let now = SystemTime::now();
        let put_out = |entry: &Entry, (reason, why): Verdict| {
            if entry.conn.close_by(reason, &why) {
                let (service, peer) = (service.config.name.as_str(), entry.peer.cert.name());
                let reason = reason.as_str();
                tracing::warn!(target: "tls", service, peer, reason, why, "connection closed");
            }
        };
        // What takes no time goes first, so that no chain of another delays it.
        for entry in &open {
            let judged = is_not_banned(&entry.peer.cert, own, &banned)
                .and_then(|()| is_in_time(&entry.peer.cert, service.config.peer_expiry, now));
            if let Err(no) = judged {
                put_out(entry, no);
            }
        }
        let Some(judge) = judge else { return };
        // Of many connections with one peer, one is verified.
        let mut known = HashMap::new();
        for entry in &open {
            let key = Arc::as_ptr(&entry.peer).addr();
            let trusted = match (known.get(&key), &judge) {
                (Some(known), _) => Clone::clone(known),
                (None, Err(no)) => Err(no.clone()),
                (None, Ok(judge)) => {
                    let trusted = judge.trusts(&entry.peer, now);
                    known.insert(key, trusted.clone());
                    // A chain may be long: others of this worker have their turn.
                    tokio::task::yield_now().await;
                    trusted
                }
            };
            if let Err(no) = trusted {
                put_out(entry, no);
            }
        }
    }
}

pub(super) fn is_not_banned(
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

/// Whether somebody has a key that a service pins, if it pins keys.
pub(super) fn is_pinned(cert: &Arc<PeerCert>, service: &Service) -> Result<(), Verdict> {
    let now = service.store.current();
    if !matches!(now.trust, PeerTrust::Pinned(_)) {
        return Ok(());
    }
    let chain = vec![CertificateDer::from(cert.der.clone())];
    let peer = AuthenticatedPeer { chain, name: None, cert: Arc::clone(cert) };
    Judge::of(&now.trust, service.config.role)?.trusts(&peer, SystemTime::now())
}

fn is_in_time(cert: &PeerCert, expiry: PeerExpiry, now: SystemTime) -> Result<(), Verdict> {
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

/// Verifies again what a handshake has verified.
struct Judge {
    verifier: PeerVerifier,
    purpose: Purpose,
}

impl Judge {
    /// A CRL that is past its nextUpdate refuses new connections, and revokes nobody.
    fn of(trust: &PeerTrust, role: Role) -> Result<Self, Verdict> {
        let trust = match trust.clone() {
            PeerTrust::Roots { roots, crls, .. } => {
                PeerTrust::Roots { roots, crls, stale: StaleCrls::Warn }
            }
            other => other,
        };
        let verifier = PeerVerifier::new(trust, true);
        let purpose = match role {
            Role::Server => Purpose::Client,
            Role::Client => Purpose::Server,
        };
        verifier
            .map(|verifier| Self { verifier, purpose })
            .map_err(|why| (CloseReason::UntrustedSvid, why))
    }

    /// Time is not judged here: a chain counts as of the last moment at which it was in time.
    fn trusts(&self, peer: &AuthenticatedPeer, now: SystemTime) -> Result<(), Verdict> {
        let Some((leaf, intermediates)) = peer.chain.split_first() else { return Ok(()) };
        let (begin, end) = common_validity(&peer.chain).unwrap_or((now, now));
        let at = now.max(begin).min(end).duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(at.unwrap_or_default());
        let name = peer.name.as_ref();
        let presented = Presented { leaf, intermediates, name, purpose: self.purpose, now };
        self.verifier.verify(&presented).map_err(|error| {
            let revoked = matches!(
                &error,
                rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked)
            );
            let error = TlsError::from_rustls(error);
            let reason = match error.close_reason() {
                _ if revoked => CloseReason::SvidRevoked,
                CloseReason::UnknownTrustDomain => CloseReason::TrustDomainRemoved,
                CloseReason::TlsFailure => CloseReason::UntrustedSvid,
                reason => reason,
            };
            (reason, format!("the peer's certificate is no longer trusted: {error}"))
        })
    }
}

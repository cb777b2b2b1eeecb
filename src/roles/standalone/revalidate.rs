//! Open connections and tunnels are held to the roots, CRLs and bans of now, not to those of their
//! handshake: who is no longer trusted is closed, and so is whose certificate has run out where
//! `peerExpiry` says so.
//!
//! Tunnels stand in [`crate::hbone::TunnelRegistry`], one entry per tunnel; connections of plain TLS
//! in [`crate::proxy::revalidate::peers`], one entry each. Each is entered before it is judged by what holds now: a
//! change that comes in between is seen there, or by the re-check that follows the change.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::{Role, Service, outcome::Outcome};
use crate::{
    credentials::store::Credentials,
    hbone::{PeerExpiry, TunnelRegistry, close_terminated},
    identity::{BundleSet, Purpose},
    lifecycle::{next_change, next_change_if_any},
    observe::conn::LiveConn,
    policy::Banned,
    proxy::revalidate::{
        peers::{AuthenticatedPeer, Entered, Entry, Table},
        verdict::{Judge, Verdict, VerifiedAgain, is_in_time, is_not_banned},
    },
    tls::PeerTrust,
};

/// How often peers' certificates are looked at where they may run out; the clock may be set
/// meanwhile.
const LOOK: Duration = Duration::from_millis(250);

/// What is open of a service, and what it is held to.
pub(super) struct TrustRevalidator {
    pub(super) tunnels: Arc<TunnelRegistry>,
    bundles: watch::Sender<Arc<BundleSet>>,
    banned: Option<watch::Receiver<Banned>>,
    peers: Table,
}

impl TrustRevalidator {
    pub(super) fn new(credentials: &Credentials, banned: Option<watch::Receiver<Banned>>) -> Self {
        let bundles = credentials.svid.as_ref().map(|own| Arc::clone(&own.bundles));
        let bundles = watch::Sender::new(bundles.unwrap_or_default());
        let tunnels = Arc::new(TunnelRegistry::new(bundles.subscribe(), banned.clone()));
        Self { tunnels, bundles, banned, peers: Table::default() }
    }

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
                false => Judge::of(&now.trust, service.peers_are())
                    .and_then(|judge| judge.trusts(&entry.peer, SystemTime::now())),
            }
        });
        judged.map(|()| entered).map_err(|(reason, why)| (reason, Some(why)))
    }

    /// The peers of open connections of plain TLS, by connection.
    pub(super) fn peers(&self) -> impl Iterator<Item = (u64, Arc<AuthenticatedPeer>)> {
        self.peers.all().into_iter().map(|entry| (entry.conn.id, entry.peer))
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
            // Also where they say the same: a tunnel knows by the place what it was checked against.
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
        let open = self.peers.all();
        if open.is_empty() {
            return;
        }
        let banned = self.banned();
        let own = credentials.own.as_ref().and_then(|own| own.id.as_ref());
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
        if !verify {
            return;
        }
        let mut again = VerifiedAgain::by(&credentials.trust, service.peers_are());
        for entry in &open {
            if let Err(no) = again.trusts(&entry.peer).await {
                put_out(entry, no);
            }
        }
    }
}

impl Service {
    /// What its peers use their certificates for.
    pub(super) fn peers_are(&self) -> Purpose {
        match self.config.role {
            Role::Server => Purpose::Client,
            Role::Client => Purpose::Server,
        }
    }
}

//! What the open connections of a service are checked against: the current roots, CRLs and bans,
//! and the expiry of peers' certificates where `peerExpiry` says so. Which are closed is decided in
//! [`crate::proxy::revalidate`].

use std::sync::Arc;

use tokio::sync::watch;

use super::{Role, Service};
use crate::{
    credentials::store::Credentials,
    hbone::{AuthenticatedTunnel, PeerExpiry, Termination, TunnelRegistry},
    identity::{PeerCert, Purpose},
    lifecycle::{next_change, next_change_if_any},
    observe::Telemetry,
    policy::Banned,
    proxy::revalidate::{ChangedTrust, PlainTls, Trusting, revalidate, verdict::Verdict},
};

/// A service that is followed.
struct Followed<'a> {
    service: &'a Service,
    changes: watch::Receiver<Arc<Credentials>>,
    banned: Option<watch::Receiver<Banned>>,
    /// The credentials that connections are checked against now.
    credentials: Option<Arc<Credentials>>,
}

impl Trusting for Followed<'_> {
    fn refresh(&mut self) -> ChangedTrust {
        let now = Arc::clone(&self.changes.borrow_and_update());
        self.banned.iter_mut().for_each(|banned| drop(banned.borrow_and_update()));
        // Also where they say the same: a tunnel knows by the place what it was checked against.
        if let Some(own) = &now.svid {
            self.service.trusted_peers.bundles.send_replace(Arc::clone(&own.bundles));
        }
        let before = self.credentials.replace(Arc::clone(&now));
        ChangedTrust::All(before.is_none_or(|before| before.trust != now.trust))
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = next_change(&mut self.changes) => {}
            () = next_change_if_any(self.banned.as_mut()) => {}
        }
    }

    fn tunnels(&self) -> &TunnelRegistry {
        &self.service.trusted_peers.tunnels
    }

    fn plain_tls(&self) -> Option<PlainTls<'_>> {
        let credentials = self.credentials.as_ref()?;
        Some(PlainTls {
            peers: &self.service.trusted_peers.peers,
            trust: &credentials.trust,
            purpose: self.service.peers_are(),
            own: credentials.own.as_ref().and_then(|own| own.id.as_ref()),
            banned: self.service.trusted_peers.banned(),
        })
    }

    fn expiry(&self) -> PeerExpiry {
        self.service.config.peer_expiry
    }

    fn has_reminders(&self) -> bool {
        false
    }

    fn telemetry(&self) -> &Telemetry {
        &self.service.telemetry
    }

    fn log_tunnel(&self, tunnel: &AuthenticatedTunnel, why: &Termination) {
        let service = self.service.config.name.as_str();
        let (peer, reason, why) = (&tunnel.peer.id, why.reason.as_str(), &*why.why);
        tracing::warn!(target: "tunnel", service, %peer, reason, why, "tunnel closed");
    }

    fn log_peer(&self, peer: &PeerCert, (reason, why): &Verdict) {
        let (service, peer) = (self.service.config.name.as_str(), peer.name());
        let reason = reason.as_str();
        tracing::warn!(target: "tls", service, peer, reason, why, "connection closed");
    }

    fn settle(&mut self, _: &ChangedTrust) {}
}

impl Service {
    /// Holds what is open to the credentials and the bans. Never returns.
    pub(super) async fn follow_trust(&self) {
        let (changes, banned) = (self.store.watch(), self.trusted_peers.banned.clone());
        revalidate(Followed { service: self, changes, banned, credentials: None }).await;
    }

    /// What its peers use their certificates for.
    pub(super) fn peers_are(&self) -> Purpose {
        match self.config.role {
            Role::Server => Purpose::Client,
            Role::Client => Purpose::Server,
        }
    }
}

//! The peers whose certificates the open connections of a service rest on, and what those are
//! checked against.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::watch;

use super::outcome::Outcome;
use crate::{
    credentials::store::{CredentialStore, Credentials},
    hbone::TunnelRegistry,
    identity::{BundleSet, Purpose},
    observe::conn::LiveConn,
    policy::Banned,
    proxy::revalidate::{
        peers::{AuthenticatedPeer, Entered, Table},
        verdict::{Judge, is_not_banned},
    },
};

/// What is open of a service, and what it is checked against.
pub(super) struct TrustedPeers {
    pub(super) tunnels: Arc<TunnelRegistry>,
    pub(super) bundles: watch::Sender<Arc<BundleSet>>,
    pub(super) banned: Option<watch::Receiver<Banned>>,
    pub(super) peers: Table,
}

impl TrustedPeers {
    pub(super) fn new(credentials: &Credentials, banned: Option<watch::Receiver<Banned>>) -> Self {
        let bundles = credentials.svid.as_ref().map(|own| Arc::clone(&own.bundles));
        let bundles = watch::Sender::new(bundles.unwrap_or_default());
        let tunnels = Arc::new(TunnelRegistry::new(bundles.subscribe(), banned.clone()));
        Self { tunnels, bundles, banned, peers: Table::default() }
    }

    pub(super) fn banned(&self) -> Banned {
        self.banned.as_ref().map(|banned| Arc::clone(&banned.borrow())).unwrap_or_default()
    }

    /// Enters a connection whose handshake was checked against `checked`, or against something
    /// newer; then judges its peer by what `store` trusts now, for this purpose.
    ///
    /// # Errors
    /// Why it must not be established.
    pub(super) fn enter(
        &self,
        peer: AuthenticatedPeer,
        conn: &Arc<LiveConn>,
        checked: &Arc<Credentials>,
        (store, purpose): (&CredentialStore, Purpose),
    ) -> Result<Entered, Outcome> {
        let (entered, entry) = self.peers.enter(peer, conn);
        let now = store.current();
        let own = now.own.as_ref().and_then(|own| own.id.as_ref());
        let judged = is_not_banned(&entry.peer.cert, own, &self.banned()).and_then(|()| {
            match Arc::ptr_eq(&now, checked) || now.trust == checked.trust {
                true => Ok(()),
                false => Judge::of(&now.trust, purpose)
                    .and_then(|judge| judge.trusts(&entry.peer, SystemTime::now())),
            }
        });
        judged.map(|()| entered).map_err(|(reason, why)| (reason, Some(why)))
    }

    /// The peers of open connections of plain TLS, by connection.
    pub(super) fn peers(&self) -> impl Iterator<Item = (u64, Arc<AuthenticatedPeer>)> {
        self.peers.all().into_iter().map(|entry| (entry.conn.id, entry.peer))
    }
}

//! The peers whose certificates the open connections of a service rest on, and what those are held
//! to.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    credentials::store::Credentials,
    hbone::TunnelRegistry,
    identity::BundleSet,
    policy::Banned,
    proxy::revalidate::peers::{AuthenticatedPeer, Table},
};

/// What is open of a service, and what it is held to.
pub(super) struct TrustRevalidator {
    pub(super) tunnels: Arc<TunnelRegistry>,
    pub(super) bundles: watch::Sender<Arc<BundleSet>>,
    pub(super) banned: Option<watch::Receiver<Banned>>,
    pub(super) peers: Table,
}

impl TrustRevalidator {
    pub(super) fn new(credentials: &Credentials, banned: Option<watch::Receiver<Banned>>) -> Self {
        let bundles = credentials.svid.as_ref().map(|own| Arc::clone(&own.bundles));
        let bundles = watch::Sender::new(bundles.unwrap_or_default());
        let tunnels = Arc::new(TunnelRegistry::new(bundles.subscribe(), banned.clone()));
        Self { tunnels, bundles, banned, peers: Table::default() }
    }

    pub(super) fn banned(&self) -> Banned {
        self.banned.as_ref().map(|banned| Arc::clone(&banned.borrow())).unwrap_or_default()
    }

    /// The peers of open connections of plain TLS, by connection.
    pub(super) fn peers(&self) -> impl Iterator<Item = (u64, Arc<AuthenticatedPeer>)> {
        self.peers.all().into_iter().map(|entry| (entry.conn.id, entry.peer))
    }
}

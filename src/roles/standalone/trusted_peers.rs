//! The peers whose certificates the open connections of a service rest on: one entry for each
//! connection of plain TLS, and the registry of its tunnels.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest;
use pki_types::{CertificateDer, ServerName};
use tokio::sync::watch;

use crate::{
    credentials::store::Credentials,
    hbone::{AuthenticatedTunnel, TunnelRegistry},
    identity::{BundleSet, PeerCert},
    observe::conn::LiveConn,
    policy::Banned,
};

/// A peer that has proven its certificate; all its connections share one.
pub(super) struct AuthenticatedPeer {
    /// What it showed, leaf first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The name that was asked for, of a server of plain TLS.
    pub(super) name: Option<ServerName<'static>>,
    /// Whether it has made a tunnel, for which it must have an X.509-SVID.
    pub(super) by_tunnel: bool,
    /// What its leaf says.
    pub(super) cert: Arc<PeerCert>,
}

impl AuthenticatedPeer {
    /// Whoever is at the other end of a tunnel; `None` if its certificate cannot be read.
    pub(super) fn of_tunnel(tunnel: &AuthenticatedTunnel) -> Option<Self> {
        let cert = Arc::new(PeerCert::of(&tunnel.peer.chain)?);
        Some(Self { chain: tunnel.peer.chain.to_vec(), name: None, by_tunnel: true, cert })
    }

    pub(super) fn key(&self) -> PeerKey {
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in self.chain.iter().map(|der| &**der) {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        (hash.finish().as_ref().into(), self.name.clone())
    }
}

/// The digest of the chain, and the name that was asked for.
pub(super) type PeerKey = (Box<[u8]>, Option<ServerName<'static>>);

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) peer: Arc<AuthenticatedPeer>,
    pub(super) conn: Arc<LiveConn>,
}

#[derive(Default)]
pub(super) struct Open {
    pub(super) next: u64,
    pub(super) entries: HashMap<u64, Entry>,
    /// How many entries each has.
    pub(super) peers: HashMap<PeerKey, (Arc<AuthenticatedPeer>, usize)>,
}

#[derive(Clone, Default)]
pub(super) struct Table(Arc<Mutex<Open>>);

impl Table {
    pub(super) fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, peer: AuthenticatedPeer, conn: &Arc<LiveConn>) -> (Entered, Entry) {
        let mut open = self.lock();
        let (peer, count) = open.peers.entry(peer.key()).or_insert_with(|| (Arc::new(peer), 0));
        *count += 1;
        let entry = Entry { peer: Arc::clone(peer), conn: Arc::clone(conn) };
        let id = open.next;
        open.next += 1;
        open.entries.insert(id, entry.clone());
        (Entered { id, table: self.clone() }, entry)
    }
}

/// The entry of a connection; dropping it takes it off the table.
pub(super) struct Entered {
    id: u64,
    table: Table,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.table.lock();
        let Some(entry) = open.entries.remove(&self.id) else { return };
        let key = entry.peer.key();
        if let Some((_, count)) = open.peers.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                open.peers.remove(&key);
            }
        }
    }
}

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
}

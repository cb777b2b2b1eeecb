//! The peers of open connections of plain TLS: one entry for each connection. Those of tunnels stand
//! in [`crate::hbone::TunnelRegistry`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest;
use pki_types::{CertificateDer, ServerName};

use crate::{hbone::AuthenticatedTunnel, identity::PeerCert, observe::conn::LiveConn};

/// A peer that has proven its certificate; all its connections share one.
pub struct AuthenticatedPeer {
    /// What it showed, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The name that was asked for, of a server of plain TLS.
    pub name: Option<ServerName<'static>>,
    /// Whether it has made a tunnel, for which it must have an X.509-SVID.
    pub by_tunnel: bool,
    /// What its leaf says.
    pub cert: Arc<PeerCert>,
}

impl AuthenticatedPeer {
    /// Whoever is at the other end of a tunnel; `None` if its certificate cannot be read.
    #[must_use]
    pub fn of_tunnel(tunnel: &AuthenticatedTunnel) -> Option<Self> {
        let cert = Arc::new(PeerCert::of(&tunnel.peer.chain)?);
        Some(Self { chain: tunnel.peer.chain.to_vec(), name: None, by_tunnel: true, cert })
    }

    fn key(&self) -> PeerKey {
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in self.chain.iter().map(|der| &**der) {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        (hash.finish().as_ref().into(), self.name.clone())
    }
}

/// The digest of the chain, and the name that was asked for.
type PeerKey = (Box<[u8]>, Option<ServerName<'static>>);

/// An open connection, and who is at its other end.
#[derive(Clone)]
pub struct Entry {
    /// Who is there.
    pub peer: Arc<AuthenticatedPeer>,
    /// The connection.
    pub conn: Arc<LiveConn>,
}

#[derive(Default)]
struct Open {
    next: u64,
    entries: HashMap<u64, Entry>,
    /// How many entries each has.
    peers: HashMap<PeerKey, (Arc<AuthenticatedPeer>, usize)>,
}

/// The open connections of one service.
#[derive(Clone, Default)]
pub struct Table(Arc<Mutex<Open>>);

impl Table {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are open now.
    #[must_use]
    pub fn all(&self) -> Vec<Entry> {
        self.lock().entries.values().cloned().collect()
    }

    /// Enters a connection until the first of what is returned is dropped.
    #[must_use]
    pub fn enter(&self, peer: AuthenticatedPeer, conn: &Arc<LiveConn>) -> (Entered, Entry) {
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
pub struct Entered {
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

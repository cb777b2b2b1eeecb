//! What is found out about a connection when it is accepted, before a worker takes it: where it
//! goes, and its ticket among those that go there.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::net::TcpStream;

use super::{
    Node, OUTBOUND_PORT,
    route::{self, Route},
};
use crate::{
    hbone::order::{Lane, Ticket, Tie},
    mesh::Workload,
    net::{CloseReason, OriginalDst},
    proxy::listener::Arrival,
    sys::sockets,
};

/// The lanes of one listener, by source or destination.
pub(super) struct Lanes<K> {
    all: HashMap<K, Arc<Lane>>,
    /// With so many those without a connection are forgotten.
    many: usize,
}

/// So few lanes are kept for the next connection.
const FEW: usize = 64;

impl<K: Eq + Hash> Lanes<K> {
    pub(super) fn new() -> Self {
        Self { all: HashMap::new(), many: FEW }
    }

    /// One more connection, behind those of its lane.
    fn enter(&mut self, key: K) -> Ticket {
        if self.all.len() >= self.many {
            self.all.retain(|_, lane| Arc::strong_count(lane) > 1);
            self.many = (2 * self.all.len()).max(FEW);
        }
        self.all.entry(key).or_default().enter()
    }
}

/// A connection that leaves a pod.
pub(super) struct Outward {
    /// Where the application meant to go.
    pub(super) dst: Option<SocketAddr>,
    /// Whose it is.
    pub(super) from: Option<Arc<Workload>>,
    /// Or why it goes nowhere.
    pub(super) onward: Result<Onward, (CloseReason, String)>,
}

/// The way of a connection that has one.
pub(super) struct Onward {
    pub(super) from: Arc<Workload>,
    pub(super) route: Route,
    /// Its place among the connections to the same application, which arrive there in the order in
    /// which they were accepted. Dropped once the connection is answered.
    pub(super) ticket: Ticket,
}

impl Outward {
    /// Finds out where a connection goes that was accepted on 15001.
    pub(super) fn new(
        node: &Node,
        uid: &str,
        app: &TcpStream,
        lanes: &mut Lanes<SocketAddr>,
    ) -> Box<Self> {
        let mut found = Box::new(Self { dst: None, from: None, onward: Err(internal("")) });
        found.onward = found.find(node, uid, app, lanes);
        found
    }

    fn find(
        &mut self,
        node: &Node,
        uid: &str,
        app: &TcpStream,
        lanes: &mut Lanes<SocketAddr>,
    ) -> Result<Onward, (CloseReason, String)> {
        let dst = sockets::original_dst(app).map_err(|e| internal(&e.to_string()))?;
        self.dst = Some(dst);
        // Not redirected, then it is the listener that was meant.
        let local = || app.local_addr().map(sockets::canonical).ok();
        let captured = dst.port() != OUTBOUND_PORT || local() != Some(dst);
        let mesh = node.mesh.load_full();
        let from = mesh.workload(uid);
        let from = Arc::clone(from.ok_or_else(|| internal("the workload has left the mesh"))?);
        self.from = Some(Arc::clone(&from));
        let route = route::decide(&mesh, &from, OriginalDst(dst), captured, rand::random())
            .map_err(|why| (why.close_reason(), why.to_string()))?;
        let ticket = lanes.enter(route.app());
        Ok(Onward { from, route, ticket })
    }
}

fn internal(why: &str) -> (CloseReason, String) {
    (CloseReason::Internal, why.to_owned())
}

impl Arrival for Box<Outward> {
    fn tie(&self) -> Tie {
        self.onward.as_ref().map_or(Tie::None, |onward| onward.ticket.tie())
    }

    fn goes_to(&self, worker: usize) {
        if let Ok(onward) = &self.onward {
            onward.ticket.goes_to(worker);
        }
    }
}

/// Plaintext that arrives at a pod.
pub(super) struct Inward {
    /// Where the caller meant to go.
    pub(super) dst: SocketAddr,
    pub(super) ticket: Ticket,
}

/// Why it is not known where it goes.
pub(super) type Lost = std::io::Error;

/// Finds out where a connection goes that was accepted on 15006.
pub(super) fn inward(
    client: &TcpStream,
    peer: SocketAddr,
    lanes: &mut Lanes<(IpAddr, SocketAddr)>,
) -> Result<Inward, Lost> {
    let dst = sockets::original_dst(client)?;
    Ok(Inward { dst, ticket: lanes.enter((peer.ip(), dst)) })
}

impl Arrival for Result<Inward, Lost> {
    fn tie(&self) -> Tie {
        self.as_ref().map_or(Tie::None, |inward| inward.ticket.tie())
    }

    fn goes_to(&self, worker: usize) {
        if let Ok(inward) = self {
            inward.ticket.goes_to(worker);
        }
    }
}

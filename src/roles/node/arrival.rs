//! What is found out about a connection when it is accepted, before a worker takes it: where it
//! goes, and its ticket among those that go there.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tokio::net::TcpStream;

use super::{
    Node, OUTBOUND_PORT, Pod,
    known::Unknown,
    on_demand::lacks,
    route::{self, NoRoute, Route},
};
use crate::{
    hbone::order::{Lane, Ticket, Tie},
    mesh::{Avoided, View, Workload},
    net::{CloseReason, OriginalDst, Outcome},
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
    pub(super) onward: Result<Onward, Stays>,
}

/// The way of a connection that has one.
pub(super) struct Onward {
    pub(super) course: Course,
    /// Its place among the connections to the same application, which arrive there in the order in
    /// which they were accepted. Dropped once the connection is answered.
    pub(super) ticket: Ticket,
}

/// Where a connection goes, and whose it is.
pub(super) struct Course {
    pub(super) from: Arc<Workload>,
    meant: Meant,
    pub(super) route: Route,
}

impl Course {
    /// The way to another endpoint, and none in clear text if only HBONE will do. Its place is behind
    /// nobody: it was not accepted just now.
    pub(super) fn again(self, node: &Node, avoided: &Avoided) -> Result<Onward, Stays> {
        let Self { from, meant, .. } = self;
        let way = meant.decide(node, &node.mesh.load(), &from, avoided);
        let endpoint = way.as_ref().ok().and_then(Route::endpoint);
        if endpoint.is_some_and(|endpoint| avoided.tried.contains(&endpoint)) {
            // Another endpoint behind the same gateway.
            return Err(internal("there is no other endpoint to try"));
        }
        if avoided.only_hbone && way.as_ref().is_ok_and(|route| !route.is_by_hbone()) {
            // What is known of the mesh has changed meanwhile.
            return Err(internal(
                "the mesh changed: this connection would now go in plaintext instead of HBONE",
            ));
        }
        meant.onward(from, way, |_| Arc::<Lane>::default().enter())
    }
}

/// Why a connection goes nowhere now.
pub(super) enum Stays {
    /// It is not known yet whose it is: whoever serves it may wait for that.
    Unknown(Meant),
    /// The mesh is asked for one by one, and something that its way depends on is to be asked for.
    Unheard(Meant, Arc<Workload>),
    /// There is no way.
    Nowhere(CloseReason, String),
}

/// Where a connection was meant to go.
#[derive(Clone, Copy)]
pub(super) struct Meant {
    dst: OriginalDst,
    /// Whether it was redirected.
    captured: bool,
}

impl Outward {
    /// Finds out where a connection goes that was accepted on 15001.
    pub(super) fn new(
        node: &Node,
        pod: &Pod,
        app: &TcpStream,
        lanes: &mut Lanes<SocketAddr>,
    ) -> Box<Self> {
        let mut found = Box::new(Self { dst: None, from: None, onward: Err(internal("")) });
        found.onward = found.find(node, pod, app, lanes);
        found
    }

    /// For a connection that is asked for, and not captured. It is in no order with others.
    pub(super) fn asked(dst: SocketAddr) -> Self {
        let meant = Meant { dst: OriginalDst(dst), captured: true };
        Self { dst: Some(dst), from: None, onward: Err(Stays::Unknown(meant)) }
    }

    fn find(
        &mut self,
        node: &Node,
        pod: &Pod,
        app: &TcpStream,
        lanes: &mut Lanes<SocketAddr>,
    ) -> Result<Onward, Stays> {
        let dst = sockets::original_dst(app).map_err(|e| internal(&e.to_string()))?;
        self.dst = Some(dst);
        // Not redirected, then it is the listener that was meant.
        let local = || app.local_addr().map(sockets::canonical).ok();
        let captured = dst.port() != OUTBOUND_PORT || local() != Some(dst);
        let meant = Meant { dst: OriginalDst(dst), captured };
        let mesh = node.mesh.load_full();
        let from = match pod.workload(&mesh) {
            Ok(from) => Arc::clone(from),
            // Who has called the listener itself goes nowhere in any case.
            Err(Unknown::Yet) if captured => return Err(Stays::Unknown(meant)),
            Err(Unknown::Yet) => {
                let nowhere = NoRoute::OwnPort(dst);
                return Err(Stays::Nowhere(nowhere.close_reason(), nowhere.to_string()));
            }
            Err(unknown) => return Err(unknown.outcome(&pod.name).into()),
        };
        self.from = Some(Arc::clone(&from));
        let way = meant.decide(node, &mesh, &from, &pod.avoided());
        match node.on_demand.is_some() && node.may_ask(lacks(&mesh, &way).as_deref()) {
            true => Err(Stays::Unheard(meant, from)),
            false => meant.onward(from, way, |app| lanes.enter(app)),
        }
    }
}

impl Meant {
    /// The way of a connection of this workload.
    fn decide(
        self,
        node: &Node,
        mesh: &View,
        from: &Workload,
        avoided: &Avoided,
    ) -> Result<Route, NoRoute> {
        let chance = (rand::random(), avoided);
        let policy = (node.outbound_traffic_policy, node.config.original_port);
        let route = route::decide(mesh, from, self.dst, self.captured, chance, policy)?;
        Ok(route.with_aliases(&node.config.aliases, from.id().trust_domain()))
    }

    /// Whatever was decided; `enter` gives the connection its place.
    fn onward(
        self,
        from: Arc<Workload>,
        way: Result<Route, NoRoute>,
        enter: impl FnOnce(SocketAddr) -> Ticket,
    ) -> Result<Onward, Stays> {
        let route = way.map_err(|why| Stays::Nowhere(why.close_reason(), why.to_string()))?;
        let ticket = enter(route.app());
        Ok(Onward { course: Course { from, meant: self, route }, ticket })
    }
}

impl Pod {
    /// The endpoints that a new connection of the pod should avoid.
    fn avoided(&self) -> Avoided {
        Avoided { ejected: self.endpoints.ejected(Instant::now()), ..Avoided::default() }
    }
}

impl Stays {
    /// The way of the connection once it is known whose it is, if there is one. Those that have
    /// waited arrive in no order.
    pub(super) async fn awaited(self, node: &Node, pod: &Pod) -> Result<Onward, Outcome> {
        let (meant, from) = match self {
            Self::Unknown(meant) => (meant, pod.known(node).await?),
            Self::Unheard(meant, from) => (meant, from),
            Self::Nowhere(reason, why) => return Err((reason, Some(why))),
        };
        let decide = |mesh: &View| meant.decide(node, mesh, &from, &pod.avoided());
        if node.on_demand.is_some() {
            node.hear(pod, |mesh| lacks(mesh, &decide(mesh))).await?;
        }
        let way = decide(&node.mesh.load());
        match meant.onward(from, way, |_| Arc::<Lane>::default().enter()) {
            Ok(onward) => Ok(onward),
            Err(Self::Nowhere(reason, why)) => Err((reason, Some(why))),
            Err(Self::Unknown(_) | Self::Unheard(..)) => Err((CloseReason::Internal, None)),
        }
    }
}

impl From<Outcome> for Stays {
    fn from((reason, why): Outcome) -> Self {
        Self::Nowhere(reason, why.unwrap_or_default())
    }
}

fn internal(why: &str) -> Stays {
    Stays::Nowhere(CloseReason::Internal, why.to_owned())
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

/// Whether it is no port of ours that was meant.
pub(super) fn not_ours(dst: SocketAddr, own_ports: &[u16]) -> Result<(), (CloseReason, String)> {
    if own_ports.contains(&dst.port()) {
        let why = format!("{dst} is a port of adit itself; connect to the application instead");
        return Err((CloseReason::DirectCall, why));
    }
    Ok(())
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

//! One captured connection of a pod's application, from accept to close.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpStream;

use super::{
    Node, Pod,
    arrival::{Onward, Outward},
    record::{baggage, ended, peer_info},
    route::Route,
};
use crate::{
    hbone::{
        Pool,
        connect::{Authority, ConnectRequest},
    },
    identity::LocalIdentity,
    lifecycle::blocking,
    mesh::Workload,
    net::{CloseReason, Direction, Outcome, PeerAddr, connect_failed},
    observe::conn::OpenConn,
    proxy::egress,
    relay::{self, App, Remote, tcp::TcpRemote},
    sys::sockets,
};

/// What a worker serves a pod's connections with.
pub(super) struct Worker {
    pub(super) node: Arc<Node>,
    pub(super) pod: Arc<Pod>,
    pub(super) pool: Arc<Pool>,
    /// Tunnels to waypoints.
    pub(super) to_waypoints: Pool,
    /// Tunnels in tunnels, to other networks.
    pub(super) inner: Pool,
}

/// Serves one connection accepted on 15001.
///
/// No `async fn`, which would hold its arguments twice for as long as the connection lives.
pub(super) fn serve(
    by: Arc<Worker>,
    (app, peer): (TcpStream, SocketAddr),
    found: Box<Outward>,
) -> impl Future<Output = ()> + Send {
    let Worker { node, pod, .. } = &*by;
    let counted = node.telemetry.metrics.listeners.socket(Direction::Outbound);
    let peer = PeerAddr(sockets::canonical(peer));
    let conn = OpenConn::open(&node.telemetry, Direction::Outbound, peer);
    let mut app = pod.captured_app(app);
    async move {
        let outcome = tokio::select! {
            outcome = carry(&by, &mut app, found, &conn) => outcome,
            reason = conn.live().until_cut() => (reason, None),
        };
        conn.finish(outcome);
        drop((app, counted));
    }
}

async fn carry(by: &Worker, app: &mut App, found: Box<Outward>, conn: &OpenConn) -> Outcome {
    // In a box of its own, so that a connection that flows does not hold what opening it took.
    match Box::pin(reach(by, app.socket(), *found, conn)).await {
        Ok(mut far) => ended(relay::run(app, &mut *far, &conn.live().meter, &by.node.limits).await),
        Err(outcome) => outcome, // and a reset, as `app` is dropped before its end
    }
}

/// Opens the way to where the connection goes.
async fn reach(
    Worker { node, pod, pool, to_waypoints, inner }: &Worker,
    app: &TcpStream,
    Outward { dst, from, onward }: Outward,
    conn: &OpenConn,
) -> Result<Box<dyn Remote>, Outcome> {
    conn.metadata(|f| {
        (f.dst_addr, f.flow_dst, f.pod) = (dst, dst, Some(Arc::clone(&pod.name)));
        f.src = from.as_deref().map(peer_info).unwrap_or_default();
    });
    let Onward { from, route, ticket } = match onward {
        Ok(onward) => onward,
        Err(stays) => {
            let onward = stays.awaited(node, pod).await?;
            conn.metadata(|f| f.src = peer_info(&onward.from));
            onward
        }
    };
    describe(conn, &route);
    let far: Box<dyn Remote> = match route {
        Route::Hbone { hop, authority, service, .. } => {
            let request = ConnectRequest {
                authority: Authority::Addr(authority),
                client: conn.live().peer.0,
                service: service.map(|s| s.hostname.clone()),
                baggage: baggage(&from),
                network: None,
            };
            let source = Source { node, pod, from: &from };
            let request = (&hop, &request, &ticket);
            if authority.ip() == hop.addr.ip() {
                Box::new(egress::hbone::open(&source, pool, app, conn, request).await?)
            } else {
                let opened = egress::hbone::open(&source, to_waypoints, app, conn, request);
                Box::new(opened.await?.through_proxy())
            }
        }
        Route::DoubleHbone { hop, service, .. } => {
            let source = Source { node, pod, from: &from };
            let port = hop.through.as_ref().map_or(0, |through| through.port);
            let request = ConnectRequest {
                authority: Authority::Host(service.hostname.to_string(), port),
                client: conn.live().peer.0,
                service: Some(service.hostname.clone()),
                baggage: baggage(&from),
                network: Some(Arc::clone(from.network())),
            };
            let request = (&hop, &request, &ticket);
            Box::new(egress::hbone::open(&source, inner, app, conn, request).await?)
        }
        Route::Tcp { addr, .. } | Route::Passthrough(addr) => {
            Box::new(ticket.begin(dial(node, pod, addr)).await?)
        }
        Route::Named { hostname, port, called, .. } => {
            // Whoever asks for names that nobody answers keeps others of this pod waiting only.
            let Ok(_place) = pod.resolving.acquire().await else {
                return Err((CloseReason::Drained, None));
            };
            let found = async {
                let addr = resolve(&hostname, port, called, node.tunnel.connect).await?;
                conn.metadata(|f| f.dst_addr = Some(addr));
                dial(node, pod, addr).await
            };
            Box::new(ticket.begin(found).await?)
        }
    };
    conn.count_opened();
    Ok(far)
}

/// Plain TCP from inside the pod.
async fn dial(node: &Node, pod: &Pod, addr: SocketAddr) -> Result<TcpRemote, Outcome> {
    let dialled = match sockets::outbound_socket(&pod.netns, addr) {
        Ok(socket) => sockets::connect(socket, addr, node.tunnel.connect).await,
        Err(e) => Err(e),
    };
    dialled.map(TcpRemote::new).map_err(|e| connect_failed(addr, &e))
}

/// An address of a host name, as this host's own resolver has it: of the called family if there is
/// one.
async fn resolve(
    hostname: &str,
    port: u16,
    called: SocketAddr,
    within: Duration,
) -> Result<SocketAddr, Outcome> {
    let unknown = |why: &str| {
        let why = format!("no healthy upstream: {hostname} cannot be resolved: {why}");
        (CloseReason::NoHealthyUpstream, Some(why))
    };
    let name = hostname.to_owned();
    let asked = blocking(move || (name.as_str(), port).to_socket_addrs());
    let found = tokio::time::timeout(within, asked).await;
    let found = found.map_err(|_| unknown(&format!("no answer in {within:?}")))?;
    let found = found.map_err(|e| unknown(&e.to_string()))?;
    let all: Vec<_> = found.map_err(|e| unknown(&e.to_string()))?.collect();
    let same = |addr: &&SocketAddr| addr.is_ipv4() == called.is_ipv4();
    let of_family: Vec<_> = all.iter().filter(same).collect();
    let among = if of_family.is_empty() { all.iter().collect() } else { of_family };
    let at = rand::random::<u32>() as usize % among.len().max(1);
    among.get(at).map(|addr| **addr).ok_or_else(|| unknown("it has no address"))
}

/// A pod whose connections go out.
struct Source<'a> {
    node: &'a Node,
    pod: &'a Pod,
    from: &'a Workload,
}

impl egress::hbone::Source for Source<'_> {
    async fn identity(&self) -> Result<LocalIdentity, Outcome> {
        self.node.local_identity(self.pod, self.from).await
    }

    fn handshake_failed(&self, reason: CloseReason) {
        self.node.handshake_failed(Direction::Outbound, reason);
    }
}

fn describe(conn: &OpenConn, route: &Route) {
    conn.metadata(|f| {
        let (to, service) = match route {
            Route::Hbone { hop, authority, to, service } => {
                f.dst_addr = Some(hop.addr);
                f.hbone_addr = Some(authority.to_string().into());
                f.protocol = Some("HBONE");
                (to, service)
            }
            Route::DoubleHbone { hop, to, service } => {
                let port = hop.through.as_ref().map_or(0, |through| through.port);
                f.dst_addr = Some(hop.addr);
                f.hbone_addr = Some(format!("{}:{port}", service.hostname).into());
                f.protocol = Some("DOUBLEHBONE");
                (to, &Some(Arc::clone(service)))
            }
            Route::Tcp { addr, to, service } | Route::Named { called: addr, to, service, .. } => {
                f.dst_addr = Some(*addr);
                f.protocol = Some("TCP");
                (to, service)
            }
            Route::Passthrough(_) => {
                f.protocol = Some("TCP");
                return;
            }
        };
        f.dst = peer_info(to);
        f.service = service.as_ref().map(|s| s.hostname.clone());
        f.service_namespace = service.as_ref().map(|s| s.namespace.clone());
    });
}

impl Pod {
    /// The application whose connection was captured, by the sockmap redirect where there is one,
    /// which knows the connection by this address.
    pub(super) fn captured_app(&self, socket: TcpStream) -> App {
        self.app(socket, sockets::original_dst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::conn::LiveConn;

    /// What thousands of idle connections are made of: a field here is megabytes there.
    #[test]
    fn an_idle_connection_is_small() {
        fn serving<A, B, C, D>(_: fn(A, B, C) -> D) -> usize {
            size_of::<D>()
        }
        let sizes = [("task", serving(serve), 456), ("record", size_of::<LiveConn>(), 440)];
        for (what, size, most) in sizes {
            assert!(size <= most, "the {what} takes {size} bytes, more than {most}");
        }
    }
}

//! The way to one endpoint: opened, or given up.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::Socket;
use tokio::net::TcpStream;

use super::{Node, Pod, arrival::Course, record::baggage, route::Route};
use crate::{
    hbone::{
        Hop, Pool,
        connect::{Authority, ConnectRequest},
        order::Ticket,
    },
    identity::LocalIdentity,
    lifecycle::blocking,
    mesh::Workload,
    net::{CloseReason, Direction, Outcome},
    observe::conn::OpenConn,
    proxy::egress::{self, Failed, Verdict},
    relay::{Remote, tcp::TcpRemote},
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

impl Worker {
    /// A connection took this way.
    pub(super) fn reached(&self, route: &Route) {
        let Some(endpoint) = route.endpoint() else { return };
        if self.pod.endpoints.succeeded(&endpoint, Instant::now()) {
            tracing::info!(
                target: "outbound", pod = %self.pod.name, %endpoint,
                "an endpoint that was left out takes connections again"
            );
        }
    }

    /// An attempt that was begun then did not, which counts against the endpoint if it is its own
    /// doing: what a waypoint or gateway answers may be about somebody behind it.
    pub(super) fn missed(&self, route: &Route, begun: Instant, failed: &Failed) {
        let counts = match failed.verdict {
            Verdict::Unreached => true,
            Verdict::Unavailable => route.is_direct(),
            Verdict::Unclear | Verdict::Final => false,
        };
        let Some(endpoint) = route.endpoint().filter(|_| counts) else { return };
        let wait = self.pod.endpoints.failed(endpoint.clone(), begun, Instant::now());
        if let Some(wait) = wait {
            self.node.telemetry.metrics.endpoints.ejections.inc();
            tracing::warn!(
                target: "outbound", pod = %self.pod.name, %endpoint, error = failed.outcome.1,
                "leaving an endpoint out for {wait:?}: connections to it failed in a row"
            );
        }
    }
}

/// Opens the way to where a route leads. What the application has said meanwhile is in `said`,
/// whether it went with the request or not.
///
/// # Errors
/// Why there is none, and whether another endpoint may be tried.
pub(super) async fn open(
    by: &Worker,
    (app, said): (&TcpStream, &mut Vec<u8>),
    conn: &OpenConn,
    (Course { from, route, .. }, ticket): (&Course, Ticket),
) -> Result<Box<dyn Remote>, Failed> {
    let Worker { node, pod, pool, to_waypoints, inner } = by;
    let plain = |far: TcpRemote, said: &mut Vec<u8>| Box::new(far.holding(std::mem::take(said)));
    Ok(match route {
        Route::Hbone { hop, authority, service, .. } => {
            let request = ConnectRequest {
                authority: Authority::Addr(*authority),
                client: client(conn.live().peer.0, from),
                service: service.as_ref().map(|s| s.hostname.clone()),
                baggage: baggage(from),
                network: None,
            };
            let source = Source { node, pod, from };
            let request = (hop, &request, &ticket);
            if authority.ip() == hop.addr.ip() {
                Box::new(egress::hbone::open(&source, pool, (app, said), conn, request).await?)
            } else {
                let app = (app, said);
                let opened = egress::hbone::open(&source, to_waypoints, app, conn, request);
                Box::new(opened.await?.through_proxy())
            }
        }
        Route::DoubleHbone { hop, gateway, service, .. } => {
            let named;
            let hop = match gateway {
                Some(name) => {
                    let addr = resolved(by, conn, (name, hop.addr.port(), hop.addr)).await?;
                    named = Hop { addr, ..hop.clone() };
                    &named
                }
                None => hop,
            };
            let source = Source { node, pod, from };
            let port = hop.through.as_ref().map_or(0, |through| through.port);
            let request = ConnectRequest {
                authority: Authority::Host(service.hostname.to_string(), port),
                client: client(conn.live().peer.0, from),
                service: Some(service.hostname.clone()),
                baggage: baggage(from),
                network: Some(Arc::clone(from.network())),
            };
            let request = (hop, &request, &ticket);
            Box::new(egress::hbone::open(&source, inner, (app, said), conn, request).await?)
        }
        Route::Tcp { addr, .. } | Route::Passthrough(addr) => {
            plain(ticket.begin(dial(node, pod, *addr)).await?, said)
        }
        Route::Named { hostname, port, called, .. } => {
            let found = async {
                let addr = resolved(by, conn, (hostname, *port, *called)).await?;
                dial(node, pod, addr).await
            };
            plain(ticket.begin(found).await?, said)
        }
    })
}

/// The application, as others know it: one that asks by SOCKS5 comes from the loopback address.
fn client(peer: SocketAddr, of: &Workload) -> SocketAddr {
    let own = of.addresses.first().filter(|_| peer.ip().is_loopback());
    SocketAddr::new(own.copied().unwrap_or(peer.ip()), peer.port())
}

/// Plain TCP from inside the pod.
async fn dial(node: &Node, pod: &Pod, addr: SocketAddr) -> Result<TcpRemote, Failed> {
    let probing = |socket: Socket| node.tunnel.keepalive.set_on(&socket).map(|()| socket);
    let dialled = match sockets::outbound_socket(&pod.netns, addr).and_then(probing) {
        Ok(socket) => sockets::connect(socket, addr, node.tunnel.connect).await,
        Err(e) => Err(e),
    };
    dialled.map(TcpRemote::new).map_err(|e| Failed::tcp(addr, &e))
}

/// Where a host name leads, which is in the record then.
async fn resolved(
    Worker { node, pod, .. }: &Worker,
    conn: &OpenConn,
    (hostname, port, called): (&str, u16, SocketAddr),
) -> Result<SocketAddr, Failed> {
    // Whoever asks for names that nobody answers keeps others of this pod waiting only.
    let Ok(_place) = pod.resolving.acquire().await else {
        return Err((CloseReason::Drained, None).into());
    };
    let addr = resolve(hostname, port, called, node.tunnel.connect).await?;
    conn.metadata(|f| f.dst_addr = Some(addr));
    Ok(addr)
}

/// An address of a host name, as this host's own resolver has it: of the called family if there is
/// one.
async fn resolve(
    hostname: &str,
    port: u16,
    called: SocketAddr,
    within: Duration,
) -> Result<SocketAddr, Failed> {
    let unknown = |why: &str| {
        Failed::nowhere(format!("no healthy upstream: {hostname} cannot be resolved: {why}"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Template;

    #[test]
    fn nobody_is_told_of_a_loopback_address() {
        let id = "spiffe://td/ns/shop/sa/web".parse().unwrap();
        let web = Workload {
            uid: "web".into(),
            name: "web".into(),
            addresses: ["10.0.0.1".parse().unwrap()].into(),
            node: None,
            healthy: true,
            template: Template::new("shop".into(), id).into(),
            local: None,
        };
        for (peer, told) in
            [("127.0.0.1:9", "10.0.0.1:9"), ("[::1]:9", "10.0.0.1:9"), ("10.0.0.2:9", "10.0.0.2:9")]
        {
            assert_eq!(client(peer.parse().unwrap(), &web).to_string(), told);
        }
    }
}

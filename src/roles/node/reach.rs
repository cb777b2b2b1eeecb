//! The way to one endpoint: opened, or given up.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::Socket;
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};

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
                "an ejected endpoint accepts connections again"
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
                "endpoint ejected for {wait:?}: connections to it failed in a row"
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
            ensure_remote(hop.addr)?;
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
            ensure_remote(hop.addr)?;
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

/// Whether an address may be that of another: whoever tells of an endpoint tells all pods of it.
fn ensure_remote(addr: SocketAddr) -> Result<(), Failed> {
    let refused = |what| Failed::nowhere(format!("no healthy upstream: {addr} is {what} address"));
    local_only(addr.ip()).map_or(Ok(()), |what| Err(refused(what)))
}

/// Plain TCP from inside the pod.
async fn dial(node: &Node, pod: &Pod, addr: SocketAddr) -> Result<TcpRemote, Failed> {
    ensure_remote(addr)?;
    let probing = |socket: Socket| node.tunnel.keepalive.set_on(&socket).map(|()| socket);
    let dialled = match sockets::outbound_socket(&pod.netns, addr).and_then(probing) {
        Ok(socket) => sockets::connect(socket, addr, node.tunnel.connect).await,
        Err(e) => Err(e),
    };
    dialled.map(TcpRemote::new).map_err(|e| Failed::tcp(addr, &e))
}

/// What an address is that no other host or pod has: from inside a pod it is this very pod, where
/// applications take who calls there for one of their own.
pub(super) fn local_only(ip: IpAddr) -> Option<&'static str> {
    let ip = ip.to_canonical();
    match ip {
        _ if ip.is_loopback() => Some("a loopback"),
        // The kernel takes it for the loopback one.
        _ if ip.is_unspecified() => Some("the unspecified"),
        _ if ip.is_multicast() => Some("a multicast"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast"),
        _ => None,
    }
}

/// Where a host name leads, which is in the record then.
async fn resolved(
    Worker { node, pod, .. }: &Worker,
    conn: &OpenConn,
    (hostname, port, called): (&str, u16, SocketAddr),
) -> Result<SocketAddr, Failed> {
    let within = node.tunnel.connect;
    let unknown = |why: &str| {
        Failed::nowhere(format!("no healthy upstream: {hostname} cannot be resolved: {why}"))
    };
    let name = hostname.to_owned();
    let ask = move || (name.as_str(), port).to_socket_addrs();
    let found = in_place(&pod.resolving, within, ask).await.map_err(|why| unknown(&why))?;
    let all: Vec<_> = found.map_err(|e| unknown(&e.to_string()))?.collect();
    let addr = chosen(&all, called).map_err(|why| unknown(&why))?;
    conn.metadata(|f| f.dst_addr = Some(addr));
    Ok(addr)
}

/// Asks this host's own resolver, once there is a place: whoever asks for names that nobody answers
/// keeps others of its pod waiting only. The place is taken for as long as the resolver takes, which
/// nothing makes give up.
///
/// # Errors
/// Why nothing came in time.
async fn in_place<T: Send + 'static>(
    places: &Arc<Semaphore>,
    within: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let asked = async {
        let place = Arc::clone(places).acquire_owned().await.map_err(|e| e.to_string())?;
        let asked = blocking(move || {
            let _place = place;
            ask()
        });
        asked.await.map_err(|e| e.to_string())
    };
    timeout(within, asked).await.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
}

/// One of the addresses of a name, of the called family if there is one.
///
/// # Errors
/// Why none of them can be called.
fn chosen(all: &[SocketAddr], called: SocketAddr) -> Result<SocketAddr, String> {
    let (no, some): (Vec<_>, Vec<_>) = all.iter().partition(|addr| local_only(addr.ip()).is_some());
    let same = |addr: &&SocketAddr| addr.is_ipv4() == called.is_ipv4();
    let of_family: Vec<_> = some.iter().copied().filter(same).collect();
    let among = if of_family.is_empty() { some } else { of_family };
    let at = rand::random::<u32>() as usize % among.len().max(1);
    let none = || match no.first().and_then(|addr| Some((addr.ip(), local_only(addr.ip())?))) {
        Some((ip, what)) => format!("{ip} is {what} address"),
        None => "it has no address".to_owned(),
    };
    among.get(at).copied().copied().ok_or_else(none)
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
    use std::sync::mpsc;

    use futures_util::FutureExt as _;

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

    #[test]
    fn a_name_never_leads_to_the_pod_that_calls_it() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (all, called, found) in [
            (&["10.0.0.1:80"][..], "10.9.0.1:1", Ok("10.0.0.1:80")),
            (&["10.0.0.1:80", "[fd00::1]:80"], "[fd09::1]:1", Ok("[fd00::1]:80")),
            (&["[fd00::1]:80"], "10.9.0.1:1", Ok("[fd00::1]:80")),
            (&["127.0.0.1:80", "[fd00::1]:80"], "10.9.0.1:1", Ok("[fd00::1]:80")),
            (&["127.0.0.1:80", "[::1]:80"], "10.9.0.1:1", Err("127.0.0.1 is a loopback address")),
            (&["[::1]:80"], "10.9.0.1:1", Err("::1 is a loopback address")),
            (
                &["[::ffff:127.9.9.9]:80"],
                "10.9.0.1:1",
                Err("::ffff:127.9.9.9 is a loopback address"),
            ),
            (&["0.0.0.0:80"], "10.9.0.1:1", Err("0.0.0.0 is the unspecified address")),
            (&["[::]:80"], "10.9.0.1:1", Err(":: is the unspecified address")),
            (&["224.0.0.1:80"], "10.9.0.1:1", Err("224.0.0.1 is a multicast address")),
            (&["[ff02::1]:80"], "10.9.0.1:1", Err("ff02::1 is a multicast address")),
            (&[], "10.9.0.1:1", Err("it has no address")),
        ] {
            let all: Vec<_> = all.iter().map(|text| addr(text)).collect();
            let expected = found.map(addr).map_err(str::to_owned);
            assert_eq!(chosen(&all, addr(called)), expected, "{all:?}");
        }
    }

    /// For as long as the resolver takes: its thread is one of those that all pods share.
    #[tokio::test]
    async fn a_name_that_nobody_answers_holds_its_place_and_those_behind_it_give_up() {
        let places = Arc::new(Semaphore::new(1));
        let (begins, begun) = mpsc::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let ask = move || {
            begins.send(()).unwrap();
            wait.recv()
        };
        let mut first = Box::pin(in_place(&places, Duration::from_secs(60), ask));
        assert!(first.as_mut().now_or_never().is_none());
        begun.recv().unwrap();
        drop(first); // as it does after its time
        assert_eq!(places.available_permits(), 0, "its thread is still taken");
        let soon = Duration::from_millis(1);
        let late = in_place(&places, soon, || unreachable!("there is no place")).await;
        assert_eq!(late, Err::<(), _>("no answer within 1ms".to_owned()));
        go_on.send(()).unwrap();
        assert_eq!(in_place(&places, Duration::from_secs(60), || 7).await, Ok(7));
    }
}

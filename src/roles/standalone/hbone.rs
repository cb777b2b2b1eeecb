//! HBONE instead of plain TLS on the wire: a host outside joins an ambient mesh. As a server,
//! each CONNECT stream is a connection; as a client, connections share tunnels.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use http::StatusCode;
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::{
    Hbone, Service,
    admission::admit,
    local_identity::{identity, no_identity},
    outcome::{Outcome, ended, finish, within_lifetime},
    proxy_protocol::{self, Told},
    reach::dial,
    service::Unproven,
};
use crate::{
    hbone::{
        Callers, HBONE_PORT, Hop, Pool, TunnelConfig, TunnelRegistry,
        connect::{Authority, ConnectRequest},
        order::Ticket,
        server::Incoming,
        stream::TunnelStream,
    },
    identity::{LocalIdentity, PeerCert},
    lifecycle::{self, Tasks},
    net::{Address, CloseReason, PeerAddr, endpoint},
    observe::conn::OpenConn,
    proxy::{
        egress,
        ingress::{self, Destination, Ends, Refusal},
    },
    relay::{self, App},
    sys::netns::Netns,
    tls::{Acceptor, Peer},
};

fn config(service: &Service) -> TunnelConfig {
    let limit = service.config.connect;
    TunnelConfig {
        connect: limit,
        tls: limit,
        http2: limit,
        response: limit,
        marked: false,
        ..TunnelConfig::default()
    }
}

/// One worker's tunnels towards others.
pub(super) fn pool(
    service: &Service,
    tasks: Tasks,
    closing: CancellationToken,
) -> io::Result<Pool> {
    let pool = Pool::new(Arc::new(Netns::current()?), config(service), tasks, closing);
    Ok(pool.among(Arc::clone(&service.trusted_peers.tunnels)))
}

/// Carries one plain connection through a tunnel.
pub(super) async fn client(
    service: &Service,
    hbone: &Hbone,
    pool: &Pool,
    socket: TcpStream,
    conn: &OpenConn,
) -> Outcome {
    let _counted = service.counted();
    let mut app = App::new(socket);
    let mut stream = match Box::pin(open(service, hbone, pool, app.socket(), conn)).await {
        Ok(stream) => stream,
        Err(outcome) => {
            service.counts.failed.fetch_add(1, Relaxed);
            return outcome;
        }
    };
    service.counts.succeeded.fetch_add(1, Relaxed);
    conn.count_opened();
    carry(service, &mut app, &mut stream, conn).await
}

async fn open(
    service: &Service,
    hbone: &Hbone,
    pool: &Pool,
    app: &TcpStream,
    conn: &OpenConn,
) -> Result<TunnelStream, Outcome> {
    identity(&service.store.current()).map_err(no_identity)?;
    let target = service.config.targets.first();
    let (host, port) = match target {
        Some(Address::Tcp { host, port }) => (host.clone(), *port),
        _ => {
            return Err((CloseReason::ConnectFailure, Some("the target must be HOST:PORT".into())));
        }
    };
    let gateway = hbone.gateway.clone();
    let gateway = gateway.unwrap_or(Address::Tcp { host: host.clone(), port: HBONE_PORT });
    let addr = resolved(&gateway).await?;
    let authority = match host.parse::<IpAddr>() {
        Ok(ip) => Authority::Addr(SocketAddr::new(ip.to_canonical(), port)),
        Err(_) => Authority::Host(host, port),
    };
    conn.metadata(|f| {
        f.protocol = Some("HBONE");
        f.dst_addr = Some(addr);
        f.hbone_addr = Some(authority.to_string().into());
    });
    let request = ConnectRequest {
        authority,
        client: conn.live().peer.0,
        service: None,
        baggage: format!("service.name={}", service.config.name),
        network: None,
    };
    let hop = Hop::new(addr, hbone.expect.clone());
    let ticket = Ticket::alone();
    let app = (app, &mut Vec::new());
    let opened = egress::hbone::open(service, pool, app, conn, (&hop, &request, &ticket)).await;
    if let (Err(_), Address::Tcp { host, port }) = (&opened, &gateway) {
        lifecycle::dial::forget(host, *port);
    }
    let stream = opened?;
    service.not_barred_by_successor(conn.live()).await?;
    Ok(stream)
}

impl egress::hbone::Source for Service {
    async fn identity(&self) -> Result<LocalIdentity, Outcome> {
        identity(&self.store.current()).map_err(no_identity)
    }

    fn handshake_failed(&self, reason: CloseReason) {
        self.handshake_failed(reason);
    }
}

async fn resolved(gateway: &Address) -> Result<SocketAddr, Outcome> {
    let failed = |why: String| (CloseReason::ConnectFailure, Some(format!("{gateway}: {why}")));
    let Address::Tcp { host, port } = gateway else {
        return Err(failed("must be HOST:PORT".into()));
    };
    lifecycle::dial::reachable(host, *port).await.map_err(|e| failed(e.to_string()))
}

/// A service, as one for which tunnels arrive; one for each worker.
pub(super) struct ServiceDestination {
    service: Arc<Service>,
    acceptor: Acceptor,
    config: TunnelConfig,
}

type Tunnel = ingress::IngressTunnel<ServiceDestination>;

impl ServiceDestination {
    pub(super) fn new(service: &Arc<Service>) -> Self {
        let config = config(service);
        Self { service: Arc::clone(service), acceptor: Acceptor::default(), config }
    }
}

/// Serves one tunnel that was accepted.
pub(super) async fn serve(
    to: Arc<ServiceDestination>,
    (tcp, peer): (TcpStream, SocketAddr),
    streams: Tasks,
    draining: CancellationToken,
) {
    let _counted = to.service.counted();
    let local = endpoint::local(&tcp).unwrap_or(peer);
    let ends = Ends { peer: PeerAddr(peer), local };
    ingress::hbone::serve(to, (tcp, ends), streams, draining).await;
}

impl Destination for ServiceDestination {
    type Unproven = Unproven;
    type Place = Option<OwnedSemaphorePermit>;
    type Caller = Option<Arc<PeerCert>>;
    /// The port that policies are asked about.
    type Target = u16;

    fn config(&self) -> &TunnelConfig {
        &self.config
    }

    fn acceptor(&self) -> &Acceptor {
        &self.acceptor
    }

    fn tunnels(&self) -> &TunnelRegistry {
        &self.service.trusted_peers.tunnels
    }

    fn callers(&self) -> &Callers {
        &self.service.callers
    }

    fn unproven(&self, peer: SocketAddr) -> Result<Unproven, Outcome> {
        self.service.unproven(peer)
    }

    async fn given_up(unproven: &Unproven) -> Outcome {
        unproven.given_up().await
    }

    async fn place(&self, unproven: Unproven) -> Result<Self::Place, Outcome> {
        unproven.slot(&self.service, std::future::pending()).await
    }

    async fn identity(&self) -> Result<LocalIdentity, Outcome> {
        identity(&self.service.store.current()).map_err(no_identity)
    }

    fn caller(&self, peer: &Peer) -> Option<Arc<PeerCert>> {
        PeerCert::of(&peer.chain).map(Arc::new)
    }

    fn handshake_failed(&self, reason: CloseReason) {
        self.service.handshake_failed(reason);
        self.service.counts.failed.fetch_add(1, Relaxed);
    }

    fn record(&self, ends: Ends) -> OpenConn {
        let conn = self.service.record(ends.peer.0);
        conn.metadata(|f| f.protocol = Some("HBONE"));
        conn
    }

    fn finish(&self, conn: OpenConn, outcome: Outcome) {
        finish(&self.service, conn, outcome);
    }

    fn count(&self, let_in: bool) {
        let counts = &self.service.counts;
        let count = if let_in { &counts.succeeded } else { &counts.failed };
        count.fetch_add(1, Relaxed);
    }

    async fn target(
        &self,
        tunnel: &Tunnel,
        incoming: &Incoming,
        _: &OpenConn,
    ) -> Result<u16, Refusal> {
        meant(&self.service, incoming, tunnel.ends.local)
    }

    async fn authorize(&self, tunnel: &Tunnel, port: &u16, conn: &OpenConn) -> Result<(), Outcome> {
        identity(&self.service.store.current()).map_err(no_identity)?;
        let Ends { peer, local } = tunnel.ends;
        // Policies are about the application's port, not about that of the tunnel.
        let called = SocketAddr::new(local.ip(), *port);
        admit(&self.service, tunnel.caller.as_ref(), peer.0, called, conn).await
    }

    async fn dial(&self, tunnel: &Tunnel, _: &u16, conn: &OpenConn) -> Result<App, Outcome> {
        let mut header = Vec::new();
        if let Some(mode) = self.service.config.proxy_out {
            let told = Told {
                from: tunnel.ends.peer.0,
                to: tunnel.ends.local,
                tls: Some(&*tunnel.proven.peer.tls),
                alpn: Some(b"h2"),
                authority: None,
                peer: tunnel.caller.as_deref(),
            };
            let failed = |e| (CloseReason::ConnectFailure, Some(format!("PROXY header: {e}")));
            header = proxy_protocol::header(mode, &told).map_err(failed)?;
        }
        let deadline = tokio::time::Instant::now() + self.service.config.connect;
        dial(&self.service, conn, deadline, &header).await.map(App::new)
    }

    fn baggage(&self, _: &u16) -> Option<String> {
        Some(format!("service.name={}", self.service.config.name))
    }

    fn relay(
        &self,
        app: &mut App,
        stream: &mut TunnelStream,
        conn: &OpenConn,
    ) -> impl Future<Output = Outcome> + Send {
        carry(&self.service, app, stream, conn)
    }
}

async fn carry(
    service: &Service,
    app: &mut App,
    stream: &mut TunnelStream,
    conn: &OpenConn,
) -> Outcome {
    let limits = &service.config.limits;
    let meter = &conn.live().meter;
    let carried = async { ended(relay::run(app, stream, meter, limits).await) };
    within_lifetime(service, carried).await
}

/// The stream must be for this host, and for the port of its target.
fn meant(service: &Service, incoming: &Incoming, local: SocketAddr) -> Result<u16, Refusal> {
    let refusal = |reason, why| Refusal { status: StatusCode::BAD_REQUEST, reason, why };
    let bad = |why| refusal(CloseReason::BadConnect, why);
    if !incoming.is_connect() {
        return Err(bad("the method is not CONNECT"));
    }
    let authority = incoming.authority();
    let port = match authority.ok_or(bad(":authority is not IP:port or hostname:port"))? {
        Authority::Addr(addr) if addr.ip().to_canonical() != local.ip().to_canonical() => {
            return Err(bad(":authority is not the address that was called"));
        }
        Authority::Addr(addr) => addr.port(),
        Authority::Host(host, port) if is_own_name(service, &host, local) => port,
        Authority::Host(..) => {
            let why = "the host name in :authority does not belong to this service: it is not a DNS name \
                 of its certificate, not a --tunnel-authority (tunnel.authorities), and not the \
                 host of the target or the listener";
            return Err(refusal(CloseReason::AuthorityMismatch, why));
        }
    };
    match service.config.targets.first() {
        Some(Address::Tcp { port: target, .. }) if *target != port => {
            Err(bad("the port in :authority is not the target's port"))
        }
        Some(Address::Tcp { .. }) => Ok(port),
        // A target without a port: the caller does not choose what policies are asked about.
        _ => Ok(local.port()),
    }
}

/// Whether a caller means this service by the name: it is configured, or certified, or that of its
/// target or listener. Nothing is looked up, as the caller chooses it.
fn is_own_name(service: &Service, name: &str, local: SocketAddr) -> bool {
    let host = |address: &Address| match address {
        Address::Tcp { host, .. } => Some(host.clone()),
        _ => None,
    };
    let credentials = service.store.current();
    let certified = credentials.own.iter().flat_map(|own| own.dns.iter().map(String::as_str));
    let configured = service.config.hbone.iter().flat_map(|hbone| &hbone.authorities);
    let (target, listener) =
        (service.config.targets.first().and_then(host), host(&service.config.listen));
    let mut own = certified
        .chain(configured.map(String::as_str))
        .chain(target.as_deref())
        .chain(listener.as_deref())
        .chain(local.ip().is_loopback().then_some("localhost"));
    own.any(|own| same_name(own, name))
}

/// DNS names have no case (RFC 4343), and may end with the root's dot.
fn same_name(a: &str, b: &str) -> bool {
    let without_root = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    !a.is_empty() && without_root(a) == without_root(b)
}

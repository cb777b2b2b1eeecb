//! HBONE instead of plain TLS on the wire: a host outside joins an ambient mesh. As a server,
//! each CONNECT stream is a connection; as a client, connections share tunnels.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use http::StatusCode;
use pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{
    Address, Credentials, PeerCert, Service,
    admission::admit,
    connection::dial,
    endpoint,
    outcome::{Outcome, ended, finish, within_lifetime},
    proxy_protocol::{self, Told},
};
use crate::{
    hbone::{
        AuthenticatedTunnel, HBONE_PORT, Hop, LocalIdentity, Pool, TunnelConfig,
        connect::{Authority, ConnectRequest},
        order::Ticket,
        server::{self, Incoming},
        stream::TunnelStream,
    },
    identity::SpiffeId,
    lifecycle::{self, Tasks},
    observe::conn::{CloseReason, Direction, OpenConn},
    relay::{self, App},
    sys::{netns::Netns, sockets},
    tls::{Acceptor, TlsError},
};

/// What speaks in streams, beside what [`super::ServiceConfig`] says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hbone {
    /// Where the target's node takes tunnels; port 15008 of the target if not given (client).
    pub gateway: Option<Address>,
    /// Who must be there (client).
    pub expect: Vec<SpiffeId>,
    /// Host names in `:authority` that are this service's, beside those that it knows (server).
    pub authorities: Vec<String>,
}

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

/// What is shown in a tunnel.
///
/// # Errors
/// The certificate is none for it.
pub(super) fn identity(material: &Credentials) -> Result<LocalIdentity, String> {
    if let Some(why) = &material.gone {
        return Err(why.clone());
    }
    material.svid.clone().ok_or_else(|| {
        format!(
            "{}: HBONE needs an X.509-SVID, a certificate with one spiffe:// URI, and its roots",
            material.source
        )
    })
}

fn no_identity(why: String) -> Outcome {
    (CloseReason::NoIdentity, Some(why))
}

/// One worker's tunnels towards others.
pub(super) fn pool(
    service: &Service,
    tasks: Tasks,
    closing: CancellationToken,
) -> io::Result<Pool> {
    let pool = Pool::new(Arc::new(Netns::current()?), config(service), tasks, closing);
    Ok(pool.among(Arc::clone(&service.revalidator.tunnels)))
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
    let limits = &service.config.limits;
    let meter = &conn.live().meter;
    let carried = async { ended(relay::run(&mut app, &mut stream, meter, limits).await) };
    within_lifetime(service, carried).await
}

async fn open(
    service: &Service,
    hbone: &Hbone,
    pool: &Pool,
    app: &TcpStream,
    conn: &OpenConn,
) -> Result<TunnelStream, Outcome> {
    let own = identity(&service.keeper.current()).map_err(no_identity)?;
    let target = service.config.targets.first();
    let (host, port) = match target {
        Some(Address::Tcp { host, port }) => (host.clone(), *port),
        _ => return Err((CloseReason::ConnectFailure, Some("the target is no HOST:PORT".into()))),
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
    };
    let hop = Hop { addr, expect: hbone.expect.clone() };
    let first = sockets::read_now(app);
    let opened = pool.open(&own, &hop, (&request, &first), &Ticket::alone()).await;
    let (stream, proven) = opened.map_err(|e| {
        if let Address::Tcp { host, port } = &gateway {
            lifecycle::dial::forget(host, *port);
        }
        if e.is_handshake() {
            service.handshake_failed(e.close_reason());
        }
        (e.close_reason(), Some(e.to_string()))
    })?;
    conn.live().meter.up.fetch_add(first.len() as u64, Relaxed);
    conn.metadata(|f| {
        f.src.id = Some(own.svid.id.clone());
        f.dst.id = Some(proven.peer.id.clone());
        f.tls = Some(Arc::clone(&proven.peer.tls));
    });
    // After the metadata, by which a re-check finds this stream: one of the two sees the other.
    if let Some(no) = proven.termination() {
        return Err((no.reason, Some(no.why.to_string())));
    }
    Ok(stream)
}

async fn resolved(gateway: &Address) -> Result<SocketAddr, Outcome> {
    let failed = |why: String| (CloseReason::ConnectFailure, Some(format!("{gateway}: {why}")));
    let Address::Tcp { host, port } = gateway else {
        return Err(failed("is no HOST:PORT".into()));
    };
    lifecycle::dial::reachable(host, *port).await.map_err(|e| failed(e.to_string()))
}

/// Serves one tunnel: handshake first, then its streams.
pub(super) async fn serve(
    service: Arc<Service>,
    acceptor: Arc<Acceptor>,
    (tcp, peer): (TcpStream, SocketAddr),
    streams: Tasks,
    draining: CancellationToken,
) {
    let local = endpoint::local(&tcp).unwrap_or(peer);
    let _counted = service.counted();
    let refused = |reason, why: String| {
        service.handshake_failed(reason);
        service.counts.failed.fetch_add(1, Relaxed);
        finish(&service, service.record(peer), (reason, Some(why)));
    };
    let gone = |(reason, why): Outcome| refused(reason, why.unwrap_or_default());
    let unproven = match service.unproven(peer) {
        Ok(place) => place,
        Err(outcome) => return gone(outcome),
    };
    let own = match identity(&service.keeper.current()) {
        Ok(own) => own,
        Err(why) => return refused(CloseReason::NoIdentity, why),
    };
    let accepted = tokio::select! {
        accepted = acceptor.accept(tcp, &own.svid, &own.bundles, service.config.connect) => accepted,
        outcome = unproven.given_up() => return gone(outcome),
    };
    let session = match accepted {
        Ok(session) => session,
        Err(TlsError::Silent) => {
            return finish(&service, service.record(peer), (CloseReason::Silent, None));
        }
        Err(error) => return refused(error.close_reason(), error.to_string()),
    };
    let (id, theirs) = (own.svid.id.clone(), session.peer.clone());
    let proven =
        match service.revalidator.tunnels.admit(Direction::Inbound, id, theirs, &own.bundles) {
            Ok(proven) => proven,
            Err(no) => return refused(no.reason, no.why.to_string()),
        };
    let _slot = tokio::select! {
        slot = unproven.slot(&service, std::future::pending()) => match slot {
            Ok(slot) => slot,
            Err(outcome) => return gone(outcome),
        },
        () = proven.ended() => return,
    };
    let chain: Vec<CertificateDer<'_>> = session.peer.chain.to_vec();
    let cert = PeerCert::of(&chain).map(Arc::new);
    let caller = Caller { cert, proven: Arc::clone(&proven), peer, local };
    let tunnel = config(&service);
    let taken = match service.callers.enter(&proven.peer.id, peer.ip(), Instant::now()) {
        Ok(taken) => taken,
        Err(why) => {
            server::turn_away(session, &tunnel);
            return refused(CloseReason::Overloaded, why.to_string());
        }
    };
    let handle = |incoming: Box<Incoming>| {
        let (service, caller) = (Arc::clone(&service), caller.clone());
        async move {
            let conn = service.record(peer);
            let facts = Arc::clone(&caller.proven.peer.tls);
            conn.metadata(|f| (f.protocol, f.tls) = (Some("HBONE"), Some(facts)));
            let carried = tokio::select! {
                outcome = stream(&service, &caller, incoming, &conn) => outcome,
                reason = conn.live().until_cut() => (reason, None),
            };
            finish(&service, conn, carried);
        }
    };
    let config = &tunnel;
    let with = server::Service { peer, config, caller: &taken, tasks: &streams, draining };
    let serve = server::serve(session, with, handle);
    let served = tokio::select! {
        served = serve => served,
        () = proven.ended() => return,
    };
    if let Err(broken) = served
        && broken.streams == 0
    {
        refused(CloseReason::TunnelFailure, broken.why);
    }
}

/// Who is at the other end of a tunnel.
#[derive(Clone)]
struct Caller {
    cert: Option<Arc<PeerCert>>,
    proven: Arc<AuthenticatedTunnel>,
    peer: SocketAddr,
    local: SocketAddr,
}

impl Caller {
    /// A tunnel outlives the certificate that made it, and what that was checked against; what is
    /// new in it does not.
    fn still_proven(&self) -> Result<(), Outcome> {
        if let Some(no) = self.proven.termination() {
            return Err((no.reason, Some(no.why.to_string())));
        }
        if self.proven.peer.has_ended() {
            let why = "the caller's SVID expired while its tunnel was open";
            return Err((CloseReason::SvidExpired, Some(why.into())));
        }
        Ok(())
    }
}

async fn stream(
    service: &Service,
    caller: &Caller,
    incoming: Box<Incoming>,
    conn: &OpenConn,
) -> Outcome {
    let begun = Box::pin(begin(service, caller, *incoming, conn)).await;
    let (mut app, mut stream) = match begun {
        Ok(begun) => begun,
        Err(outcome) => {
            service.counts.failed.fetch_add(1, Relaxed);
            return outcome;
        }
    };
    service.counts.succeeded.fetch_add(1, Relaxed);
    conn.count_opened();
    let limits = &service.config.limits;
    let meter = &conn.live().meter;
    let carried = async { ended(relay::run(&mut app, &mut *stream, meter, limits).await) };
    within_lifetime(service, carried).await
}

async fn begin(
    service: &Service,
    caller: &Caller,
    mut incoming: Incoming,
    conn: &OpenConn,
) -> Result<(App, Box<TunnelStream>), Outcome> {
    let (cert, peer, local) = (caller.cert.as_ref(), caller.peer, caller.local);
    conn.metadata(|f| f.hbone_addr = Some(incoming.authority_text().into()));
    if let Some(why) = incoming.is_too_much() {
        incoming.turn_away();
        return Err((CloseReason::Overloaded, Some(why.into())));
    }
    let port = match meant(service, &incoming, local) {
        Ok(port) => port,
        Err((reason, why)) => {
            incoming.refuse(StatusCode::BAD_REQUEST);
            return Err((reason, Some(why.into())));
        }
    };
    // Policies are about the application's port, not about that of the tunnel.
    let called = SocketAddr::new(local.ip(), port);
    let shown = || identity(&service.keeper.current()).map_err(no_identity);
    let admitted = match caller.still_proven().and_then(|()| shown().map(drop)) {
        Ok(()) => admit(service, cert, peer, called, conn).await,
        refused => refused,
    };
    if let Err(outcome) = admitted {
        match outcome.0 {
            // The tunnel says GOAWAY ahead of this; a caller with a new SVID may come back.
            CloseReason::SvidExpired | CloseReason::NoIdentity => incoming.turn_away(),
            _ => incoming.refuse(StatusCode::UNAUTHORIZED),
        }
        return Err(outcome);
    }
    let mut header = Vec::new();
    if let Some(mode) = service.config.proxy_out {
        let tls = conn.metadata(|f| f.tls.clone());
        let told = Told {
            from: peer,
            to: local,
            tls: tls.as_deref(),
            alpn: Some(b"h2"),
            authority: None,
            peer: cert.map(|cert| &**cert),
        };
        let failed = |e| (CloseReason::ConnectFailure, Some(format!("PROXY header: {e}")));
        header = proxy_protocol::header(mode, &told).map_err(failed)?;
    }
    let deadline = tokio::time::Instant::now() + service.config.connect;
    let dialled = tokio::select! {
        dialled = dial(service, conn, deadline, &header) => dialled,
        () = incoming.abandoned() => {
            return Err((CloseReason::PeerReset, Some("the caller gave up".into())));
        }
    };
    let app = match dialled {
        Ok(app) => app,
        Err(outcome) => {
            incoming.refuse(StatusCode::SERVICE_UNAVAILABLE);
            return Err(outcome);
        }
    };
    let baggage = format!("service.name={}", service.config.name);
    let gone = || (CloseReason::PeerReset, Some("the caller gave up".into()));
    let stream = incoming.accept(&baggage).ok_or_else(gone)?.recorded(conn.live());
    Ok((App::new(app), Box::new(stream)))
}

/// The stream must be for this host, and for the port of its target.
fn meant(
    service: &Service,
    incoming: &Incoming,
    local: SocketAddr,
) -> Result<u16, (CloseReason, &'static str)> {
    let bad = |why| (CloseReason::BadConnect, why);
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
            let why = "the host name in :authority is not one of this service: it is in no DNS \
                       name of its certificate, in no --tunnel-authority (tunnel.authorities) and \
                       neither the target nor the listener";
            return Err((CloseReason::AuthorityMismatch, why));
        }
    };
    match service.config.targets.first() {
        Some(Address::Tcp { port: target, .. }) if *target != port => {
            Err(bad("the port in :authority is not that of the target"))
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
    let material = service.keeper.current();
    let certified = material.own.iter().flat_map(|own| own.dns.iter().map(String::as_str));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authority::EmbeddedCa,
        hbone::{PeerExpiry, Trust, TunnelRegistry},
        identity::BundleSet,
        observe::conn::TlsFacts,
        tls::Peer,
    };
    use std::time::{Duration, SystemTime};

    /// Whether its tunnel is withdrawn or its caller has run out: the next stream is told.
    #[test]
    fn a_caller_that_is_proven_no_more_begins_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ca = EmbeddedCa::open(dir.path(), &"td".parse().unwrap(), Duration::from_secs(60));
        let svid = ca.unwrap().issue(&"spiffe://td/host/a".parse().unwrap()).unwrap();
        let (version, group, cipher) = ("", "", "");
        let facts = TlsFacts { version, group, cipher, mutual: true, path: None };
        let peer = |not_after: SystemTime| Peer {
            id: svid.id.clone(),
            not_before: svid.not_before,
            not_after,
            chain: svid.chain.clone().into(),
            tls: Arc::new(facts.clone()),
        };
        let live = TunnelRegistry::default();
        let addr: SocketAddr = "10.0.0.9:999".parse().unwrap();
        let caller = |peer: Peer| {
            let own = svid.id.clone();
            let proven = live.admit(Direction::Inbound, own, peer, &Arc::<BundleSet>::default());
            Caller { cert: None, proven: proven.unwrap(), peer: addr, local: addr }
        };
        let told = |caller: &Caller| caller.still_proven().err().map(|(reason, _)| reason);
        let now = SystemTime::now();
        let (good, late) =
            (caller(peer(svid.not_after)), caller(peer(now - Duration::from_secs(5))));
        assert_eq!(told(&good), None);
        assert_eq!(told(&late), Some(CloseReason::SvidExpired));
        assert_eq!(live.recheck(&Trust::default(), |_| true, PeerExpiry::Keep, now).len(), 2);
        assert_eq!(told(&good), Some(CloseReason::TrustDomainRemoved));
    }
}

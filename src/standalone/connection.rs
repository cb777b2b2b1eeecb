//! One connection, from accept to close.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use pki_types::ServerName;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

use super::{
    Address, PeerCert, ProxyMode, Role, SecuredFar, Service, endpoint,
    proxy_protocol::{self, Told},
    tls::{Config, noting},
};
use crate::{
    observe::conn::{CloseReason, Direction, Flow, OpenConn, PeerAddr},
    relay::{self, App},
    sys::sockets,
    tls::{
        TlsError,
        secured::{self, Secured},
    },
};

/// How it ended, and what went wrong if anything did.
pub(super) type Outcome = (CloseReason, Option<String>);

/// Carries one connection and leaves its record.
///
/// # Cancel safety
/// Dropping the future resets both sides; the record says `dropped`.
pub(super) async fn serve(service: Arc<Service>, socket: TcpStream, peer: SocketAddr) {
    let deadline = Instant::now() + service.config.connect;
    let told = match service.config.proxy_in {
        false => Ok(peer),
        true => Box::pin(told(&socket, peer, deadline)).await,
    };
    let conn = service.record(*told.as_ref().unwrap_or(&peer));
    // What only the beginning needs is gone when the bytes flow.
    let begun = match told {
        Ok(peer) => Box::pin(begin(&service, socket, peer, &conn, deadline)).await,
        Err(outcome) => Err(outcome),
    };
    let outcome = match begun {
        Ok((app, far)) => carry(&service, app, far, &conn).await,
        Err(outcome) => outcome,
    };
    finish(&service, conn, outcome);
}

/// Who connected, as the PROXY header says.
async fn told(
    socket: &TcpStream,
    peer: SocketAddr,
    deadline: Instant,
) -> Result<SocketAddr, Outcome> {
    let wrong = |why: String| (CloseReason::BadProxyHeader, Some(format!("PROXY header: {why}")));
    match tokio::time::timeout_at(deadline, proxy_protocol::read(socket)).await {
        Ok(Ok(told)) => Ok(told.unwrap_or(peer)),
        Ok(Err(error)) => Err(wrong(error.to_string())),
        Err(_) => Err(wrong("it did not come in time".into())),
    }
}

/// Leaves the record.
pub(super) fn finish(service: &Service, mut conn: OpenConn, (reason, error): Outcome) {
    if !service.config.quiet.logs(reason) {
        conn.leave_unlogged();
    }
    service.counts.lifetime.record(conn.live().opened.elapsed());
    if matches!(reason, CloseReason::LifetimeReached | CloseReason::HalfCloseTimeout) {
        service.counts.ended_by_limit.fetch_add(1, Relaxed);
    }
    match error {
        Some(error) => conn.fail(reason, error),
        None => conn.close(reason),
    }
}

async fn carry(
    service: &Service,
    mut app: App,
    mut far: Box<SecuredFar>,
    conn: &OpenConn,
) -> Outcome {
    let close = service.config.close;
    let live = conn.live();
    let carried = async {
        tokio::select! {
            end = relay::run_closing(&mut app, &mut *far, &live.meter, close) => {
                if matches!(&end, relay::End::FarReset(e) if e.kind() == io::ErrorKind::UnexpectedEof) {
                    Box::pin(delivered(app.socket(), close)).await;
                }
                ended(end)
            }
            reason = live.until_cut() => (reason, None),
        }
    };
    within_lifetime(service, carried).await
}

/// Many TLS peers end without close_notify. Their end is passed on as the reset that it may be,
/// and a reset throws away what the kernel still holds for the plain side: that arrived whole, and
/// goes first, for as long as one side may go on when the other has ended.
async fn delivered(app: &TcpStream, within: Duration) {
    let all_taken = async {
        let mut pause = Duration::from_millis(1);
        while sockets::unacknowledged(app) > 0 {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(64));
        }
    };
    let _ = tokio::time::timeout(within, all_taken).await;
}

/// Carries for as long as a connection may last.
pub(super) async fn within_lifetime(
    service: &Service,
    carried: impl Future<Output = Outcome>,
) -> Outcome {
    match service.config.lifetime {
        None => carried.await,
        Some(limit) => match tokio::time::timeout(limit, Box::pin(carried)).await {
            Ok(outcome) => outcome,
            Err(_) => (CloseReason::LifetimeReached, None),
        },
    }
}

pub(super) fn ended(end: relay::End) -> Outcome {
    match end {
        relay::End::Completed => (CloseReason::Completed, None),
        relay::End::AppReset(e) => (CloseReason::AppReset, Some(format!("plain side: {e}"))),
        relay::End::FarReset(e) => (CloseReason::PeerReset, Some(format!("TLS side: {e}"))),
        relay::End::Idle(limit) => {
            (CloseReason::IdleTimeout, Some(format!("nothing moved for {limit:?}")))
        }
        relay::End::HalfClosed(limit) => {
            let why = format!("one side had ended for {limit:?} and the other went on");
            (CloseReason::HalfCloseTimeout, Some(why))
        }
    }
}

/// Handshake, who is there, may they, and the other end: all within the connect timeout.
async fn begin(
    service: &Service,
    socket: TcpStream,
    peer: SocketAddr,
    conn: &OpenConn,
    deadline: Instant,
) -> Result<(App, Box<SecuredFar>), Outcome> {
    let limit = service.config.connect;
    let begun = async {
        match service.config.role {
            Role::Server => server(service, socket, peer, conn, limit).await,
            Role::Client => client(service, socket, peer, conn, limit).await,
        }
    };
    let begun = match tokio::time::timeout_at(deadline, begun).await {
        Ok(begun) => begun,
        Err(_) => {
            let why = format!("not connected after {limit:?}");
            Err((CloseReason::ConnectTimeout, Some(why)))
        }
    };
    let count = match &begun {
        Ok(_) => &service.counts.succeeded,
        Err((CloseReason::TlsTimeout | CloseReason::ConnectTimeout, _)) => {
            &service.counts.timed_out
        }
        Err(_) => &service.counts.failed,
    };
    count.fetch_add(1, Relaxed);
    if begun.is_ok() {
        conn.count_opened();
    }
    begun
}

async fn server(
    service: &Service,
    socket: TcpStream,
    peer: SocketAddr,
    conn: &OpenConn,
    limit: Duration,
) -> Result<(App, Box<SecuredFar>), Outcome> {
    let Config::Server(config) = service.tls().map_err(own)? else {
        return Err(own("the role changed".into()));
    };
    let (config, asked) = match service.config.proxy_out {
        Some(ProxyMode::Tls | ProxyMode::TlsFull) => {
            let (config, asked) = noting(&config);
            (config, Some(asked))
        }
        _ => (config, None),
    };
    let begun = Instant::now();
    let secured = secured::accept(socket, config, limit).await.map_err(|e| failed(&e))?;
    service.counts.handshake.record(begun.elapsed());
    conn.facts(|f| f.tls = Some(Arc::clone(&secured.facts)));
    let caller = PeerCert::of(&secured.chain).map(Arc::new);
    let local = local_of(&secured);
    let (facts, alpn) = (Arc::clone(&secured.facts), secured.alpn.clone());
    let far = SecuredFar::new(secured).map_err(|e| lost(&e))?;
    if service.config.tls.authenticate {
        let admitted = admit(service, caller.as_ref(), peer, local, conn).await;
        if let Err(outcome) = admitted {
            far.refuse();
            return Err(outcome);
        }
    }
    let mut app = dial(service, conn).await?;
    if let Some(mode) = service.config.proxy_out {
        let told = Told {
            from: peer,
            to: local,
            tls: Some(&*facts),
            alpn: alpn.as_deref(),
            authority: asked.as_ref().and_then(|asked| asked.name()),
            peer: caller.as_deref(),
        };
        introduce(&mut app, mode, &told).await?;
    }
    Ok((App::new(app), Box::new(far)))
}

async fn client(
    service: &Service,
    socket: TcpStream,
    peer: SocketAddr,
    conn: &OpenConn,
    limit: Duration,
) -> Result<(App, Box<SecuredFar>), Outcome> {
    let Config::Client(config) = service.tls().map_err(own)? else {
        return Err(own("the role changed".into()));
    };
    let app = App::new(socket);
    let tcp = dial(service, conn).await?;
    let name = server_name(service)?;
    let begun = Instant::now();
    let secured = secured::connect(tcp, config, name, limit).await.map_err(|e| failed(&e))?;
    service.counts.handshake.record(begun.elapsed());
    conn.facts(|f| f.tls = Some(Arc::clone(&secured.facts)));
    let found = PeerCert::of(&secured.chain).map(Arc::new);
    let local = local_of(&secured);
    let far = SecuredFar::new(secured).map_err(|e| lost(&e))?;
    if !service.config.access.is_empty() {
        let wanted = admit(service, found.as_ref(), peer, local, conn).await;
        if let Err(outcome) = wanted {
            far.refuse();
            return Err(outcome);
        }
    } else if let Some(found) = &found {
        conn.facts(|f| {
            f.dst.id.clone_from(&found.id);
            f.subject = found.shown_subject();
        });
    }
    Ok((app, Box::new(far)))
}

/// Tells the target who connects, before anything else.
pub(super) async fn introduce(
    app: &mut TcpStream,
    mode: ProxyMode,
    told: &Told<'_>,
) -> Result<(), Outcome> {
    let sent = match proxy_protocol::header(mode, told) {
        Ok(header) => app.write_all(&header).await,
        Err(error) => Err(error),
    };
    sent.map_err(|e| (CloseReason::ConnectFailure, Some(format!("PROXY header: {e}"))))
}

/// Asks the access rules about the TLS peer.
pub(super) async fn admit(
    service: &Service,
    peer: Option<&Arc<PeerCert>>,
    addr: SocketAddr,
    local: SocketAddr,
    conn: &OpenConn,
) -> Result<(), Outcome> {
    let none = || (CloseReason::NoPeerCertificate, Some("the peer showed no certificate".into()));
    let peer = peer.ok_or_else(none)?;
    let server = service.config.role == Role::Server;
    conn.facts(|f| {
        let party = if server { &mut f.src } else { &mut f.dst };
        party.id.clone_from(&peer.id);
        f.subject = peer.shown_subject();
    });
    match judged(service, peer, addr, local).await {
        Ok(rule) => {
            conn.facts(|f| f.policy = Some(rule));
            Ok(())
        }
        Err(why) => Err((CloseReason::PolicyDenied, Some(why))),
    }
}

/// The rule that admits the TLS peer, or why none does.
pub(super) async fn judged(
    service: &Service,
    peer: &Arc<PeerCert>,
    addr: SocketAddr,
    local: SocketAddr,
) -> Result<Arc<str>, String> {
    let own = service.keeper.current().own.as_ref().and_then(|own| own.id.clone());
    let foreign = match (&peer.id, &own) {
        (Some(peer), Some(own)) => peer.trust_domain() != own.trust_domain(),
        (peer, _) => peer.is_some(),
    };
    let flow = Flow {
        direction: Direction::Inbound,
        peer: PeerAddr(addr),
        peer_id: peer.id.clone(),
        foreign,
        dst: local,
    };
    service.config.access.admit(peer, &flow).await
}

/// Connects to the first target that takes it.
pub(super) async fn dial(service: &Service, conn: &OpenConn) -> Result<TcpStream, Outcome> {
    let mut last = String::from("there is no target");
    for target in &service.config.targets {
        match endpoint::connect(target).await {
            Ok(stream) => {
                conn.facts(|f| f.dst_addr = stream.peer_addr().ok());
                return Ok(stream);
            }
            Err(error) => last = format!("connect to {target}: {error}"),
        }
    }
    Err((CloseReason::ConnectFailure, Some(last)))
}

/// The name that the target's certificate must have.
pub(super) fn server_name(service: &Service) -> Result<ServerName<'static>, Outcome> {
    let named = match (&service.config.server_name, service.config.targets.first()) {
        (Some(name), _) => name.clone(),
        (None, Some(Address::Tcp { host, .. })) if !host.is_empty() => host.clone(),
        _ => "localhost".into(),
    };
    let shown = named.clone();
    ServerName::try_from(named).map_err(|_| own(format!("{shown:?} is no name of a server")))
}

pub(super) fn local_of(secured: &Secured) -> SocketAddr {
    let unknown = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
    secured.tcp.local_addr().unwrap_or(unknown)
}

fn own(why: String) -> Outcome {
    (CloseReason::NoIdentity, Some(why))
}

fn failed(error: &TlsError) -> Outcome {
    (error.close_reason(), Some(error.to_string()))
}

fn lost(error: &io::Error) -> Outcome {
    (CloseReason::TlsFailure, Some(error.to_string()))
}

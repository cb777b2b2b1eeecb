//! One connection, from accept to close.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use pki_types::{CertificateDer, ServerName};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit, time::Instant};

use super::{
    ProxyMode, Role, Service,
    admission::admit,
    outcome::{Outcome, counted, ended, failed, finish, in_time, lost, own, within_lifetime},
    proxy_protocol::{self, Told},
    reach::{self, dial, local_of, not_begun},
    service::Unproven,
    targets::Target,
    tls::{Config, noting_sni},
};
use crate::{
    credentials::store::Credentials,
    identity::PeerCert,
    lifecycle::until_delivered,
    net::{CloseReason, endpoint},
    observe::conn::OpenConn,
    proxy::revalidate::peers::{AuthenticatedPeer, Entered},
    relay::{self, App, Remote, SecuredRemote},
    sys::descriptors::of_traffic,
    tls::{TlsError, secured},
};

/// Carries one connection and leaves its record.
///
/// # Cancel safety
/// Dropping the future resets both sides; the record says `dropped`.
pub(super) async fn serve(service: Arc<Service>, socket: TcpStream, peer: SocketAddr) {
    let deadline = Instant::now() + service.config.connect;
    let unproven = match service.unproven(peer) {
        Ok(place) => place,
        Err(outcome) => {
            service.counts.failed.fetch_add(1, Relaxed);
            return finish(&service, service.record(peer), outcome);
        }
    };
    let told = match service.config.proxy_in {
        false => Ok(Caller { peer, called: None }),
        true => tokio::select! {
            told = Box::pin(told(&socket, peer, deadline)) => told,
            outcome = unproven.given_up() => Err(outcome),
        },
    };
    if let (Ok(_), Some(challenge)) = (&told, service.store.challenge()) {
        let asked = tokio::select! {
            asked = challenge.is_asked(&socket) => asked,
            // Who is given up hears it below.
            _ = unproven.given_up() => false,
        };
        if asked {
            return challenge.answer(socket).await;
        }
    }
    let _counted = service.counted();
    let conn = service.record(told.as_ref().map_or(peer, |told| told.peer));
    // What only the beginning needs is gone when the bytes flow.
    let begun = match told {
        Ok(caller) => Box::pin(begin(&service, socket, caller, &conn, (unproven, deadline))).await,
        Err(outcome) => Err(outcome),
    };
    let outcome = match begun {
        Ok(Begun { app, far, slot: _slot, entered: _entered }) => {
            carry(&service, app, far, &conn).await
        }
        Err(outcome) => outcome,
    };
    finish(&service, conn, outcome);
}

/// A connection whose bytes may flow.
struct Begun<F: ?Sized> {
    app: App,
    far: Box<F>,
    slot: Option<OwnedSemaphorePermit>,
    /// The peer's entry among those that are checked against what is trusted now.
    entered: Option<Entered>,
}

/// Who connected, and where to if a balancer said so.
#[derive(Clone, Copy)]
struct Caller {
    peer: SocketAddr,
    called: Option<SocketAddr>,
}

/// Who connected, as the PROXY header says.
async fn told(socket: &TcpStream, peer: SocketAddr, deadline: Instant) -> Result<Caller, Outcome> {
    let wrong = |why: String| (CloseReason::BadProxyHeader, Some(format!("PROXY header: {why}")));
    let silent = io::ErrorKind::ConnectionAborted;
    match tokio::time::timeout_at(deadline, proxy_protocol::read(socket)).await {
        Ok(Ok(Some((peer, called)))) => Ok(Caller { peer, called: Some(called) }),
        Ok(Ok(None)) => Ok(Caller { peer, called: None }),
        Ok(Err(error)) if error.kind() == silent => Err((CloseReason::Silent, None)),
        Ok(Err(error)) => Err(wrong(error.to_string())),
        Err(_) => Err(wrong("it did not arrive in time".into())),
    }
}

async fn carry(
    service: &Service,
    mut app: App,
    mut far: Box<dyn Remote>,
    conn: &OpenConn,
) -> Outcome {
    let limits = &service.config.limits;
    let live = conn.live();
    let carried = async {
        tokio::select! {
            biased;
            reason = live.until_cut() => (reason, None),
            end = relay::run(&mut app, &mut *far, &live.meter, limits) => {
                // No close_notify: passed on as a reset, but what the peer said goes first.
                if end.is_truncation() {
                    Box::pin(until_delivered(app.socket(), limits.half_closed)).await;
                }
                ended(end)
            }
        }
    };
    within_lifetime(service, carried).await
}

/// Handshake, who is there, may they, and the other end: all within the connect timeout, but for
/// the time in which a server's caller waits for a place.
async fn begin(
    service: &Service,
    socket: TcpStream,
    caller: Caller,
    conn: &OpenConn,
    (unproven, deadline): (Unproven, Instant),
) -> Result<Begun<dyn Remote>, Outcome> {
    let begun = match service.config.role {
        Role::Server => server(service, socket, caller, conn, (unproven, deadline)).await,
        Role::Client => Box::pin(client(service, socket, caller.peer, conn, deadline)).await,
    };
    match &begun {
        Ok(_) => service.counts.succeeded.fetch_add(1, Relaxed),
        Err((CloseReason::Silent, _)) => 0,
        Err((reason, _)) if reason.is_timeout() => {
            // A target's is counted where it is given up.
            let late =
                *reason == CloseReason::ConnectTimeout && service.config.role == Role::Server;
            if late && conn.metadata(|f| f.tls.is_none()) {
                service.handshake_failed(CloseReason::TlsTimeout);
            }
            service.counts.timed_out.fetch_add(1, Relaxed)
        }
        Err(_) => service.counts.failed.fetch_add(1, Relaxed),
    };
    let Begun { app, far, slot, entered } = begun?;
    conn.count_opened();
    let (far, path) = far.carried(service.config.kernel_tls).map_err(|e| lost(&e))?;
    conn.metadata(|f| f.tls.iter_mut().for_each(|tls| Arc::make_mut(tls).path = Some(path)));
    Ok(Begun { app, far, slot, entered })
}

async fn server(
    service: &Service,
    socket: TcpStream,
    caller: Caller,
    conn: &OpenConn,
    (unproven, deadline): (Unproven, Instant),
) -> Result<Begun<SecuredRemote>, Outcome> {
    let admitted = Box::pin(admitted(service, socket, caller, conn, deadline));
    let admitted = tokio::select! {
        admitted = admitted => admitted?,
        outcome = unproven.given_up() => return Err(outcome),
    };
    let (far, entered, header) = match admitted {
        Handshake::Admitted { far, entered, header } => (far, entered, header),
        // Beyond the deadline if need be: why it was refused is what the record says.
        Handshake::Refused { far, outcome } => {
            far.refuse().await;
            return Err(outcome);
        }
    };
    let proven = Instant::now();
    let cut = async { (conn.live().until_cut().await, None) };
    let slot = unproven.slot(service, cut).await?;
    // What the handshake has left, however long the wait was.
    let deadline = deadline + proven.elapsed();
    let app = tokio::select! {
        biased;
        reason = conn.live().until_cut() => return Err((reason, None)),
        app = in_time(service, deadline, dial(service, conn, deadline, &header)) => app?,
    };
    Ok(Begun { app: App::new(app), far, slot, entered })
}

/// The handshake of a server's caller that is allowed, and the header for its target. All of it
/// within the deadline, but for the moment in which a caller is told why it was refused: that is
/// what the record says then.
async fn admitted(
    service: &Service,
    mut socket: TcpStream,
    Caller { peer, called }: Caller,
    conn: &OpenConn,
    deadline: Instant,
) -> Result<Handshake, Outcome> {
    let credentials = service.store.current();
    let Config::Server(config) = service.tls().map_err(own)? else {
        return Err(own("the mode of the service changed".into()));
    };
    let (config, sni) = match service.config.proxy_out {
        Some(ProxyMode::Tls | ProxyMode::TlsFull) => {
            let (config, sni) = noting_sni(&config);
            (config, Some(sni))
        }
        _ => (config, None),
    };
    if let Some(protocol) = service.config.tls.starttls {
        let asked = protocol.answer(&mut socket);
        let asked = async { asked.await.map_err(|e| counted(service, not_begun(&e))) };
        in_time(service, deadline, asked).await?;
    }
    let begun = Instant::now();
    let secured = secured::accept(socket, config, deadline.duration_since(begun)).await;
    let secured = secured.map_err(|e| match e {
        TlsError::Timeout(_) => TlsError::Timeout(service.config.connect),
        refused => refused,
    });
    let mut secured = secured.map_err(|e| counted(service, failed(&e)))?;
    service.counts.handshake.record(begun.elapsed());
    conn.metadata(|f| f.tls = Some(Arc::clone(&secured.facts)));
    let caller = PeerCert::of(&secured.chain).map(Arc::new);
    let local = local_of(&secured);
    let (facts, alpn) = (Arc::clone(&secured.facts), secured.alpn.clone());
    let chain = std::mem::take(&mut secured.chain);
    let mut far = SecuredRemote::new(secured).map_err(|e| lost(&e))?;
    far.take_truncation(service.config.tls.truncation);
    let entered = match hold_to_trust(service, caller.as_ref(), (chain, None), conn, &credentials) {
        Ok(entered) => entered,
        Err(outcome) => {
            return Ok(Handshake::Refused { far, outcome: counted(service, outcome) });
        }
    };
    let admitted = async {
        match service.config.tls.authenticate {
            true => admit(service, caller.as_ref(), peer, local, conn).await,
            // Nobody is asked who they are: only an edit may bar them meanwhile.
            false => service.not_barred_by_successor(conn.live()).await,
        }
    };
    if let Err(outcome) = in_time(service, deadline, admitted).await {
        return Ok(Handshake::Refused { far, outcome });
    }
    let mut header = Vec::new();
    if let Some(mode) = service.config.proxy_out {
        let told = Told {
            from: peer,
            to: called.unwrap_or(local),
            tls: Some(&*facts),
            alpn: alpn.as_deref(),
            authority: sni.as_ref().and_then(|sni| sni.name()),
            peer: caller.as_deref(),
        };
        let failed = |e| (CloseReason::ConnectFailure, Some(format!("PROXY header: {e}")));
        header = proxy_protocol::header(mode, &told).map_err(failed)?;
    }
    Ok(Handshake::Admitted { far: Box::new(far), entered, header })
}

/// What came of a handshake.
enum Handshake {
    Admitted {
        far: Box<SecuredRemote>,
        entered: Option<Entered>,
        /// What is said to a server's target first.
        header: Vec<u8>,
    },
    /// The peer is to be told.
    Refused { far: SecuredRemote, outcome: Outcome },
}

/// Registers a peer's certificate, so that the connection ends once it is no longer trusted.
fn hold_to_trust(
    service: &Service,
    cert: Option<&Arc<PeerCert>>,
    (chain, name): (Vec<CertificateDer<'static>>, Option<ServerName<'static>>),
    conn: &OpenConn,
    credentials: &Arc<Credentials>,
) -> Result<Option<Entered>, Outcome> {
    let Some(cert) = cert.map(Arc::clone) else {
        let unread = || {
            let why = "the peer's certificate was verified, but cannot be read";
            (CloseReason::UntrustedSvid, Some(why.to_owned()))
        };
        return if chain.is_empty() { Ok(None) } else { Err(unread()) };
    };
    let peer = AuthenticatedPeer { chain, name, by_tunnel: false, cert };
    let now = (&*service.store, service.peers_are());
    service.trusted_peers.enter(peer, conn.live(), credentials, now).map(Some)
}

async fn client(
    service: &Service,
    mut socket: TcpStream,
    peer: SocketAddr,
    conn: &OpenConn,
    deadline: Instant,
) -> Result<Begun<SecuredRemote>, Outcome> {
    // Nothing of the application is read before a target has proven itself, so another may be
    // tried whatever went wrong with one.
    let mut tries = service.targets.tries(deadline);
    while let Some((target, share)) = tries.next() {
        let until = Instant::now() + share;
        match tokio::time::timeout_at(until, towards(service, target, peer, conn)).await {
            Ok(Ok(Handshake::Admitted { far, entered, .. })) => {
                tries.worked(target);
                if let Some(protocol) = service.config.tls.starttls {
                    plain_side(service, deadline, protocol.decline(&mut socket)).await?;
                }
                return Ok(Begun { app: App::new(socket), far, slot: None, entered });
            }
            Ok(Ok(Handshake::Refused { far, outcome: (reason, why) })) => {
                tries.failed(target, reason, why.unwrap_or_default());
                // Beyond the deadline if need be, where no other is to be tried.
                match tries.is_over() {
                    true => far.refuse().await,
                    false => drop(tokio::time::timeout_at(until, far.refuse()).await),
                }
            }
            Ok(Err((reason, why))) => tries.failed(target, reason, why.unwrap_or_default()),
            Err(_) => tries.late(target, share, service.config.connect),
        }
    }
    Err(tries.outcome())
}

/// What the application and we say to each other before its bytes are carried.
async fn plain_side(
    service: &Service,
    deadline: Instant,
    said: impl Future<Output = io::Result<()>>,
) -> Result<(), Outcome> {
    match tokio::time::timeout_at(deadline, said).await {
        Ok(said) => said.map_err(|e| (CloseReason::AppReset, Some(format!("plain side: {e}")))),
        Err(_) => {
            let within = service.config.connect;
            let why = format!("the application sent nothing within {within:?}");
            Err((CloseReason::ConnectTimeout, Some(why)))
        }
    }
}

/// TLS to one target, which must be an accepted one.
async fn towards(
    service: &Service,
    target: &Target,
    peer: SocketAddr,
    conn: &OpenConn,
) -> Result<Handshake, Outcome> {
    let credentials = service.store.current();
    let mut begun = Instant::now();
    let dialled = |tcp: &TcpStream| {
        begun = Instant::now();
        conn.metadata(|f| f.dst_addr = endpoint::remote(tcp));
        of_traffic(tcp).map(drop)
    };
    let secured = reach::tls(service, target, dialled).await;
    let mut secured = secured.map_err(|outcome| counted(service, outcome))?;
    service.counts.handshake.record(begun.elapsed());
    conn.metadata(|f| f.tls = Some(Arc::clone(&secured.facts)));
    let found = PeerCert::of(&secured.chain).map(Arc::new);
    let local = local_of(&secured);
    let shown = (std::mem::take(&mut secured.chain), Some(reach::server_name(service, target)?));
    let mut far = SecuredRemote::new(secured).map_err(|e| lost(&e))?;
    far.take_truncation(service.config.tls.truncation);
    let entered = match hold_to_trust(service, found.as_ref(), shown, conn, &credentials) {
        Ok(entered) => entered,
        Err(outcome) => {
            return Ok(Handshake::Refused { far, outcome: counted(service, outcome) });
        }
    };
    if !service.config.access.is_empty() {
        let wanted = admit(service, found.as_ref(), peer, local, conn).await;
        if let Err(outcome) = wanted {
            return Ok(Handshake::Refused { far, outcome });
        }
    } else if let Some(found) = &found {
        conn.metadata(|f| {
            f.dst.id.clone_from(&found.id);
            f.subject = found.shown_subject();
        });
        if let Err(outcome) = service.not_barred_by_successor(conn.live()).await {
            return Ok(Handshake::Refused { far, outcome });
        }
    }
    Ok(Handshake::Admitted { far: Box::new(far), entered, header: Vec::new() })
}

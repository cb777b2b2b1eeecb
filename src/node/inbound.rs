//! HBONE that arrives for a pod: proven, authorised, and only then dialled.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use http::StatusCode;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{
    Node, OWN_PORTS, Pod,
    outbound::{Outcome, connect_failed, ended, finish},
    recheck::decided,
    telemetry::{baggage, party},
};
use crate::{
    hbone::{
        AuthenticatedTunnel,
        connect::Authority,
        server::{self, Incoming},
        stream::TunnelStream,
    },
    lifecycle::{Tasks, source},
    mesh::{View, Workload},
    observe::conn::{CloseReason, Direction, Flow, OpenConn, PeerAddr},
    policy::admission::Asked,
    relay::{self, App},
    sys::sockets,
    tls::Session,
};

/// Serves one tunnel accepted on 15008: handshake first, then its streams.
pub(super) async fn serve(
    node: Arc<Node>,
    pod: Arc<Pod>,
    (tcp, peer): (TcpStream, SocketAddr),
    streams: Tasks,
    draining: CancellationToken,
) {
    let _counted = node.telemetry.metrics.listeners.socket(Direction::Inbound);
    let Ok(local) = tcp.local_addr() else { return };
    let peer = PeerAddr(sockets::canonical(peer));
    let local = sockets::canonical(local);
    let overloaded = |why| refused(&node, &pod, peer, local, CloseReason::Overloaded, why);
    let Some(unproven) = pod.handshakes.take(source(peer.0.ip())) else {
        return overloaded("too many handshakes with this pod are under way".to_owned());
    };
    let shaken = tokio::select! {
        shaken = handshake(&node, &pod, tcp) => shaken,
        () = unproven.given_up() => {
            return overloaded("the handshake was given up for a newer one".to_owned());
        }
    };
    drop(unproven);
    let (session, proven) = match shaken {
        Ok(done) => done,
        Err((reason, error)) => return refused(&node, &pod, peer, local, reason, error),
    };
    let Ok(_place) = Arc::clone(&pod.tunnel_places).try_acquire_owned() else {
        return overloaded(format!(
            "{} tunnels to this pod are open already",
            node.tunnel.max_tunnels
        ));
    };
    let caller = match pod.callers.enter(&proven.peer.id, peer.0.ip(), Instant::now()) {
        Ok(caller) => caller,
        Err(why) => {
            server::turn_away(session, &node.tunnel);
            return overloaded(why.to_string());
        }
    };
    let own = Arc::clone(&proven);
    let tunnel = Tunnel { node: Arc::clone(&node), pod: Arc::clone(&pod), peer, local, proven };
    let tunnel = Arc::new(tunnel);
    let handle = |incoming| stream(Arc::clone(&tunnel), incoming);
    let config = &node.tunnel;
    let with = server::Service { peer: peer.0, config, caller: &caller, tasks: &streams, draining };
    let serve = server::serve(session, with, handle);
    let served = tokio::select! {
        served = serve => served,
        () = own.ended() => return,
    };
    match served {
        Ok(()) => {}
        Err(broken) if broken.streams == 0 => {
            refused(&node, &pod, peer, local, CloseReason::TunnelFailure, broken.why);
        }
        Err(broken) => tracing::debug!(target: "tunnel", error = broken.why, "tunnel ended"),
    }
}

/// A tunnel whose two ends are proven.
struct Tunnel {
    node: Arc<Node>,
    pod: Arc<Pod>,
    peer: PeerAddr,
    local: SocketAddr,
    proven: Arc<AuthenticatedTunnel>,
}

async fn handshake(
    node: &Node,
    pod: &Pod,
    tcp: TcpStream,
) -> Result<(Session, Arc<AuthenticatedTunnel>), (CloseReason, String)> {
    let mesh = node.mesh.load_full();
    let workload = mesh
        .workload(&pod.uid)
        .ok_or((CloseReason::Internal, "the workload has left the mesh".to_owned()))?;
    let svid = node.own_svid(workload).await?;
    let bundles = node.svids.bundles();
    let accepted = pod.acceptor.accept(tcp, &svid, &bundles, node.tunnel.tls).await;
    let session = accepted.map_err(|e| (e.close_reason(), e.to_string()))?;
    let (own, peer) = (svid.id.clone(), session.peer.clone());
    let proven = node.tunnels.admit(Direction::Inbound, own, peer, &bundles);
    Ok((session, proven.map_err(|no| (no.reason, no.why.to_string()))?))
}

/// A tunnel that never came to be is a record too.
fn refused(
    node: &Node,
    pod: &Pod,
    peer: PeerAddr,
    local: SocketAddr,
    reason: CloseReason,
    error: String,
) {
    // Who ended before it said anything only looked whether somebody is here.
    let silent = reason == CloseReason::Silent;
    if !silent {
        let failures = &node.telemetry.metrics.tunnels.handshake_failures;
        failures.with_label_values(&[Direction::Inbound.reporter(), reason.as_str()]).inc();
    }
    let conn = OpenConn::open(&node.telemetry, Direction::Inbound, peer);
    let mesh = node.mesh.load();
    conn.metadata(|f| {
        f.dst_addr = Some(local);
        f.dst = mesh.workload(&pod.uid).map(|w| party(w)).unwrap_or_default();
        f.local_uid = Some(pod.uid.clone());
        f.protocol = Some("HBONE");
    });
    match silent {
        true => conn.close(reason),
        false => conn.fail(reason, error),
    }
}

/// One CONNECT stream, from request to close.
async fn stream(tunnel: Arc<Tunnel>, incoming: Box<Incoming>) {
    let conn = OpenConn::open(&tunnel.node.telemetry, Direction::Inbound, tunnel.peer);
    let outcome = tokio::select! {
        outcome = carry(&tunnel, incoming, &conn) => outcome,
        reason = conn.live().until_cut() => (reason, None),
    };
    finish(conn, outcome);
}

async fn carry(tunnel: &Tunnel, incoming: Box<Incoming>, conn: &OpenConn) -> Outcome {
    // In a box of its own, so that a connection that flows does not hold what opening it took.
    match Box::pin(admit(tunnel, *incoming, conn)).await {
        Ok((mut app, mut stream)) => {
            let (meter, limits) = (&conn.live().meter, &tunnel.node.limits);
            ended(relay::run(&mut app, &mut *stream, meter, limits).await)
        }
        Err(outcome) => outcome,
    }
}

/// Checks a request, dials the application it is for, and answers it.
async fn admit(
    tunnel: &Tunnel,
    incoming: Incoming,
    conn: &OpenConn,
) -> Result<(App, Box<TunnelStream>), Outcome> {
    let Tunnel { node, pod, peer, local, proven } = tunnel;
    let mesh = node.mesh.load_full();
    let caller = &proven.peer;
    let source = mesh.workload_by_ip(peer.0.ip()).filter(|w| *w.id() == caller.id);
    conn.metadata(|f| {
        f.dst_addr = Some(*local);
        f.hbone_addr = Some(incoming.authority_text().into());
        f.protocol = Some("HBONE");
        f.src = source.map(|w| party(w)).unwrap_or_default();
        f.src.id = Some(caller.id.clone());
        f.tls = Some(caller.tls.clone());
        f.local_uid = Some(pod.uid.clone());
    });
    if let Some(why) = incoming.is_too_much() {
        incoming.turn_away();
        return Err((CloseReason::Overloaded, Some(why.to_owned())));
    }
    // After the metadata, by which a re-check finds this stream: one of the two sees the other.
    if let Some(no) = proven.termination() {
        return Err(match no.reason {
            CloseReason::SvidExpired => expired(incoming, &no.why),
            reason => refuse(incoming, StatusCode::UNAUTHORIZED, reason, &no.why),
        });
    }
    let Some(workload) = mesh.workload(&pod.uid) else {
        return Err(refuse(
            incoming,
            StatusCode::SERVICE_UNAVAILABLE,
            CloseReason::Internal,
            "left the mesh",
        ));
    };
    conn.metadata(|f| {
        f.dst = party(workload);
        f.dst.id = Some(workload.id().clone());
    });
    let dst = match destination(&mesh, workload, &incoming, *local) {
        Ok(dst) => dst,
        Err((status, reason, why)) => return Err(refuse(incoming, status, reason, why)),
    };
    if caller.has_ended() {
        return Err(expired(incoming, "the caller's SVID expired while its tunnel was open"));
    }
    name_service(conn, &mesh, workload, &incoming);
    let foreign = caller.id.trust_domain() != workload.id().trust_domain();
    let (direction, peer_id) = (Direction::Inbound, Some(caller.id.clone()));
    let flow = Flow { direction, peer: *peer, peer_id, foreign, dst };
    if let Err((reason, why)) = authorize(node, &pod.uid, flow, conn) {
        return Err(refuse(incoming, StatusCode::UNAUTHORIZED, reason, &why));
    }
    let (app, incoming) = dial(node, pod, *peer, dst, incoming).await?;
    let gone = || (CloseReason::PeerReset, Some("the caller gave up".into()));
    let stream = incoming.accept(&baggage(workload)).ok_or_else(gone)?.recorded(conn.live());
    conn.count_opened();
    Ok((pod.dialled_app(app), Box::new(stream)))
}

/// Asks the policies that protect `uid` now, and leaves the verdict in the record.
///
/// The flow is in the record before the view is loaded: an edit that comes in between is
/// either in that view or its re-check finds the flow (see [`super::recheck()`]).
pub(super) fn authorize(
    node: &Node,
    uid: &str,
    flow: Flow,
    conn: &OpenConn,
) -> Result<(), (CloseReason, String)> {
    conn.metadata(|f| f.flow_dst = Some(flow.dst));
    let mesh = node.mesh.load_full();
    let decision = decided(&mesh, uid, &flow, Asked::AtOpening);
    conn.metadata(|f| decision.record(f, Asked::AtOpening));
    decision.allowed()
}

fn refuse(incoming: Incoming, status: StatusCode, reason: CloseReason, why: &str) -> Outcome {
    incoming.refuse(status);
    (reason, Some(why.to_owned()))
}

/// The tunnel says GOAWAY ahead of this; a caller that has a new SVID may come back with it.
fn expired(incoming: Incoming, why: &str) -> Outcome {
    incoming.turn_away();
    (CloseReason::SvidExpired, Some(why.to_owned()))
}

/// The application that is meant: on this very pod, and never a port of ours.
fn destination(
    mesh: &View,
    workload: &Workload,
    incoming: &Incoming,
    local: SocketAddr,
) -> Result<SocketAddr, (StatusCode, CloseReason, &'static str)> {
    let bad = StatusCode::BAD_REQUEST;
    if !incoming.is_connect() {
        return Err((bad, CloseReason::BadConnect, "the method is not CONNECT"));
    }
    let unparsable = (bad, CloseReason::BadConnect, ":authority is not IP:port or hostname:port");
    let port = match incoming.authority().ok_or(unparsable)? {
        Authority::Addr(addr)
            if addr.ip().to_canonical() == local.ip()
                && workload.addresses.contains(&local.ip()) =>
        {
            addr.port()
        }
        Authority::Addr(_) => {
            let why = ":authority is not the address of the pod that was called";
            return Err((bad, CloseReason::AuthorityMismatch, why));
        }
        Authority::Host(host, port) => service_port(mesh, workload, &host, port).ok_or((
            StatusCode::SERVICE_UNAVAILABLE,
            CloseReason::AuthorityMismatch,
            ":authority names no service and port that this pod backs",
        ))?,
    };
    if OWN_PORTS.contains(&port) {
        let why = "the port in :authority is one of adit's own";
        return Err((StatusCode::SERVICE_UNAVAILABLE, CloseReason::DirectCall, why));
    }
    Ok(SocketAddr::new(local.ip(), port))
}

pub(super) fn service_port(mesh: &View, workload: &Workload, host: &str, port: u16) -> Option<u16> {
    let mut named = mesh.services_named(host).iter();
    named.find(|s| s.workloads.contains(&workload.uid))?.target_port(port)
}

/// Believes the caller's word on which service it meant if this pod really backs it.
fn name_service(conn: &OpenConn, mesh: &View, workload: &Workload, incoming: &Incoming) {
    let said = incoming.forwarded_host();
    let named = said.map_or(&[][..], |host| mesh.services_named(host));
    if let Some(service) = named.iter().find(|s| s.workloads.contains(&workload.uid)) {
        conn.metadata(|f| {
            f.service = Some(service.hostname.clone());
            f.service_namespace = Some(service.namespace.clone());
        });
    }
}

/// Dials the application from the caller's address, unless the caller gives up first.
async fn dial(
    node: &Node,
    pod: &Pod,
    peer: PeerAddr,
    dst: SocketAddr,
    mut incoming: Incoming,
) -> Result<(TcpStream, Incoming), Outcome> {
    let dialled = tokio::select! {
        dialled = pod.dial_app(node, peer, dst) => dialled,
        () = incoming.abandoned() => {
            return Err((CloseReason::PeerReset, Some("the caller gave up".into())));
        }
    };
    match dialled {
        Ok(app) => Ok((app, incoming)),
        Err(e) => {
            incoming.refuse(StatusCode::SERVICE_UNAVAILABLE);
            Err(connect_failed(dst, &e))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_stream_is_small() {
        fn serving<A, B, F>(_: fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let size = serving(stream);
        assert!(size <= 480, "the task of a stream takes {size} bytes");
    }
}

//! One captured connection of a pod's application, from accept to close.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::net::TcpStream;

use super::{
    Node, OUTBOUND_PORT, Pod,
    route::{self, Route},
    telemetry::{baggage, party},
};
use crate::{
    mesh::Workload,
    observe::conn::{CloseReason, Direction, OpenConn, OriginalDst, PeerAddr},
    relay::{self, App, tcp::TcpFar},
    sys::sockets,
    tunnel::{
        Own, Pool,
        connect::{Authority, ConnectRequest},
    },
};

/// Serves one connection accepted on 15001.
pub(super) async fn serve(
    node: Arc<Node>,
    pod: Arc<Pod>,
    pool: Arc<Pool>,
    app: TcpStream,
    peer: SocketAddr,
) {
    let _counted = node.telemetry.metrics.socket(Direction::Outbound);
    let peer = PeerAddr(sockets::canonical(peer));
    let conn = OpenConn::open(&node.telemetry, Direction::Outbound, peer);
    let live = Arc::clone(conn.live());
    let outcome = tokio::select! {
        outcome = carry(&node, &pod, &pool, app, peer, &conn) => outcome,
        reason = live.until_cut() => (reason, None),
    };
    finish(conn, outcome);
}

/// How it ended, and what went wrong if something did.
pub(super) type Outcome = (CloseReason, Option<String>);

pub(super) fn finish(conn: OpenConn, (reason, error): Outcome) {
    match error {
        Some(error) => conn.fail(reason, error),
        None => conn.close(reason),
    }
}

async fn carry(
    node: &Node,
    pod: &Pod,
    pool: &Pool,
    app: TcpStream,
    peer: PeerAddr,
    conn: &OpenConn,
) -> Outcome {
    let dst = match sockets::original_dst(&app) {
        Ok(dst) => OriginalDst(dst),
        Err(e) => return (CloseReason::Internal, Some(e.to_string())),
    };
    // Not redirected, then it is the listener that was meant.
    let local = || app.local_addr().map(sockets::canonical).ok();
    let captured = dst.0.port() != OUTBOUND_PORT || local() != Some(dst.0);
    conn.facts(|f| f.dst_addr = Some(dst.0));
    let mesh = node.mesh.load_full();
    let Some(from) = mesh.workload(&pod.uid) else {
        return (CloseReason::Internal, Some("the workload has left the mesh".into()));
    };
    conn.facts(|f| (f.src, f.local_uid) = (party(from), Some(from.uid.clone())));
    let route = match route::decide(&mesh, from, dst, captured, rand::random()) {
        Ok(route) => route,
        Err(why) => {
            abort(&app);
            return (why.close_reason(), Some(why.to_string()));
        }
    };
    describe(conn, &route);
    match route {
        Route::Hbone { hop, authority, service, .. } => {
            let request = ConnectRequest {
                authority: Authority::Addr(authority),
                client: peer.0,
                service: service.map(|s| s.hostname.clone()),
                baggage: baggage(from),
            };
            hbone(node, pool, from, app, conn, &hop, request).await
        }
        Route::Tcp { addr, .. } | Route::Passthrough(addr) => {
            plain(node, pod, app, conn, addr).await
        }
    }
}

async fn hbone(
    node: &Node,
    pool: &Pool,
    from: &Workload,
    app: TcpStream,
    conn: &OpenConn,
    hop: &crate::tunnel::Hop,
    request: ConnectRequest,
) -> Outcome {
    let svid = match node.own_svid(from).await {
        Ok(svid) => svid,
        Err(error) => {
            abort(&app);
            return (CloseReason::NoIdentity, Some(error));
        }
    };
    let own = Own { svid, bundles: node.svids.bundles() };
    let first = sockets::read_now(&app);
    let (stream, peer) = match pool.open(&own, hop, &request, &first).await {
        Ok(opened) => opened,
        Err(e) => {
            abort(&app);
            return (e.close_reason(), Some(e.to_string()));
        }
    };
    conn.facts(|f| {
        f.src.id = Some(own.svid.id.clone());
        f.dst.id = Some(peer.id);
        f.tls = Some(peer.tls);
    });
    conn.count_opened();
    conn.live().meter.up.fetch_add(first.len() as u64, Relaxed);
    ended(node, conn, app, stream).await
}

async fn plain(
    node: &Node,
    pod: &Pod,
    app: TcpStream,
    conn: &OpenConn,
    addr: SocketAddr,
) -> Outcome {
    let dialled = match sockets::outbound_socket(&pod.netns, addr) {
        Ok(socket) => sockets::connect(socket, addr, node.tunnel.connect).await,
        Err(e) => Err(e),
    };
    let upstream = match dialled {
        Ok(upstream) => upstream,
        Err(e) => {
            abort(&app);
            return connect_failed(addr, &e);
        }
    };
    conn.count_opened();
    ended(node, conn, app, TcpFar::new(upstream)).await
}

/// The outcome for an application or upstream that could not be dialled.
pub(super) fn connect_failed(addr: SocketAddr, error: &std::io::Error) -> Outcome {
    let reason = match error.kind() {
        std::io::ErrorKind::TimedOut => CloseReason::ConnectTimeout,
        _ => CloseReason::ConnectFailure,
    };
    (reason, Some(format!("TCP connect to {addr}: {error}")))
}

/// Relays, and says how that ended.
pub(super) async fn ended(
    node: &Node,
    conn: &OpenConn,
    app: TcpStream,
    mut far: impl relay::Far,
) -> Outcome {
    match relay::run(App::new(app), &mut far, &conn.live().meter, node.idle).await {
        relay::End::Completed => (CloseReason::Completed, None),
        relay::End::AppReset(e) => (CloseReason::AppReset, Some(format!("application: {e}"))),
        relay::End::FarReset(e) => (CloseReason::PeerReset, Some(format!("peer: {e}"))),
        relay::End::Idle(limit) => {
            (CloseReason::IdleTimeout, Some(format!("nothing moved for {limit:?}")))
        }
    }
}

fn describe(conn: &OpenConn, route: &Route) {
    conn.facts(|f| {
        let (to, service) = match route {
            Route::Hbone { hop, authority, to, service } => {
                f.dst_addr = Some(hop.addr);
                f.hbone_addr = Some(authority.to_string());
                f.protocol = Some("HBONE");
                (to, service)
            }
            Route::Tcp { addr, to, service } => {
                f.dst_addr = Some(*addr);
                f.protocol = Some("TCP");
                (to, service)
            }
            Route::Passthrough(_) => {
                f.protocol = Some("TCP");
                return;
            }
        };
        f.dst = party(to);
        f.service = service.as_ref().map(|s| s.hostname.clone());
        f.service_namespace = service.as_ref().map(|s| s.namespace.clone());
    });
}

/// A refused application sees a reset, not an orderly end that looks like an answer.
pub(super) fn abort(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
}

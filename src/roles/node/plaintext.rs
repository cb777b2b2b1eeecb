//! Plaintext that arrives for a pod on 15006, beside tunnels if they may ([`original_port`]): refused
//! while mTLS is strict, else checked against policy as a caller without identity. It must be meant
//! for an address of the workload, or for one that the pod's namespace holds.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use super::{
    Node, Pod,
    arrival::{Inward, Lost, not_ours},
    inbound::authorize,
    original_port,
    record::{ended, peer_info},
};
use crate::{
    net::{CloseReason, Direction, Flow, Outcome, PeerAddr, connect_failed},
    observe::conn::OpenConn,
    relay::{self, tcp::TcpRemote},
    sys::sockets,
};

/// Serves one connection accepted on 15006.
pub(super) async fn serve(
    node: Arc<Node>,
    pod: Arc<Pod>,
    (mut client, peer): (TcpStream, SocketAddr),
    mut found: Result<Inward, Lost>,
) {
    let _counted = node.telemetry.metrics.listeners.socket(Direction::Inbound);
    if node.config.original_port.accepts() {
        // In a box of its own, which is gone before the connection flows.
        let taken = Box::pin(original_port::taken((&node, &pod), (client, peer), found));
        match taken.await {
            Some(other) => (client, found) = other,
            None => return,
        }
    }
    let mut client = TcpRemote::new(client);
    let peer = PeerAddr(sockets::canonical(peer));
    let conn = OpenConn::open(&node.telemetry, Direction::Inbound, peer);
    let live = Arc::clone(conn.live());
    let outcome = tokio::select! {
        outcome = carry(&node, &pod, &mut client, found, &conn) => outcome,
        reason = live.until_cut() => (reason, None),
    };
    conn.finish(outcome);
}

async fn carry(
    node: &Node,
    pod: &Pod,
    client: &mut TcpRemote,
    found: Result<Inward, Lost>,
    conn: &OpenConn,
) -> Outcome {
    // A client that is refused sees a reset, as `client` is dropped before its end.
    let Inward { dst, ticket } = match found {
        Ok(found) => found,
        Err(e) => return (CloseReason::Internal, Some(e.to_string())),
    };
    let peer = conn.live().peer;
    conn.metadata(|f| {
        (f.dst_addr, f.pod) = (Some(dst), Some(Arc::clone(&pod.name)));
        f.protocol = Some("TCP");
    });
    if let Err((reason, why)) = not_ours(dst, node.own_ports()) {
        return (reason, Some(why));
    }
    let workload = match pod.known(node).await {
        Ok(workload) => workload,
        Err(outcome) => return outcome,
    };
    let mesh = node.mesh.load_full();
    conn.metadata(|f| {
        f.dst = peer_info(&workload);
        f.src = mesh.workload_by_ip(peer.0.ip()).map(|w| peer_info(w)).unwrap_or_default();
    });
    // In a box of its own: few go to such an address, and all would be larger for it.
    let is_its_own = workload.addresses.contains(&dst.ip())
        || Box::pin(pod.owned.holds(&pod.netns, dst.ip())).await;
    if !is_its_own {
        let why = format!("{dst} is not an address of this workload or of its network namespace");
        return (CloseReason::DirectCall, Some(why));
    }
    pod.policies_known(node).await;
    let (direction, peer_id, foreign, other_principals) =
        (Direction::Inbound, None, false, Vec::new());
    let flow = Flow { direction, peer, peer_id, foreign, other_principals, dst };
    if let Err((reason, why)) = authorize(node, &pod.name, flow, conn) {
        return (reason, Some(why));
    }
    let app = match ticket.begin(pod.dial_app(node, peer, dst)).await {
        Ok(app) => app,
        Err(e) => return connect_failed(dst, &e),
    };
    conn.count_opened();
    ended(relay::run(&mut pod.dialled_app(app), client, &conn.live().meter, &node.limits).await)
}

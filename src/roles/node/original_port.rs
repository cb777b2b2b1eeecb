//! Tunnels that arrive at the port of the application which they are for, where the capture rules
//! redirect them with all plaintext to 15006. They are told from it by their first bytes, which stay
//! in the socket, and are served as those on 15008 are.
//!
//! Nobody but a caller who names our own protocol in its ClientHello is taken for a tunnel, so what
//! an application gets is what it got before; with one exception: who begins as TLS does and does not
//! go on is closed at the deadline of a handshake.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::{
    Node, Pod,
    arrival::{Inward, Lost, not_ours},
    inbound::PodDestination,
};
use crate::{
    hbone::order::Ticket,
    mesh::{Protocol, Workload},
    net::{CloseReason, Direction, Outcome, PeerAddr},
    proxy::ingress::{self, Destination as _, Ends},
    sys::sockets,
    tls::{
        TunnelPort,
        hello::{Beginning, ClientHelloPeek},
    },
};

/// How long a caller may say nothing before it is taken for one that waits to be spoken to …
const SILENCE: Duration = Duration::from_millis(100);
/// … and one that has HBONE, whose ClientHello may have been lost, or its node be busy.
const SILENCE_OF_MESH: Duration = Duration::from_secs(3);

/// Takes a connection that was accepted on 15006 if it is a tunnel, or nothing; gives back any other.
pub(super) async fn taken(
    (node, pod): (&Arc<Node>, &Arc<Pod>),
    (client, peer): (TcpStream, SocketAddr),
    mut found: Result<Inward, Lost>,
) -> Option<(TcpStream, Result<Inward, Lost>)> {
    let Some(inward) =
        found.as_mut().ok().filter(|inward| not_ours(inward.dst, node.own_ports()).is_ok())
    else {
        return Some((client, found));
    };
    let ends = Ends { peer: PeerAddr(sockets::canonical(peer)), local: inward.dst };
    let (node, pod) = (Arc::clone(node), Arc::clone(pod));
    let to = Arc::new(PodDestination { node, pod, port: TunnelPort::Original });
    let refused = match is_tunnel(&to, (&client, ends), &mut inward.ticket).await {
        Ok(false) => return Some((client, found)),
        Ok(true) => is_its_own(&to, ends.local).await.err(),
        Err(outcome) => Some(outcome),
    };
    match refused {
        Some(outcome) => ingress::hbone::refused(&*to, ends, outcome),
        None => to.serves(client, ends),
    }
    None
}

/// Waits until that is known. Who takes its time has the place of a handshake for it, and holds up
/// none of those behind it.
async fn is_tunnel(
    to: &PodDestination,
    (client, ends): (&TcpStream, Ends),
    ticket: &mut Ticket,
) -> Result<bool, Outcome> {
    // Who says nothing has a place too. Without one a caller is not waited for: it is as a stranger.
    let Ok(unproven) = to.unproven(ends.peer.0) else { return Ok(false) };
    let mut opening = ClientHelloPeek::of(client, TunnelPort::Original.alpn());
    let begun = tokio::select! {
        begun = opening.begun(silence(&to.node, ends.peer)) => begun,
        _ = PodDestination::given_up(&unproven) => return Ok(false),
    };
    let known = match begun.map_err(lost)? {
        Beginning::Unfinished => {
            *ticket = Ticket::alone();
            let within = to.config().tls;
            let finished = tokio::select! {
                finished = timeout(within, opening.finished()) => finished,
                outcome = PodDestination::given_up(&unproven) => return Err(outcome),
            };
            let late = |_| {
                let why = format!("the ClientHello was not complete after {within:?}");
                (CloseReason::TlsTimeout, Some(why))
            };
            finished.map_err(late)?.map_err(lost)?
        }
        known => known,
    };
    Ok(known == Beginning::Offered)
}

/// The address proves nothing, and decides only for how long this caller waits.
fn silence(node: &Node, peer: PeerAddr) -> Duration {
    let mesh = node.mesh.load();
    let has_hbone = |from: &Arc<Workload>| from.protocol() == Protocol::Hbone;
    match mesh.workload_by_ip(peer.0.ip()).is_some_and(has_hbone) {
        true => SILENCE_OF_MESH,
        false => SILENCE,
    }
}

fn lost(error: io::Error) -> Outcome {
    (CloseReason::PeerReset, Some(format!("the caller's connection: {error}")))
}

/// On 15008 the kernel has seen to it; here an address may be one that the pod only forwards to.
async fn is_its_own(
    PodDestination { node, pod, .. }: &PodDestination,
    dst: SocketAddr,
) -> Result<(), Outcome> {
    // The mesh has most of them, and the namespace need not be looked at.
    let is_known = |workload: &Arc<Workload>| workload.addresses.contains(&dst.ip());
    let is_of_mesh = pod.workload(&node.mesh.load()).is_ok_and(is_known);
    match is_of_mesh || pod.owned.holds(&pod.netns, dst.ip()).await {
        true => Ok(()),
        false => {
            let why = format!("{dst} is not an address of this pod's namespace");
            Err((CloseReason::DirectCall, Some(why)))
        }
    }
}

impl PodDestination {
    /// Serves a tunnel as one on 15008: a task of the pod's tunnels, each stream one of its `conns`.
    fn serves(self: Arc<Self>, client: TcpStream, ends: Ends) {
        let Pod { tunnels, conns, accepting, .. } = &*self.pod;
        let (tunnels, streams, draining) = (tunnels.clone(), conns.clone(), accepting.clone());
        tunnels.spawn(async move {
            let _counted = self.node.telemetry.metrics.listeners.socket(Direction::Inbound);
            ingress::hbone::serve(self, (client, ends), streams, draining).await;
        });
    }
}

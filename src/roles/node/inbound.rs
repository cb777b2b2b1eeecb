//! HBONE that arrives for a pod: where a request goes and whether its caller may go there. The
//! rest, from the handshake to the answer, is [`crate::proxy::ingress::hbone`].

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    sync::Arc,
};

use futures_util::FutureExt as _;
use http::StatusCode;
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};

use super::{
    Node, OriginalSource, Pod,
    app_tunnel::Told,
    destination::destination,
    record::{baggage, ended, peer_info},
};
use crate::{
    hbone::{Callers, TunnelConfig, TunnelRegistry, server::Incoming, stream::TunnelStream},
    identity::LocalIdentity,
    lifecycle::{Place, source},
    mesh::{MtlsMode, View, Workload},
    net::{CloseReason, Direction, Flow, Outcome, PeerAddr, PodName, connect_failed},
    observe::conn::OpenConn,
    policy::admission::{Asked, Decision, Protection, Request, decide},
    proxy::ingress::{self, Destination, Ends, Refusal},
    relay::{self, App},
    sys::sockets,
    tls::{Acceptor, Peer, TunnelPort},
};

/// A pod for which tunnels arrive.
pub(super) struct PodDestination {
    pub(super) node: Arc<Node>,
    pub(super) pod: Arc<Pod>,
    /// At which port.
    pub(super) port: TunnelPort,
}

type Tunnel = ingress::IngressTunnel<PodDestination>;

/// An application of the pod.
pub(super) struct Target {
    workload: Arc<Workload>,
    dst: SocketAddr,
    /// What the caller meant, where the application is told.
    told: Option<SocketAddr>,
}

impl Destination for PodDestination {
    type Unproven = Place<IpAddr>;
    type Place = OwnedSemaphorePermit;
    type Caller = ();
    type Target = Target;

    fn config(&self) -> &TunnelConfig {
        &self.node.tunnel
    }

    fn acceptor(&self) -> &Acceptor {
        match self.port {
            TunnelPort::Hbone => &self.pod.acceptor,
            TunnelPort::Original => &self.pod.original_port,
        }
    }

    fn tunnels(&self) -> &TunnelRegistry {
        &self.node.tunnels
    }

    fn callers(&self) -> &Callers {
        &self.pod.callers
    }

    fn unproven(&self, peer: SocketAddr) -> Result<Place<IpAddr>, Outcome> {
        let place = self.pod.handshakes.take(source(peer.ip()));
        place.ok_or_else(|| overloaded("too many handshakes with this pod are in progress"))
    }

    async fn given_up(unproven: &Place<IpAddr>) -> Outcome {
        unproven.given_up().await;
        overloaded("the handshake was dropped in favour of a newer one")
    }

    async fn place(&self, unproven: Place<IpAddr>) -> Result<OwnedSemaphorePermit, Outcome> {
        drop(unproven);
        Arc::clone(&self.pod.tunnel_places).try_acquire_owned().map_err(|_| {
            let most = self.node.tunnel.max_tunnels;
            overloaded(&format!("{most} tunnels to this pod are already open"))
        })
    }

    async fn identity(&self) -> Result<LocalIdentity, Outcome> {
        let workload = self.pod.known(&self.node).await?;
        self.node.local_identity(&self.pod, &workload).await
    }

    fn caller(&self, _: &Peer) {}

    fn handshake_failed(&self, reason: CloseReason) {
        self.node.handshake_failed(Direction::Inbound, reason);
    }

    fn record(&self, ends: Ends) -> OpenConn {
        let conn = OpenConn::open(&self.node.telemetry, Direction::Inbound, ends.peer);
        let mesh = self.node.mesh.load();
        conn.metadata(|f| {
            f.dst_addr = Some(ends.local);
            f.dst = self.pod.workload(&mesh).map(|w| peer_info(w)).unwrap_or_default();
            f.pod = Some(Arc::clone(&self.pod.name));
            f.protocol = Some("HBONE");
        });
        conn
    }

    fn finish(&self, conn: OpenConn, outcome: Outcome) {
        conn.finish(outcome);
    }

    fn describe(&self, tunnel: &Tunnel, conn: &OpenConn) {
        let caller = &tunnel.proven.peer.id;
        let mesh = self.node.mesh.load();
        let source = mesh.workload_by_ip(tunnel.ends.peer.0.ip());
        if source.is_none() {
            self.node.wonder(&mesh, tunnel.ends.peer.0.ip());
        }
        let own = tunnel.proven.own.trust_domain();
        let source = source.filter(|w| self.node.config.aliases.are_same(w.id(), caller, own));
        conn.metadata(|f| {
            f.src = source.map(|w| peer_info(w)).unwrap_or_default();
            f.src.id = Some(caller.clone());
        });
    }

    async fn target(
        &self,
        tunnel: &Tunnel,
        incoming: &Incoming,
        conn: &OpenConn,
    ) -> Result<Target, Refusal> {
        if self.node.on_demand.is_some()
            && let Some(authority) = incoming.authority()
        {
            // In a box of its own: most know their mesh, and all streams would be larger for it.
            Box::pin(self.node.hear_destination(&self.pod, &authority)).await;
        }
        let mesh = self.node.mesh.load_full();
        let left = Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: CloseReason::Internal,
            why: "left the mesh",
        };
        let workload = self.pod.workload(&mesh).map_err(|_| left)?;
        conn.metadata(|f| {
            f.dst = peer_info(workload);
            f.dst.id = Some(workload.id().clone());
        });
        let here = (tunnel.ends.local, self.node.own_ports());
        let found = destination(&mesh, workload, incoming, here)?;
        name_service(conn, &mesh, workload, incoming);
        let told = workload.template.app_tunnel.is_some_and(|tunnel| tunnel.proxy_protocol);
        let told = told.then_some(found.meant);
        Ok(Target { workload: Arc::clone(workload), dst: found.app, told })
    }

    async fn authorize(
        &self,
        tunnel: &Tunnel,
        &Target { ref workload, dst, .. }: &Target,
        conn: &OpenConn,
    ) -> Result<(), Outcome> {
        self.pod.policies_known(&self.node).await;
        let (caller, own) = (&tunnel.proven.peer.id, workload.id().trust_domain());
        let (direction, peer_id, other_principals) =
            (Direction::Inbound, Some(caller.clone()), Vec::new());
        let (peer, foreign) = (tunnel.ends.peer, caller.trust_domain() != own);
        let flow = Flow { direction, peer, peer_id, foreign, other_principals, dst };
        let flow = flow.with_aliases(&self.node.config.aliases, own);
        authorize(&self.node, &self.pod.name, flow, conn)
            .map_err(|(reason, why)| (reason, Some(why)))
    }

    /// Dials the application from the caller's address.
    async fn dial(&self, tunnel: &Tunnel, to: &Target, _: &OpenConn) -> Result<App, Outcome> {
        let (from, id) = (tunnel.ends.peer, &tunnel.proven.peer.id);
        let dialled = match to.told {
            // In a box of its own: few are told, and all streams would be larger for it.
            Some(meant) => {
                let told = Told { from, meant, id };
                Box::pin(self.pod.dial_told(&self.node, to.dst, &told)).await
            }
            None => self.pod.dial_app(&self.node, from, to.dst).await,
        };
        dialled.map(|app| self.pod.dialled_app(app)).map_err(|e| connect_failed(to.dst, &e))
    }

    fn baggage(&self, target: &Target) -> Option<String> {
        self.node.config.response_baggage.then(|| baggage(&target.workload))
    }

    /// No `async fn`: see [`ingress::hbone::serve_stream`].
    fn relay(
        &self,
        app: &mut App,
        stream: &mut TunnelStream,
        conn: &OpenConn,
    ) -> impl Future<Output = Outcome> + Send {
        relay::run(app, stream, &conn.live().meter, &self.node.limits).map(ended)
    }
}

impl Pod {
    /// Dials the pod's application as if the caller did: from the caller's address, which
    /// the capture rules lead back to us. Without the right to do so, from our own.
    pub(super) async fn dial_app(
        &self,
        node: &Node,
        peer: PeerAddr,
        dst: SocketAddr,
    ) -> io::Result<TcpStream> {
        let socket = sockets::local_socket(&self.netns, dst)?;
        if node.is_more_than_its_part(socket.as_fd(), self.callers.streams()) {
            return Err(nix::errno::Errno::EMFILE.into());
        }
        let kept = node.config.original_source;
        let same_family = peer.0.is_ipv4() == dst.is_ipv4();
        let other = same_family && peer.0.ip() != dst.ip() && !peer.0.ip().is_loopback();
        if self.keeps_source
            && other
            && kept != OriginalSource::Off
            && let Err(error) = sockets::spoof(&socket, peer.0.ip())
        {
            if kept == OriginalSource::Required {
                let why = format!("cannot keep the caller's address (ENABLE_ORIG_SRC): {error}");
                return Err(io::Error::new(error.kind(), why));
            }
            tracing::warn!(%error, "cannot keep the caller's address; connecting from adit's own");
            let plain = sockets::local_socket(&self.netns, dst)?;
            return sockets::connect(plain, dst, node.tunnel.connect).await;
        }
        sockets::connect(socket, dst, node.tunnel.connect).await
    }

    /// The application that was dialled, by the sockmap redirect where there is one, which knows the
    /// connection by this address.
    pub(super) fn dialled_app(&self, socket: TcpStream) -> App {
        self.app(socket, TcpStream::local_addr)
    }
}

fn overloaded(why: &str) -> Outcome {
    (CloseReason::Overloaded, Some(why.to_owned()))
}

/// Asks the policies that protect the pod now, and leaves the verdict in the record.
///
/// The flow is in the record before the view is loaded: an edit that comes in between is
/// either in that view or its re-check finds the flow (see [`super::recheck()`]).
pub(super) fn authorize(
    node: &Node,
    pod: &PodName,
    flow: Flow,
    conn: &OpenConn,
) -> Result<(), (CloseReason, String)> {
    conn.metadata(|f| f.flow_dst = Some(flow.dst));
    let mesh = node.mesh.load_full();
    let workload = mesh.of_pod(pod);
    let decision = decided(&mesh, workload.map(|w| &**w), &flow, Asked::AtOpening);
    conn.metadata(|f| decision.record(f, Asked::AtOpening));
    decision.allowed()
}

/// What the mesh says of a connection with a workload; with none, everything is denied.
pub(super) fn decided(
    mesh: &View,
    workload: Option<&Workload>,
    flow: &Flow,
    asked: Asked,
) -> Decision {
    let rules = mesh.rules(workload.map_or("", |workload| &workload.uid));
    let strict = mesh.mtls() == MtlsMode::Strict;
    decide(Protection { rules: Some(&rules), strict }, &Request::of(flow)).decision(asked)
}

/// Records the service that the caller says it meant, if this pod really backs it.
fn name_service(conn: &OpenConn, mesh: &View, workload: &Workload, incoming: &Incoming) {
    let said = incoming.forwarded_host();
    let named = said.map_or(&[][..], |host| mesh.services_named(host));
    if let Some(service) = named.iter().find(|s| s.is_backed_by(workload)) {
        conn.metadata(|f| {
            f.service = Some(service.hostname.clone());
            f.service_namespace = Some(service.namespace.clone());
        });
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
        let size = serving(ingress::hbone::serve_stream::<PodDestination>);
        assert!(size <= 480, "the task of a stream takes {size} bytes");
    }
}

//! A pod begins: its listeners, on each worker, and who serves what they accept.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{net::TcpStream, runtime::Handle, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    INBOUND_PLAINTEXT_PORT, Node, OUTBOUND_PORT, OWN_PORTS, Pod,
    arrival::{self, Inward, Lanes, Lost, Outward},
    inbound::PodDestination,
    listener::{self, Accepts, Entrance, Look, PodPort, Seat, WorkerListener},
    outbound, plaintext,
};
use crate::{
    hbone::{Callers, HBONE_PORT, Pool},
    lifecycle::{Places, Tasks},
    mesh::AppHop,
    net::{Direction, PeerAddr},
    proxy::{
        ingress::{self, Ends},
        listener::{AcceptBalancer, Arrival, accept_loop},
    },
    sys::{netns::Netns, sockets},
    tls::Acceptor,
};

impl Pod {
    /// Opens the listeners inside the pod's namespace and starts serving, on every worker.
    ///
    /// # Errors
    /// If the namespace cannot be entered or a port is taken; nothing runs then.
    pub fn start(
        node: &Arc<Node>,
        uid: &Arc<str>,
        app_hop: AppHop,
        netns: Netns,
    ) -> io::Result<Arc<Self>> {
        let netns = Arc::new(netns);
        let sockmap = node.sockmap.as_ref().filter(|_| app_hop == AppHop::Sockmap);
        let watched = sockmap.and_then(|sockmap| match sockmap.watch(&netns) {
            Ok(watched) => Some(Arc::new(watched)),
            Err(error) => {
                let pod = &**uid;
                tracing::warn!(
                    pod, %error,
                    "no sockmap redirect to this pod's applications; they are reached by TCP"
                );
                None
            }
        });
        // Who accepts: another worker for each pod.
        let one = Accepts::One(Arc::strong_count(&node.pods) % node.workers.len());
        let open = |port, accepts| listener::open(node, &netns, port, accepts);
        let (outbound, plaintext) = (open(OUTBOUND_PORT, one)?, open(INBOUND_PLAINTEXT_PORT, one)?);
        let hbone = open(HBONE_PORT, Accepts::Each)?;
        let pod = Arc::new(Self {
            uid: Arc::clone(uid),
            netns,
            acceptor: Acceptor::default(),
            tunnel_places: Arc::new(Semaphore::new(node.tunnel.max_tunnels)),
            callers: Callers::new(node.tunnel.caller),
            handshakes: Places::new(HANDSHAKES, HANDSHAKES_OF_ONE),
            watched,
            _counted: Arc::clone(&node.pods),
            accepting: CancellationToken::new(),
            conns: Tasks::default(),
            tunnels: Tasks::default(),
        });
        let balancers = AcceptBalancer::of_one(outbound.len());
        pod.serve_outbound(node, listeners(outbound, balancers, || pod.looks_outward(node)));
        let balancers = AcceptBalancer::of_one(plaintext.len());
        pod.serve_plaintext(node, listeners(plaintext, balancers, looks_inward));
        let balancers = AcceptBalancer::all(hbone.len());
        pod.serve_hbone(node, listeners(hbone, balancers, || Box::new(|_, _| ())));
        Ok(pod)
    }

    /// Whether the process before this one gave its sockets in this namespace.
    #[must_use]
    pub fn is_given(node: &Node, netns: (u64, u64)) -> bool {
        let given = |port| node.listeners.were_given(&listener::name_of(netns, port));
        OWN_PORTS.into_iter().all(given)
    }

    fn looks_outward(&self, node: &Arc<Node>) -> Look<Box<Outward>> {
        let (node, uid, mut lanes) = (Arc::clone(node), Arc::clone(&self.uid), Lanes::new());
        Box::new(move |app, _| Outward::new(&node, &uid, app, &mut lanes))
    }

    fn serve_outbound(
        self: &Arc<Self>,
        node: &Arc<Node>,
        listeners: impl Iterator<Item = (Handle, WorkerListener<Box<Outward>>)>,
    ) {
        for (worker, listener) in listeners {
            let (netns, config) = (Arc::clone(&self.netns), node.tunnel.clone());
            let pool = Pool::new(netns, config, self.tunnels.clone(), self.accepting.clone());
            let pool = pool.among(Arc::clone(&node.tunnels));
            let (n, pod) = (Arc::clone(node), Arc::clone(self));
            let by = Arc::new(outbound::Worker { node: n, pod, pool });
            let serve =
                move |socket, peer, found| outbound::serve(Arc::clone(&by), (socket, peer), found);
            self.listen_on((node, &worker), listener, "outbound", &self.conns, serve);
        }
    }

    fn serve_plaintext(
        self: &Arc<Self>,
        node: &Arc<Node>,
        listeners: impl Iterator<Item = (Handle, WorkerListener<Result<Inward, Lost>>)>,
    ) {
        for (worker, listener) in listeners {
            let (n, pod) = (Arc::clone(node), Arc::clone(self));
            let serve = move |socket, peer, found| {
                plaintext::serve(Arc::clone(&n), Arc::clone(&pod), (socket, peer), found)
            };
            self.listen_on((node, &worker), listener, "inbound_plaintext", &self.conns, serve);
        }
    }

    fn serve_hbone(
        self: &Arc<Self>,
        node: &Arc<Node>,
        listeners: impl Iterator<Item = (Handle, WorkerListener<()>)>,
    ) {
        for (worker, listener) in listeners {
            let to = PodDestination { node: Arc::clone(node), pod: Arc::clone(self) };
            let to = Arc::new(to);
            let (streams, draining) = (self.conns.clone(), self.accepting.clone());
            let serve = move |tcp: TcpStream, peer, ()| {
                let to = Arc::clone(&to);
                let (streams, draining) = (streams.clone(), draining.clone());
                async move {
                    let _counted = to.node.telemetry.metrics.listeners.socket(Direction::Inbound);
                    let Ok(local) = tcp.local_addr() else { return };
                    let peer = PeerAddr(sockets::canonical(peer));
                    let ends = Ends { peer, local: sockets::canonical(local) };
                    ingress::hbone::serve(to, (tcp, ends), streams, draining).await;
                }
            };
            self.listen_on((node, &worker), listener, "hbone", &self.tunnels, serve);
        }
    }

    fn listen_on<A, S, F>(
        &self,
        (node, worker): (&Arc<Node>, &Handle),
        (entrance, balancer): WorkerListener<A>,
        name: &'static str,
        tasks: &Tasks,
        serve: S,
    ) where
        A: Arrival,
        S: Fn(TcpStream, SocketAddr, A) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let port = PodPort { node: Arc::clone(node), name, entrance };
        let (tasks, stop) = (tasks.clone(), self.accepting.clone());
        self.tunnels.spawn_on(worker, async move {
            tokio::select! {
                () = stop.cancelled() => return,
                () = port.node.listeners.accepting() => {}
            }
            accept_loop(port, balancer, tasks, stop, serve).await;
        });
    }
}

/// The worker listeners of a port; `look` is for each that accepts.
fn listeners<A: Arrival>(
    seats: Vec<Seat>,
    balancers: Vec<AcceptBalancer<A>>,
    mut look: impl FnMut() -> Look<A>,
) -> impl Iterator<Item = (Handle, WorkerListener<A>)> {
    seats.into_iter().zip(balancers).map(move |((worker, listener), balancer)| {
        (worker, (listener.map(|listener| Entrance { listener, look: look() }), balancer))
    })
}

fn looks_inward() -> Look<Result<Inward, Lost>> {
    let mut lanes = Lanes::new();
    Box::new(move |client, peer| arrival::inward(client, peer, &mut lanes))
}

/// How many handshakes with a pod are under way at once …
const HANDSHAKES: usize = 4_096;
/// … and from one source: then its own oldest is given up.
const HANDSHAKES_OF_ONE: usize = 1_024;

//! A pod begins: its ports, on each worker, and who serves what they accept. On each port every
//! worker accepts, or where order matters one of them, and the others serve what it hands them
//! ([`crate::proxy::listener`]).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    INBOUND_PLAINTEXT_PORT, Node, OUTBOUND_PORT, OWN_PORTS, Pod, Recognition, SOCKS_PORT,
    arrival::{self, Inward, Lanes, Lost, Outward},
    inbound::PodDestination,
    outbound,
    owned::Owned,
    plaintext,
    pod::{MOST_RESOLVING, MOST_WAITING},
    port::{Entrance, FOR_TUNNELS, Look, PodPort},
    reach::Worker,
    socks::{self, MOST_ASKING, Socks},
};
use crate::{
    hbone::{Callers, HBONE_PORT, Pool, TunnelConfig},
    lifecycle::{Places, Tasks},
    mesh::AppHop,
    net::{Direction, PeerAddr, PodName},
    proxy::{
        dns::Resolver,
        egress::gateway::{Gateways, IsTooMuch},
        ingress::{self, Ends},
        listener::{AcceptBalancer, Arrival, accept_loop},
    },
    sys::{netns::Netns, sockets, sockmap::Watched},
    tls::{Acceptor, TunnelPort},
};

impl Pod {
    /// Opens the listeners inside the pod's namespace and starts serving, on every worker.
    ///
    /// # Errors
    /// If the namespace cannot be entered or a port is taken; nothing runs then.
    pub fn start(
        node: &Arc<Node>,
        name: PodName,
        app_hop: AppHop,
        netns: Arc<Netns>,
    ) -> io::Result<Arc<Self>> {
        let sockmap = node.sockmap.as_ref().filter(|_| app_hop == AppHop::Sockmap);
        let watched = sockmap.and_then(|sockmap| match sockmap.watch(&netns) {
            Ok(watched) => Some(Arc::new(watched)),
            Err(error) => {
                tracing::warn!(
                    pod = %name, %error,
                    "sockmap redirect is not possible in this pod; connecting to its applications \
                     by TCP"
                );
                None
            }
        });
        // Who accepts: another worker for each pod.
        let one = Accepts::One(node.pods.len() % node.workers.len());
        let open = |port, accepts| open_port(node, &netns, port, accepts);
        let (outbound, plaintext) = (open(OUTBOUND_PORT, one)?, open(INBOUND_PLAINTEXT_PORT, one)?);
        let hbone = open(HBONE_PORT, Accepts::Each)?;
        let socks = node.config.socks5.then(|| open(SOCKS_PORT, one)).transpose()?;
        let (name, dns, answers) = (Arc::new(name), Tasks::default(), Tasks::default());
        let served = node.dns.as_ref().map(|proxy| {
            // On one worker, another one for each pod.
            let worker = node.pods.len() % node.workers.len();
            let _on = node.workers[worker].enter();
            proxy.serve(&netns, &name, &dns, &answers)
        });
        let names = served.transpose()?.map(|served| Arc::new(served.resolver));
        let pod = Self::new(node, (name, netns), (watched, dns, answers));
        let pod = Arc::new(pod);
        let balancers = AcceptBalancer::of_one(outbound.len());
        pod.serve_outbound(node, listeners(outbound, balancers, || pod.looks_outward(node)));
        if let Some(socks) = socks {
            pod.serve_socks(node, socks, names.as_ref());
        }
        let balancers = AcceptBalancer::of_one(plaintext.len());
        pod.serve_plaintext(node, listeners(plaintext, balancers, looks_inward));
        let balancers = AcceptBalancer::all(hbone.len());
        pod.serve_hbone(node, listeners(hbone, balancers, || Box::new(|_, _| ())));
        Ok(pod)
    }

    /// Opens port 15008 alone, in the namespace of this process, for its own endpoints: they are
    /// reached there as the application of any pod is, from its own address.
    ///
    /// # Errors
    /// If the namespace cannot be opened or the port is taken.
    pub fn start_own(node: &Arc<Node>, name: PodName) -> io::Result<Arc<Self>> {
        let netns = Arc::new(Netns::current()?);
        let hbone = open_port(node, &netns, HBONE_PORT, Accepts::Each)?;
        let pod =
            Self::new(node, (Arc::new(name), netns), (None, Tasks::default(), Tasks::default()));
        let pod = Arc::new(Self { keeps_source: false, ..pod });
        let balancers = AcceptBalancer::all(hbone.len());
        pod.serve_hbone(node, listeners(hbone, balancers, || Box::new(|_, _| ())));
        Ok(pod)
    }

    fn new(
        node: &Arc<Node>,
        (name, netns): (Arc<PodName>, Arc<Netns>),
        (watched, dns, answers): (Option<Arc<Watched>>, Tasks, Tasks),
    ) -> Self {
        let known = match name.service_account {
            None => Recognition::Given,
            Some(_) => Recognition::Sought,
        };
        let endpoints = node.endpoints.of_pod(&name);
        Self {
            _counted: node.pods.enter(&name),
            name,
            endpoints,
            netns,
            owned: Owned::default(),
            recognition: watch::Sender::new(known),
            waiting: Semaphore::new(MOST_WAITING),
            waiting_for_policy: Semaphore::new(MOST_WAITING),
            resolving: Arc::new(Semaphore::new(MOST_RESOLVING)),
            asking: Semaphore::new(MOST_ASKING),
            keeps_source: true,
            acceptor: Acceptor::default(),
            original_port: Acceptor::at(TunnelPort::Original),
            tunnel_places: Arc::new(Semaphore::new(node.tunnel.max_tunnels)),
            callers: Callers::new(node.tunnel.caller),
            handshakes: Places::new(HANDSHAKES, HANDSHAKES_OF_ONE),
            watched,
            accepting: CancellationToken::new(),
            conns: Tasks::default(),
            tunnels: Tasks::default(),
            dns,
            answers,
        }
    }

    /// Whether the process before this one gave its sockets in this namespace.
    #[must_use]
    pub fn is_given(node: &Node, netns: (u64, u64)) -> bool {
        let given = |port| node.listeners.were_given(&name_of(netns, port));
        OWN_PORTS.into_iter().all(given)
    }

    fn looks_outward(self: &Arc<Self>, node: &Arc<Node>) -> Look<Box<Outward>> {
        let (node, pod, mut lanes) = (Arc::clone(node), Arc::clone(self), Lanes::new());
        Box::new(move |app, _| Outward::new(&node, &pod, app, &mut lanes))
    }

    fn serve_outbound(
        self: &Arc<Self>,
        node: &Arc<Node>,
        listeners: impl Iterator<Item = (Handle, WorkerListener<Box<Outward>>)>,
    ) {
        for (worker, listener) in listeners {
            let by = Arc::new(self.outbound_worker(node));
            let serve =
                move |socket, peer, found| outbound::serve(Arc::clone(&by), (socket, peer), found);
            self.listen_on((node, &worker), listener, "outbound", &self.conns, serve);
        }
    }

    /// What one worker serves connections with that leave the pod.
    fn outbound_worker(self: &Arc<Self>, node: &Arc<Node>) -> Worker {
        let made = |config: TunnelConfig| {
            let netns = Arc::clone(&self.netns);
            let pool = Pool::new(netns, config, self.tunnels.clone(), self.accepting.clone());
            pool.among(Arc::clone(&node.tunnels))
        };
        let pool = Arc::new(made(node.tunnel.clone()));
        let to_waypoints = made(node.tunnel.to_waypoints());
        let (of, conns) = (Arc::clone(node), self.conns.clone());
        let is_too_much: IsTooMuch =
            Box::new(move |fd, pairs| of.is_more_than_its_part(fd, conns.len() + 2 * pairs));
        let through = Gateways::new(Arc::clone(&pool), self.tunnels.clone(), is_too_much);
        let inner = made(node.tunnel.clone()).over(Arc::new(through));
        let (node, pod) = (Arc::clone(node), Arc::clone(self));
        Worker { node, pod, pool, to_waypoints, inner }
    }

    /// Connections that are asked for by SOCKS5, which have tunnels of their own.
    fn serve_socks(
        self: &Arc<Self>,
        node: &Arc<Node>,
        seats: Vec<Seat>,
        names: Option<&Arc<Resolver>>,
    ) {
        let balancers = AcceptBalancer::of_one(seats.len());
        for (worker, listener) in listeners(seats, balancers, || Box::new(|_, _| ())) {
            let by = Arc::new(Socks { worker: self.outbound_worker(node), names: names.cloned() });
            let serve = move |socket, peer, ()| socks::serve(Arc::clone(&by), (socket, peer));
            self.listen_on((node, &worker), listener, "socks5", &self.conns, serve);
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
            let (of, pod, port) = (Arc::clone(node), Arc::clone(self), TunnelPort::Hbone);
            let to = Arc::new(PodDestination { node: of, pod, port });
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
            self.listen_on((node, &worker), listener, FOR_TUNNELS, &self.tunnels, serve);
        }
    }

    fn listen_on<A, S, F>(
        self: &Arc<Self>,
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
        let (node, pod) = (Arc::clone(node), Arc::clone(self));
        let port = PodPort { node, pod, name, entrance };
        let (tasks, stop) = (tasks.clone(), self.accepting.clone());
        self.tunnels.spawn_on(worker, async move {
            tokio::select! {
                () = stop.cancelled() => {} // what was handed over is served still
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

/// One worker's part of a port: where it accepts, if it does, and what is handed to it.
type WorkerListener<A> = (Option<Entrance<A>>, AcceptBalancer<A>);

/// What a pod's sockets for a port are called when they go to another process.
pub(super) fn name_of((device, inode): (u64, u64), port: u16) -> String {
    format!("netns {device}:{inode} port {port}")
}

/// Who accepts at a port.
#[derive(Clone, Copy, Debug)]
enum Accepts {
    /// Each worker, from a socket of its own: the kernel spreads connections.
    Each,
    /// This worker for all, in the order in which connections come.
    One(usize),
}

/// A worker, and the socket on which it accepts, if it does.
type Seat = (Handle, Option<Arc<TcpListener>>);

/// Listens at a port inside a pod, on the sockets of the process before this one where there are
/// some. More of them than are needed stay open, on workers that do not accept by themselves, then
/// on the first ones again: the kernel spreads connections over all.
///
/// # Errors
/// The namespace cannot be entered, or the port is taken.
fn open_port(node: &Node, netns: &Netns, port: u16, accepts: Accepts) -> io::Result<Vec<Seat>> {
    let name = name_of(netns.key(), port);
    let inherited = node.listeners.take(&name).into_iter().map(sockets::adopted);
    let mut all = inherited.collect::<io::Result<Vec<_>>>()?;
    let workers = node.workers.len();
    let (needed, first) = match accepts {
        Accepts::Each => (workers, 0),
        Accepts::One(worker) => (1, worker),
    };
    for n in all.len()..needed {
        // One more queue would take connections before this process accepts any.
        let more = match (node.listeners.is_accepting(), all.get(n % all.len().max(1))) {
            (true, _) => sockets::listen(netns, listening_at(node, port))
                .and_then(|listener| node.tunnel.keepalive.set_on(&listener).map(|()| listener)),
            (false, Some(inherited)) => inherited.try_clone(),
            (false, None) => Err(io::Error::other("another process still has its sockets")),
        };
        all.push(more?);
    }
    let seats = all.len().max(workers);
    let mut sockets = all.into_iter();
    let seat = |worker: &Handle| {
        let _on = worker.enter();
        let listener = sockets.next().map(TcpListener::from_std).transpose()?.map(Arc::new);
        listener.iter().for_each(|listener| node.listeners.offer(name.clone(), listener));
        Ok((worker.clone(), listener))
    };
    node.workers.iter().cycle().skip(first).take(seats).map(seat).collect()
}

/// Both families on one socket, unless IPv6 is not wanted; SOCKS5 is for the pod's own applications.
fn listening_at(node: &Node, port: u16) -> SocketAddr {
    let ip = match (port, node.config.ipv6) {
        (SOCKS_PORT, _) => Ipv4Addr::LOCALHOST.into(),
        (_, true) => Ipv6Addr::UNSPECIFIED.into(),
        (_, false) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, port)
}

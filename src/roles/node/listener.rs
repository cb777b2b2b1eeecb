//! The ports of a pod: on each, every worker accepts, or where order matters one of them, and the
//! others serve what it hands them ([`crate::proxy::listener`]).

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::BorrowedFd,
    sync::Arc,
};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
};

use super::Node;
use crate::{
    proxy::listener::{AcceptBalancer, Arrival, Port},
    sys::{netns::Netns, sockets},
};

/// A listener, and who finds out about what it accepts.
pub(super) struct Entrance<A> {
    pub(super) listener: Arc<TcpListener>,
    pub(super) look: Look<A>,
}

/// Finds out about a connection without waiting.
pub(super) type Look<A> = Box<dyn FnMut(&TcpStream, SocketAddr) -> A + Send>;

/// One worker's part of a port: where it accepts, if it does, and what is handed to it.
pub(super) type WorkerListener<A> = (Option<Entrance<A>>, AcceptBalancer<A>);

/// What a pod's sockets for a port are called when they go to another process.
pub(super) fn name_of((device, inode): (u64, u64), port: u16) -> String {
    format!("netns {device}:{inode} port {port}")
}

/// Who accepts at a port.
#[derive(Clone, Copy, Debug)]
pub(super) enum Accepts {
    /// Each worker, from a socket of its own: the kernel spreads connections.
    Each,
    /// This worker for all, in the order in which connections come.
    One(usize),
}

/// A worker, and the socket on which it accepts, if it does.
pub(super) type Seat = (Handle, Option<Arc<TcpListener>>);

/// Listens at a port inside a pod, on the sockets of the process before this one where there are
/// some. More of them than are needed stay open, on workers that do not accept by themselves, then
/// on the first ones again: the kernel spreads connections over all.
///
/// # Errors
/// The namespace cannot be entered, or the port is taken.
pub(super) fn open(
    node: &Node,
    netns: &Netns,
    port: u16,
    accepts: Accepts,
) -> io::Result<Vec<Seat>> {
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
            (true, _) => sockets::listen(netns, SocketAddr::new(ANY, port)),
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

/// Both families on one socket.
const ANY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// One worker's part of a port of a pod.
pub(super) struct PodPort<A> {
    pub(super) node: Arc<Node>,
    /// How logs and metrics call it.
    pub(super) name: &'static str,
    /// Where this worker accepts, if it does.
    pub(super) entrance: Option<Entrance<A>>,
}

impl<A: Arrival> Port for PodPort<A> {
    type Arrival = A;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let listener = self.entrance.as_ref().map(|entrance| &*entrance.listener);
        match listener {
            Some(listener) => listener.accept().await,
            None => std::future::pending().await,
        }
    }

    fn arrived(&mut self, socket: &TcpStream, peer: SocketAddr) -> Option<A> {
        self.entrance.as_mut().map(|entrance| (entrance.look)(socket, peer))
    }

    /// Where descriptors are short, a pod has its part of them.
    fn is_too_much(&self, fd: BorrowedFd<'_>, live: usize) -> bool {
        self.node.is_more_than_its_part(fd, live)
    }

    fn name(&self) -> &str {
        self.name
    }

    fn accept_failed(&self) {
        self.node.telemetry.metrics.listeners.accept_failed(self.name);
    }
}

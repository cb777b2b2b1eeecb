//! Accept loops: one per port, pod and worker. Where order matters one of them accepts, and the
//! others serve what it hands them.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
};

use futures_util::FutureExt;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
};
use tokio_util::sync::CancellationToken;

use super::Node;
use crate::{
    lifecycle::{AcceptBackoff, Tasks, is_of_one_connection},
    proxy::listener::{AcceptBalancer, Arrival},
    sys::{descriptors::is_reserved, netns::Netns, sockets},
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

/// How many connections are accepted before others get their turn.
const IN_A_ROW: u32 = 4;

/// Accepts until `stop`, giving each connection to `serve` as a task of its own, here or on a
/// worker that has less to do.
///
/// When descriptors or memory run out the loop backs off instead of spinning, and counts it; where
/// descriptors are short, that is when this pod has its part of them.
pub(super) async fn accept_loop<A, S, F>(
    (entrance, mut balancer): WorkerListener<A>,
    name: &'static str,
    node: &Node,
    tasks: Tasks,
    stop: CancellationToken,
    serve: S,
) where
    A: Arrival,
    S: Fn(TcpStream, SocketAddr, A) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, mut look) = entrance.map(|e| (e.listener, e.look)).unzip();
    tokio::select! {
        () = stop.cancelled() => return,
        () = node.listeners.accepting() => {}
    }
    let mut backoff = AcceptBackoff::new(name);
    let mut row = 0;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(listener.as_deref()) => accepted.and_then(|(socket, peer)| {
                let reserved = is_reserved(socket.as_fd());
                if reserved || node.is_more_than_its_part(socket.as_fd(), balancer.live()) {
                    return Err(nix::errno::Errno::EMFILE.into());
                }
                let Some(look) = &mut look else { return Ok(None) }; // never: it listens
                let arrival = look(&socket, peer);
                Ok(balancer.take(socket, peer, arrival))
            }),
            handed = balancer.handed() => handed.map(Some),
        };
        match accepted {
            Ok(taken) => {
                backoff.succeeded();
                let Some((socket, peer, arrival, place)) = taken else { continue };
                // Not awaited in a block of its own, which would hold the future twice.
                tasks.spawn(serve(socket, peer, arrival).map(|()| drop(place)));
                // In a burst the streams that are open get their turns in between.
                row = (row + 1) % IN_A_ROW;
                if row == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                node.telemetry.metrics.listeners.accept_failed(name);
                backoff.failed(&error).await;
            }
        }
    }
    // What another worker has handed over already was accepted, and nobody else has it.
    while let Some((socket, peer, arrival, place)) = balancer.left().await {
        tasks.spawn(serve(socket, peer, arrival).map(|()| drop(place)));
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

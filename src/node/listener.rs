//! Accept loops: one per port, pod and worker.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{Node, desk::Desk};
use crate::{
    lifecycle::Tasks,
    sys::{descriptors::is_reserved, netns::Netns, sockets},
};

/// A listener of one worker, and that worker's share of what arrives.
pub(super) type Door = (Arc<TcpListener>, Desk);

/// What a pod's sockets for a port are called when they go to another process.
pub(super) fn name_of((device, inode): (u64, u64), port: u16) -> String {
    format!("netns {device}:{inode} port {port}")
}

/// Listens at a port inside a pod on each worker, on the sockets of the process before this one
/// where there are some. More of them than there are workers stay open on the first ones: the
/// kernel spreads connections over all.
///
/// # Errors
/// The namespace cannot be entered, or the port is taken.
pub(super) fn open(node: &Node, netns: &Netns, port: u16) -> io::Result<Vec<(Handle, Door)>> {
    let name = name_of(netns.key(), port);
    let inherited = node.listeners.take(&name).into_iter().map(sockets::adopted);
    let mut all = inherited.collect::<io::Result<Vec<_>>>()?;
    for n in all.len()..node.workers.len() {
        // One more queue would take connections before this process accepts any.
        let more = match (node.listeners.is_accepting(), all.get(n % all.len().max(1))) {
            (true, _) => sockets::listen(netns, SocketAddr::new(ANY, port)),
            (false, Some(inherited)) => inherited.try_clone(),
            (false, None) => Err(io::Error::other("another process has its sockets still")),
        };
        all.push(more?);
    }
    let desks = Desk::all(all.len()).into_iter();
    let door = |((listener, desk), worker): (_, &Handle)| {
        let _on = worker.enter();
        let listener = Arc::new(TcpListener::from_std(listener)?);
        node.listeners.offer(name.clone(), &listener);
        Ok((worker.clone(), (listener, desk)))
    };
    all.into_iter().zip(desks).zip(node.workers.iter().cycle()).map(door).collect()
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
pub(super) async fn accept_loop<S, F>(
    (listener, mut desk): Door,
    name: &'static str,
    node: &Node,
    tasks: Tasks,
    stop: CancellationToken,
    serve: S,
) where
    S: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    tokio::select! {
        () = stop.cancelled() => return,
        () = node.listeners.accepting() => {}
    }
    let mut pause = Duration::from_millis(5);
    let mut row = 0;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted.and_then(|(socket, peer)| {
                let reserved = is_reserved(socket.as_fd());
                if reserved || node.is_more_than_its_part(socket.as_fd(), desk.live()) {
                    return Err(nix::errno::Errno::EMFILE.into());
                }
                Ok(desk.take(socket, peer).map(|(socket, place)| (socket, peer, place)))
            }),
            handed = desk.handed() => handed.map(Some),
        };
        match accepted {
            Ok(taken) => {
                pause = Duration::from_millis(5);
                let Some((socket, peer, place)) = taken else { continue };
                // Not awaited in a block of its own, which would hold the future twice.
                tasks.spawn(serve(socket, peer).map(|()| drop(place)));
                // In a burst the streams that are open get their turns in between.
                row = (row + 1) % IN_A_ROW;
                if row == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if is_one_connections_own(&error) => {}
            Err(error) => {
                node.telemetry.metrics.listeners.accept_failed(name);
                tracing::warn!(listener = name, %error, ?pause, "accept failed, backing off");
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
    // What another worker has handed over already was accepted, and nobody else has it.
    while let Some((socket, peer, place)) = desk.left().await {
        tasks.spawn(serve(socket, peer).map(|()| drop(place)));
    }
}

fn is_one_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::Interrupted)
}

//! Accept loops: one per port and worker. Who accepts a connection gives it to the worker that
//! serves it from then on: this one, or one that has clearly less to do ([`AcceptBalancer`]).

mod accept_balancer;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd},
};

use futures_util::FutureExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

pub use accept_balancer::{AcceptBalancer, Arrival, ConnectionGuard, Taken};

use crate::{
    lifecycle::{AcceptBackoff, Tasks, is_of_one_connection},
    sys::descriptors::is_reserved,
};

/// One worker's part of a port, as far as its accept loop depends on whose port it is.
pub trait Port: Send {
    /// What goes with a connection to the worker that serves it.
    type Arrival: Arrival;

    /// The next connection; never comes where another worker accepts for this one. Cancel safe.
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;

    /// Finds out about an accepted connection, without waiting; `None` drops it.
    fn arrived(&mut self, socket: &TcpStream, peer: SocketAddr) -> Option<Self::Arrival>;

    /// Whether the port must do without the descriptor of one more connection, where it has `live`
    /// of them.
    fn is_too_much(&self, fd: BorrowedFd<'_>, live: usize) -> bool;

    /// How logs and metrics call it.
    fn name(&self) -> &str;

    /// Counts that nothing could be accepted.
    fn accept_failed(&self);
}

/// How many connections are accepted before others get their turn.
const IN_A_ROW: u32 = 4;

/// Accepts until `stop`, giving each connection to `serve` as a task of its own, here or on a
/// worker that has less to do.
///
/// When descriptors or memory run out the loop backs off instead of spinning, and counts it; where
/// descriptors are short, that is when this port has its part of them.
pub async fn accept_loop<P, S, F>(
    mut port: P,
    mut balancer: AcceptBalancer<P::Arrival>,
    tasks: Tasks,
    stop: CancellationToken,
    serve: S,
) where
    P: Port,
    S: Fn(TcpStream, SocketAddr, P::Arrival) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut backoff = AcceptBackoff::new(port.name());
    let mut row = 0;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = port.accept() => accepted.and_then(|(socket, peer)| {
                let fd = socket.as_fd();
                if is_reserved(fd) || port.is_too_much(fd, balancer.live()) {
                    return Err(nix::errno::Errno::EMFILE.into());
                }
                let Some(arrival) = port.arrived(&socket, peer) else { return Ok(None) };
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
                port.accept_failed();
                backoff.failed(&error).await;
            }
        }
    }
    drop(port);
    // What another worker has handed over already was accepted, and nobody else has it.
    while let Some((socket, peer, arrival, place)) = balancer.left().await {
        tasks.spawn(serve(socket, peer, arrival).map(|()| drop(place)));
    }
}

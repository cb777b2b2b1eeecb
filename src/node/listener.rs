//! Accept loops: one per port, pod and worker. Where order matters one of them accepts, and the
//! others serve what it hands them.

use std::{future::Future, io, net::SocketAddr, os::fd::AsFd, time::Duration};

use futures_util::FutureExt;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{Node, arrival::Arrival, desk::Desk};
use crate::{lifecycle::Tasks, sys::descriptors::is_reserved};

/// A listener, and who finds out about what it accepts.
pub(super) struct Entrance<A> {
    pub(super) listener: std::net::TcpListener,
    pub(super) look: Look<A>,
}

/// Finds out about a connection without waiting.
pub(super) type Look<A> = Box<dyn FnMut(&TcpStream, SocketAddr) -> A + Send>;

/// One worker's part of a port: what arrives there, and where it accepts, if it does.
pub(super) type Door<A> = (Option<Entrance<A>>, Desk<A>);

/// How many connections are accepted before others get their turn.
const IN_A_ROW: u32 = 4;

/// Accepts until `stop`, giving each connection to `serve` as a task of its own, here or on a
/// worker that has less to do.
///
/// When descriptors or memory run out the loop backs off instead of spinning, and counts it; where
/// descriptors are short, that is when this pod has its part of them.
pub(super) async fn accept_loop<A, S, F>(
    (entrance, mut desk): Door<A>,
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
    let (listener, mut look) =
        entrance.map(|e| (TcpListener::from_std(e.listener), e.look)).unzip();
    let listener = match listener.transpose() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(listener = name, %error, "cannot poll a listening socket");
            return;
        }
    };
    let mut pause = Duration::from_millis(5);
    let mut row = 0;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(listener.as_ref()) => accepted.and_then(|(socket, peer)| {
                let reserved = is_reserved(socket.as_fd());
                if reserved || node.is_more_than_its_part(socket.as_fd(), desk.live()) {
                    return Err(nix::errno::Errno::EMFILE.into());
                }
                let Some(look) = &mut look else { return Ok(None) }; // never: it listens
                let arrival = look(&socket, peer);
                Ok(desk.take(socket, peer, arrival))
            }),
            handed = desk.handed() => handed.map(Some),
        };
        match accepted {
            Ok(taken) => {
                pause = Duration::from_millis(5);
                let Some((socket, peer, arrival, place)) = taken else { continue };
                // Not awaited in a block of its own, which would hold the future twice.
                tasks.spawn(serve(socket, peer, arrival).map(|()| drop(place)));
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
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn is_one_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::Interrupted)
}

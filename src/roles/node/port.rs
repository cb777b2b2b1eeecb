//! A port of a pod, as its accept loops know it.

use std::{io, net::SocketAddr, os::fd::BorrowedFd, sync::Arc};

use tokio::net::{TcpListener, TcpStream};

use super::{Node, Pod};
use crate::{
    proxy::listener::{Arrival, Port},
    sys::sockets,
};

/// The name of the port where tunnels arrive.
pub(super) const FOR_TUNNELS: &str = "hbone";

/// One worker's part of a port of a pod.
pub(super) struct PodPort<A> {
    pub(super) node: Arc<Node>,
    pub(super) pod: Arc<Pod>,
    /// How logs and metrics call it.
    pub(super) name: &'static str,
    /// Where this worker accepts, if it does.
    pub(super) entrance: Option<Entrance<A>>,
}

/// A listener, and who finds out about what it accepts.
pub(super) struct Entrance<A> {
    pub(super) listener: Arc<TcpListener>,
    pub(super) look: Look<A>,
}

/// Finds out about a connection without waiting.
pub(super) type Look<A> = Box<dyn FnMut(&TcpStream, SocketAddr) -> A + Send>;

impl<A: Arrival> Port for PodPort<A> {
    type Arrival = A;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let listener = self.entrance.as_ref().map(|entrance| &*entrance.listener);
        match listener {
            Some(listener) => listener.accept().await,
            None => std::future::pending().await,
        }
    }

    fn queued(&mut self) -> Option<(TcpStream, SocketAddr)> {
        let listeners = &self.node.listeners;
        // The process before this one has the queue still, or the one after it.
        if !listeners.is_accepting() || listeners.has_successor() {
            return None;
        }
        sockets::accept_queued(&*self.entrance.as_ref()?.listener)
    }

    fn arrived(&mut self, socket: &TcpStream, peer: SocketAddr) -> Option<A> {
        self.entrance.as_mut().map(|entrance| (entrance.look)(socket, peer))
    }

    /// Where descriptors are short, a pod has its part of them: one for its tunnels, and one for all
    /// other connections at whichever port.
    fn is_too_much(&self, fd: BorrowedFd<'_>, live: usize) -> bool {
        let has = match self.name {
            FOR_TUNNELS => live,
            _ => self.pod.conns.len().saturating_sub(self.pod.callers.streams()),
        };
        self.node.is_more_than_its_part(fd, has)
    }

    fn name(&self) -> &str {
        self.name
    }

    fn accept_failed(&self) {
        self.node.telemetry.metrics.listeners.accept_failed(self.name);
    }
}

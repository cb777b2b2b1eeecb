//! Where connections come from.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::either::Either;

use super::origin::Reached;
use crate::lifecycle::source;

/// What gives the connections of one endpoint.
pub trait Accept: Send + Sync + 'static {
    /// The next connection. Cancel safe.
    ///
    /// # Errors
    /// As accept(2); the next one may succeed.
    fn accept(&self) -> impl Future<Output = io::Result<Accepted>> + Send;
}

/// A connection, and where it came from.
pub struct Accepted {
    pub(super) socket: Either<TcpStream, UnixStream>,
    /// Of a TCP connection.
    pub(super) peer: Option<SocketAddr>,
}

impl Accepted {
    /// Over TCP.
    #[must_use]
    pub fn tcp(socket: TcpStream, peer: SocketAddr) -> Self {
        Self { socket: Either::Left(socket), peer: Some(peer) }
    }

    /// Over a Unix socket.
    #[must_use]
    pub fn unix(socket: UnixStream) -> Self {
        Self { socket: Either::Right(socket), peer: None }
    }

    /// Over a Unix socket that is held as a TCP one.
    #[must_use]
    pub fn unix_as_tcp(socket: TcpStream) -> Self {
        Self { socket: Either::Left(socket), peer: None }
    }

    /// The caller that it counts for; all callers of a Unix socket are one.
    pub(super) fn source(&self) -> IpAddr {
        self.peer.map_or(Ipv4Addr::LOCALHOST.into(), |peer| source(peer.ip()))
    }

    /// How a request on it reached this process; none where the peer is gone already.
    pub(super) fn reached(&self) -> Option<Reached> {
        match (&self.socket, self.peer) {
            (Either::Left(socket), Some(_)) => socket.local_addr().ok().map(Reached::Tcp),
            _ => Some(Reached::Unix),
        }
    }
}

impl AsFd for Accepted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Either::Left(socket) => socket.as_fd(),
            Either::Right(socket) => socket.as_fd(),
        }
    }
}

impl<L: Accept> Accept for Arc<L> {
    async fn accept(&self) -> io::Result<Accepted> {
        L::accept(self).await
    }
}

impl Accept for TcpListener {
    async fn accept(&self) -> io::Result<Accepted> {
        let (socket, peer) = Self::accept(self).await?;
        Ok(Accepted::tcp(socket, peer))
    }
}

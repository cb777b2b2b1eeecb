//! Where an endpoint is reached: a port, or a Unix socket.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::either::Either;

use crate::{
    config::AdminAddress,
    lifecycle::{Listeners, source},
    rpc,
};

/// What an endpoint listens on.
pub(super) enum Door {
    Tcp(Arc<TcpListener>),
    Unix(rpc::Listener),
}

/// A connection, whom it counts for, and the address that it came to.
pub(super) struct Caller {
    pub(super) socket: Either<TcpStream, UnixStream>,
    pub(super) source: IpAddr,
    pub(super) bound: SocketAddr,
}

impl Door {
    pub(super) async fn open(addr: &AdminAddress, listeners: &Arc<Listeners>) -> io::Result<Self> {
        match addr {
            AdminAddress::Tcp(addr) => listeners.tcp(*addr, bind(*addr)).await.map(Self::Tcp),
            AdminAddress::Unix(path) => rpc::listen(path, 0o600, listeners).map(Self::Unix),
        }
    }

    /// The next caller; none where one is not to be served.
    pub(super) async fn accept(&self) -> io::Result<Option<Caller>> {
        match self {
            Self::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                let Ok(bound) = socket.local_addr() else { return Ok(None) };
                let (socket, source) = (Either::Left(socket), source(peer.ip()));
                Ok(Some(Caller { socket, source, bound }))
            }
            Self::Unix(listener) => {
                let socket = listener.accept().await?;
                // A caller may have connected before the mode of the socket was set.
                let ours = |uid: u32| uid == 0 || uid == nix::unistd::geteuid().as_raw();
                if !socket.peer_cred().is_ok_and(|of| ours(of.uid())) {
                    return Ok(None);
                }
                let (socket, source) = (Either::Right(socket), Ipv4Addr::LOCALHOST.into());
                Ok(Some(Caller { socket, source, bound: SocketAddr::new(source, 0) }))
            }
        }
    }
}

async fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(addr).await {
        Err(_) if addr.ip() == std::net::Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind(("0.0.0.0", addr.port())).await
        }
        bound => bound,
    }
}

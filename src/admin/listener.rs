//! Where an endpoint is reached: a port, or a Unix socket.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

use crate::{
    config::AdminAddress,
    http::{Accept, Accepted},
    lifecycle::Listeners,
    rpc,
};

/// What an endpoint listens on.
pub(super) enum EndpointListener {
    Tcp(Arc<TcpListener>),
    Unix(rpc::Listener),
}

impl EndpointListener {
    /// On the socket of the process before this one where there is one.
    pub(super) async fn open(addr: &AdminAddress, listeners: &Arc<Listeners>) -> io::Result<Self> {
        match addr {
            AdminAddress::Tcp(addr) => listeners.tcp(*addr, bind(*addr)).await.map(Self::Tcp),
            AdminAddress::Unix(path) => rpc::listen(path, 0o600, listeners).map(Self::Unix),
        }
    }
}

impl Accept for EndpointListener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => Accept::accept(listener).await,
            Self::Unix(listener) => loop {
                let socket = listener.accept().await?;
                // A caller may have connected before the mode of the socket was set.
                let ours = |uid: u32| uid == 0 || uid == nix::unistd::geteuid().as_raw();
                if socket.peer_cred().is_ok_and(|of| ours(of.uid())) {
                    return Ok(Accepted::unix(socket));
                }
            },
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

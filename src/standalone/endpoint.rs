//! Sockets for addresses. A Unix stream socket is carried as a TCP one afterwards: reads, writes,
//! shutdown and readiness are the same calls on either (socket(7)), what is of TCP alone fails
//! harmlessly.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    os::{
        fd::OwnedFd,
        unix::{
            fs::FileTypeExt as _,
            net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::Address;
use crate::lifecycle::aside;

/// How many connections may wait to be accepted; the kernel lowers it to `somaxconn`.
const BACKLOG: i32 = 4096;

/// A listening socket that has no runtime yet: each worker has one of the same queue.
#[derive(Debug)]
pub struct Listening {
    socket: Socket,
    unix: bool,
    /// A path that we made and remove.
    path: Option<PathBuf>,
}

impl Listening {
    /// Opens it.
    ///
    /// # Errors
    /// Names the address and what to do.
    pub fn open(address: &Address) -> Result<Self, String> {
        let failed = |e: io::Error| {
            let hint = match e.kind() {
                io::ErrorKind::AddrInUse => " (somebody listens there already)",
                io::ErrorKind::PermissionDenied if matches!(address, Address::Unix(_)) => {
                    " (a folder outside of the sandbox, if it was added to a file that is running: \
                     restart adit)"
                }
                io::ErrorKind::PermissionDenied => {
                    " (a port below 1024 needs CAP_NET_BIND_SERVICE, or socket activation)"
                }
                _ => "",
            };
            format!("listen on {address}: {e}{hint}")
        };
        match address {
            Address::Tcp { host, port } => {
                let socket = tcp(host, *port).map_err(failed)?;
                Ok(Self { socket, unix: false, path: None })
            }
            Address::Unix(path) => {
                clear_stale(path).map_err(failed)?;
                let listener = StdUnixListener::bind(path).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let socket = Socket::from(OwnedFd::from(listener));
                Ok(Self { socket, unix: true, path: Some(path.clone()) })
            }
            Address::Systemd(_) => Err(format!(
                "{address}: no sockets came from systemd; is the .socket unit started, and not \
                 this service by itself?"
            )),
        }
    }

    /// Takes a socket that somebody else opened; its path, if any, is theirs.
    ///
    /// # Errors
    /// If it is no listening stream socket.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(fd);
        if !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
        }
        socket.set_nonblocking(true)?;
        let unix = socket.domain()? == Domain::UNIX;
        if !unix {
            // As for our own: what is accepted inherits both.
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_keepalive(&keepalive())?;
        }
        Ok(Self { socket, unix, path: None })
    }

    /// Removes `path` when this is dropped: it is ours from now on.
    pub(super) fn own_path(&mut self, path: PathBuf) {
        self.path = Some(path);
    }

    /// The same queue for one more worker. Needs that worker's runtime.
    ///
    /// # Errors
    /// No descriptors.
    pub fn accepting(&self) -> io::Result<Accepting> {
        let socket = self.socket.try_clone()?;
        Ok(if self.unix {
            Accepting::Unix(UnixListener::from_std(OwnedFd::from(socket).into())?)
        } else {
            Accepting::Tcp(TcpListener::from_std(socket.into())?)
        })
    }

    /// Where it listens, if that is TCP.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// The descriptor once more, to be handed to another process.
    ///
    /// # Errors
    /// No descriptors.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(self.socket.try_clone()?.into())
    }

    /// The path stays when this is dropped: another process listens there now.
    pub fn keep_path(&mut self) {
        self.path = None;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket whose owner is gone is removed; one that answers is not ours to take.
fn clear_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(meta) if !meta.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"))
        }
        Ok(_) => match StdUnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => std::fs::remove_file(path),
        },
    }
}

fn tcp(host: &str, port: u16) -> io::Result<Socket> {
    use std::net::Ipv6Addr;
    if host.is_empty() {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let fallback = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        return bound(any).or_else(|_| bound(fallback));
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in (host, port).to_socket_addrs()? {
        match bound(addr) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bound(addr: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
    // What is accepted inherits both (tcp(7)).
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn keepalive() -> TcpKeepalive {
    let every = Duration::from_secs(60);
    TcpKeepalive::new().with_time(every).with_interval(every).with_retries(5)
}

/// One worker's end of a listening socket.
#[derive(Debug)]
pub enum Accepting {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

impl Accepting {
    /// The next connection, and who it is: for a Unix socket the unspecified address. Cancel safe.
    ///
    /// # Errors
    /// As accept(2); most pass.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Tcp(listener) => listener.accept().await,
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((as_tcp(stream)?, UNIX_PEER))
            }
        }
    }
}

/// How a peer on a Unix socket is recorded.
pub const UNIX_PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

fn as_tcp(stream: UnixStream) -> io::Result<TcpStream> {
    TcpStream::from_std(OwnedFd::from(stream.into_std()?).into())
}

/// The addresses of a name, or the one address that it is.
///
/// # Errors
/// What the resolver said.
///
/// # Cancel safety
/// Nothing is lost.
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let name = host.to_owned();
    let found = aside(move || (name.as_str(), port).to_socket_addrs().map(Iterator::collect)).await;
    let found: Vec<_> = found.map_err(io::Error::other)??;
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        false => Ok(found),
    }
}

/// Connects; the addresses of a name are tried in turn.
///
/// # Errors
/// What the last of them said.
///
/// # Cancel safety
/// Dropping the future closes the socket.
pub async fn connect(address: &Address) -> io::Result<TcpStream> {
    match address {
        Address::Tcp { host, port } => {
            let host = if host.is_empty() { "localhost" } else { host };
            let stream = TcpStream::connect(&resolve(host, *port).await?[..]).await?;
            stream.set_nodelay(true)?;
            socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive())?;
            Ok(stream)
        }
        Address::Unix(path) => as_tcp(UnixStream::connect(path).await?),
        Address::Systemd(_) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "systemd: is for listening"))
        }
    }
}

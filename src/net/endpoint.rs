//! Sockets for addresses. A Unix stream socket is carried as a TCP one afterwards: reads, writes,
//! shutdown and readiness are the same calls on either (socket(7)), what is of TCP alone fails
//! harmlessly.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt as _,
        unix::{
            fs::FileTypeExt as _,
            net::{
                SocketAddr as UnixAddr, UnixListener as StdUnixListener,
                UnixStream as StdUnixStream,
            },
        },
    },
    path::{Path, PathBuf},
    task::Poll,
};

use socket2::{Domain, Socket};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::{Address, bound_path::BoundPath, cannot_listen};
use crate::{
    lifecycle::dial,
    sys::sockets::{self, canonical},
};

/// Listening sockets of one address, without a runtime yet: each worker has those of the same
/// queues. A name has as many as it has addresses.
#[derive(Debug)]
pub struct Listening {
    sockets: Vec<Socket>,
    unix: bool,
    /// A path that we made and remove.
    path: Option<BoundPath>,
}

impl Listening {
    fn of(sockets: Vec<Socket>, unix: bool, path: Option<BoundPath>) -> Self {
        Self { sockets, unix, path }
    }

    /// Opens it; `key` is what asked for the address, for errors.
    ///
    /// # Errors
    /// Names the address and what to do.
    pub fn open(address: &Address, key: &str) -> Result<Self, String> {
        let failed = |e: io::Error| match (e.kind(), address) {
            (io::ErrorKind::PermissionDenied, Address::Unix(_)) => format!(
                "cannot listen on {address}: {e} (the sandbox may not include this directory, if a \
                 reload added it: restart adit)"
            ),
            _ => cannot_listen(address, key, &e),
        };
        match address {
            Address::Tcp { host, port } => {
                let sockets = tcp(host, *port).map_err(failed)?;
                Ok(Self::of(sockets, false, None))
            }
            Address::Unix(path) => {
                clear_stale(path).map_err(failed)?;
                let listener = StdUnixListener::bind(path).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let socket = Socket::from(OwnedFd::from(listener));
                Ok(Self::of(vec![socket], true, Some(BoundPath::of(path.clone()))))
            }
            Address::Abstract(name) => {
                let name = UnixAddr::from_abstract_name(name).map_err(failed)?;
                let listener = StdUnixListener::bind_addr(&name).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let socket = Socket::from(OwnedFd::from(listener));
                Ok(Self::of(vec![socket], true, None))
            }
            Address::Systemd(_) => Err(format!(
                "{address}: systemd passed no sockets; start the .socket unit, not \
                 this service by itself"
            )),
        }
    }

    /// Takes a socket that somebody else opened; its path, if any, is theirs.
    ///
    /// # Errors
    /// If it is not a listening stream socket.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(fd);
        if !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket is not listening"));
        }
        socket.set_nonblocking(true)?;
        let unix = socket.domain()? == Domain::UNIX;
        if !unix {
            // As for our own.
            sockets::to_be_inherited(&socket)?;
        }
        Ok(Self::of(vec![socket], unix, None))
    }

    /// Takes several that somebody else opened for one address.
    ///
    /// # Errors
    /// If one is not a listening stream socket, or only some are Unix sockets.
    pub(crate) fn adopt_all(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let mut all: Option<Self> = None;
        for fd in fds {
            let next = Self::adopt(fd)?;
            match &mut all {
                None => all = Some(next),
                Some(all) if all.unix == next.unix => all.sockets.extend(next.taken()),
                Some(_) => {
                    let why = "some of its sockets are Unix sockets and some are not";
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
                }
            }
        }
        all.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn taken(mut self) -> Vec<Socket> {
        std::mem::take(&mut self.sockets)
    }

    /// The socket is at `path`, which another process removes until [`Listening::claim_path`].
    pub(crate) fn inherit_path(&mut self, path: PathBuf) {
        self.path = Some(BoundPath::inherited(path));
    }

    /// The path is removed when this is dropped: it is ours from now on.
    pub(crate) fn claim_path(&self) {
        self.path.iter().for_each(BoundPath::claim);
    }

    /// Accepts from this endpoint's queue in one more worker. Needs that worker's runtime.
    ///
    /// # Errors
    /// No descriptors.
    pub fn accepting(&self) -> io::Result<Accepting> {
        if self.unix
            && let Some(socket) = self.sockets.first()
        {
            let socket = socket.try_clone()?;
            return Ok(Accepting::Unix(UnixListener::from_std(OwnedFd::from(socket).into())?));
        }
        let listeners = self.sockets.iter().map(|s| TcpListener::from_std(s.try_clone()?.into()));
        Ok(Accepting::Tcp(listeners.collect::<io::Result<_>>()?))
    }

    /// Where it listens, as far as that is TCP.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        let addrs = self.sockets.iter().filter_map(|s| s.local_addr().ok()?.as_socket());
        addrs.collect()
    }

    /// The descriptors once more, to be handed to another process.
    ///
    /// # Errors
    /// No descriptors.
    pub fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        self.sockets.iter().map(|socket| Ok(socket.try_clone()?.into())).collect()
    }

    /// The path stays when this is dropped: another process listens there now.
    pub fn keep_path(&self) {
        self.path.iter().for_each(BoundPath::keep);
    }
}

/// A socket whose owner is gone is removed; one that answers is not ours to take.
fn clear_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(meta) if !meta.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket exists there",
        )),
        Ok(_) => match StdUnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => std::fs::remove_file(path),
        },
    }
}

fn tcp(host: &str, port: u16) -> io::Result<Vec<Socket>> {
    use std::net::Ipv6Addr;
    if host.is_empty() {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let fallback = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        return Ok(vec![bound(any).or_else(|_| bound(fallback))?]);
    }
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    all_bound(&found)
}

/// A socket for each address, all on the same port. What this host does not have (IPv6 that is
/// switched off) is left out, as long as something is left.
fn all_bound(found: &[SocketAddr]) -> io::Result<Vec<Socket>> {
    let mut bound_to: Vec<SocketAddr> = Vec::new();
    let mut sockets: Vec<Socket> = Vec::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in found {
        let mut addr = canonical(*addr);
        // Port 0 is whichever was free for the first of them.
        if let Some(first) = sockets.first().and_then(|s| s.local_addr().ok()?.as_socket()) {
            addr.set_port(first.port());
        }
        if bound_to.iter().any(|other| other.ip() == addr.ip()) {
            continue;
        }
        match bound(addr) {
            Ok(socket) => {
                bound_to.push(addr);
                sockets.push(socket);
            }
            Err(error) if not_here(&error) => last = error,
            Err(error) => return Err(error),
        }
    }
    if sockets.is_empty() { Err(last) } else { Ok(sockets) }
}

fn not_here(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn bound(addr: SocketAddr) -> io::Result<Socket> {
    sockets::listener(addr, |_| Ok(()))
}

/// One worker's end of listening sockets.
#[derive(Debug)]
pub enum Accepting {
    /// TCP.
    Tcp(Vec<TcpListener>),
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
            Self::Tcp(listeners) => {
                let (stream, peer) = std::future::poll_fn(|cx| {
                    let mut polled = listeners.iter().map(|listener| listener.poll_accept(cx));
                    polled.find(Poll::is_ready).unwrap_or(Poll::Pending)
                })
                .await?;
                Ok((stream, canonical(peer)))
            }
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

/// The end that is ours, in the one spelling that an address has.
pub(crate) fn local(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.local_addr().map(canonical)
}

/// The other end, likewise.
pub(crate) fn remote(stream: &TcpStream) -> Option<SocketAddr> {
    stream.peer_addr().map(canonical).ok()
}

/// Connects, to whichever address of a name answers first.
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
            let stream = dial::connect(host, *port).await?;
            stream.set_nodelay(true)?;
            socket2::SockRef::from(&stream).set_tcp_keepalive(&sockets::keepalive())?;
            Ok(stream)
        }
        Address::Unix(path) => as_tcp(UnixStream::connect(path).await?),
        Address::Abstract(name) => as_tcp(UnixStream::connect(format!("\0{name}")).await?),
        Address::Systemd(_) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "systemd: is only for listening"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_listened_on_at_each_of_its_addresses() {
        let found: Vec<SocketAddr> = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:0", "192.0.2.1:0"]
            .map(|addr| addr.parse().unwrap())
            .into();
        let sockets = all_bound(&found).unwrap();
        let listening = Listening::of(sockets, false, None);
        let addrs = listening.local_addrs();
        assert_eq!(addrs.len(), 2, "each once, and what this host does not have is left out");
        let accepting = listening.accepting().unwrap();
        for addr in &addrs {
            assert_eq!(addr.port(), addrs[0].port());
            let caller = TcpStream::connect(addr).await.unwrap();
            let (_, peer) = accepting.accept().await.unwrap();
            assert_eq!(peer, caller.local_addr().unwrap());
        }
        let again = Listening::adopt_all(listening.duplicates().unwrap()).unwrap();
        assert_eq!(again.local_addrs(), addrs);
        let taken = [SocketAddr::from(([127, 0, 0, 3], addrs[0].port())), addrs[1]];
        assert!(all_bound(&taken).is_err(), "an address that somebody has is not left out");
        assert!(all_bound(&found[3..]).is_err());
    }

    /// As `localhost` is on most hosts: both families of one interface, in either order.
    #[tokio::test]
    async fn a_name_of_both_families_is_listened_on_at_both() {
        let here = std::net::TcpListener::bind("[::1]:0").is_ok();
        for found in [["127.0.0.1:0", "[::1]:0"], ["[::1]:0", "127.0.0.1:0"]] {
            let found = found.map(|addr| addr.parse().unwrap());
            let listening = Listening::of(all_bound(&found).unwrap(), false, None);
            let addrs = listening.local_addrs();
            assert_eq!(addrs.len(), if here { 2 } else { 1 }, "{addrs:?}");
            let accepting = listening.accepting().unwrap();
            for addr in &addrs {
                assert_eq!(addr.port(), addrs[0].port());
                let caller = TcpStream::connect(addr).await.unwrap();
                let (socket, peer) = accepting.accept().await.unwrap();
                assert_eq!(peer, caller.local_addr().unwrap());
                assert_eq!((peer.is_ipv4(), local(&socket).unwrap()), (addr.is_ipv4(), *addr));
            }
        }
    }

    #[tokio::test]
    async fn a_caller_by_ipv4_is_one_on_a_socket_for_both() {
        let listening = Listening::open(&":0".parse().unwrap(), "").unwrap();
        let port = listening.local_addrs()[0].port();
        let accepting = listening.accepting().unwrap();
        let caller = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (socket, peer) = accepting.accept().await.unwrap();
        assert_eq!(peer, caller.local_addr().unwrap());
        assert_eq!(local(&socket).unwrap(), caller.peer_addr().unwrap());
        assert_eq!(remote(&socket).unwrap(), peer);
    }
}

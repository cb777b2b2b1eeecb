//! TCP sockets inside pods: marked, so that the capture rules leave them alone
//! (istio-ambient facts §1, §2).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    io::Interest,
    net::{TcpSocket, TcpStream},
};

use super::{descriptors::of_traffic, netns::Netns, reuseport};

/// The packet mark of every socket of ours (1337).
pub const MARK: u32 = 0x539;

/// How many connections may wait to be accepted, per listener; the kernel lowers it to `somaxconn`.
const BACKLOG: i32 = 4096;

/// A listening socket inside `netns`, shared with other workers by `SO_REUSEPORT`. An IPv6
/// wildcard takes IPv4 too, and becomes an IPv4 wildcard where there is no IPv6.
///
/// # Errors
/// Names the address and what is missing.
pub fn listen(netns: &Netns, addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let opened = netns.run(|| match open_listener(addr) {
        Err(_) if addr.ip() == Ipv6Addr::UNSPECIFIED => {
            open_listener(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port()))
        }
        opened => opened,
    })?;
    opened.map_err(|e| {
        let why = match e.kind() {
            io::ErrorKind::PermissionDenied => "permission denied; it needs CAP_NET_ADMIN".into(),
            io::ErrorKind::AddrInUse => {
                "another process is listening there; is another proxy attached to this pod?".into()
            }
            _ => e.to_string(),
        };
        io::Error::new(e.kind(), format!("cannot listen on {addr}: {why}"))
    })
}

/// A listening socket that another process has opened so.
///
/// # Errors
/// If it does not listen.
pub fn adopted(socket: OwnedFd) -> io::Result<std::net::TcpListener> {
    let socket = Socket::from(socket);
    if !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket is not listening"));
    }
    to_be_inherited(&socket)?;
    Ok(socket.into())
}

/// What an accepted socket has from the listening one (tcp(7)), which saves five calls each time.
///
/// # Errors
/// As setsockopt(2).
pub fn to_be_inherited(listener: &Socket) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    listener.set_tcp_keepalive(&keepalive())
}

/// Accepts a connection that waits already, at a listening socket that does not block; none if there
/// is none, or it cannot be accepted. Needs the runtime.
pub fn accept_queued(listener: &impl AsFd) -> Option<(TcpStream, SocketAddr)> {
    let (socket, peer) = loop {
        match SockRef::from(listener).accept() {
            // Of one that waited, and is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            accepted => break accepted.ok()?,
        }
    };
    socket.set_nonblocking(true).ok()?;
    Some((TcpStream::from_std(socket.into()).ok()?, peer.as_socket()?))
}

/// A listening socket, of TCP and of whichever families its address has; `prepare` is asked before
/// it is bound.
///
/// # Errors
/// As socket(2), bind(2) and listen(2), and those of `prepare`.
pub fn listener(
    addr: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
    to_be_inherited(&socket)?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    prepare(&socket)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn open_listener(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let marked = |socket: &Socket| {
        socket.set_reuse_port(true)?;
        socket.set_mark(MARK)?;
        transparent(socket);
        Ok(())
    };
    let listener = listener(addr, marked)?;
    reuseport::keep_queue(&listener);
    Ok(listener.into())
}

/// Best effort: replies to a spoofed connection are accepted from a foreign address.
fn transparent(socket: &Socket) {
    let _ = socket.set_ip_transparent_v4(true);
}

/// Probes by which a peer that is gone is found out. The kernel takes whole seconds, from 1 to
/// 32,767, and from 1 to 127 probes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keepalive {
    /// Whether there are any.
    pub enabled: bool,
    /// After so long without a word a peer is probed …
    pub time: Duration,
    /// … and again after so long without an answer.
    pub interval: Duration,
    /// So many probes without an answer end a connection.
    pub retries: u32,
}

impl Default for Keepalive {
    /// A dead peer is noticed after 60 s and 5 × 60 s.
    fn default() -> Self {
        let every = Duration::from_secs(60);
        Self { enabled: true, time: every, interval: every, retries: 5 }
    }
}

impl Keepalive {
    /// Has a socket of ours that was opened with the usual ones probe so, and what it accepts.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn set_on(&self, socket: &impl AsFd) -> io::Result<()> {
        if *self == Self::default() {
            return Ok(());
        }
        let socket = SockRef::from(socket);
        match self.enabled {
            true => socket.set_tcp_keepalive(&self.params()),
            false => socket.set_keepalive(false),
        }
    }

    fn params(&self) -> TcpKeepalive {
        let times = TcpKeepalive::new().with_time(self.time).with_interval(self.interval);
        times.with_retries(self.retries)
    }
}

/// The usual probes.
#[must_use]
pub fn keepalive() -> TcpKeepalive {
    Keepalive::default().params()
}

/// A socket inside `netns`, ready to be connected to `towards`.
///
/// # Errors
/// No descriptors, or no right to set the mark.
pub fn outbound_socket(netns: &Netns, towards: SocketAddr) -> io::Result<Socket> {
    let socket = local_socket(netns, towards)?;
    socket.set_tcp_keepalive(&keepalive())?;
    Ok(socket)
}

/// A socket in our own namespace, without a mark: nothing is captured there.
///
/// # Errors
/// No descriptors; the last of them are not for traffic.
pub fn plain_socket(towards: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(towards), kind, Some(Protocol::TCP))?;
    let socket = of_traffic(socket)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    Ok(socket)
}

/// A marked socket towards an application on this very host, whose kernel tells of its end.
///
/// # Errors
/// As [`outbound_socket`]; the last descriptors are not for traffic.
pub fn local_socket(netns: &Netns, towards: SocketAddr) -> io::Result<Socket> {
    netns.run(|| {
        let kind = Type::STREAM.nonblocking();
        let socket = Socket::new(Domain::for_address(towards), kind, Some(Protocol::TCP))?;
        let socket = of_traffic(socket)?;
        socket.set_tcp_nodelay(true)?;
        socket
            .set_mark(MARK)
            .map_err(|e| io::Error::new(e.kind(), format!("SO_MARK: {e} (needs CAP_NET_ADMIN)")))?;
        Ok(socket)
    })?
}

/// Makes `socket` speak from `client`'s address, any port.
///
/// # Errors
/// If the kernel does not allow it.
pub fn spoof(socket: &Socket, client: IpAddr) -> io::Result<()> {
    match client {
        IpAddr::V4(_) => {
            socket.set_ip_transparent_v4(true)?; // which implies IP_FREEBIND
        }
        IpAddr::V6(_) => {
            socket.set_ip_transparent_v6(true)?;
        }
    }
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(client, 0).into())
}

/// Connects within a limit; [`io::ErrorKind::TimedOut`] when it passes.
///
/// # Errors
/// What TCP said.
///
/// # Cancel safety
/// Dropping the future closes the socket.
pub async fn connect(socket: Socket, to: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(OwnedFd::from(socket).into());
    match tokio::time::timeout(within, socket.connect(to)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer in {}", humantime::format_duration(within)),
        )),
    }
}

/// What lies in the socket at this moment, without waiting: at most 4 KiB, perhaps nothing.
/// An end or an error shows in the next read.
#[must_use]
pub fn read_now(socket: &TcpStream) -> Vec<u8> {
    use nix::sys::socket::{MsgFlags, recv};
    let mut buffer = [0; 4096];
    let read = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).unwrap_or(0);
    buffer[..read].to_vec()
}

/// Looks at what lies in the socket, and leaves it there; does not wait.
///
/// # Errors
/// As recv(2): that there is nothing, or what became of the connection.
pub fn peek(socket: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    use nix::sys::socket::{MsgFlags, recv};
    Ok(recv(socket.as_raw_fd(), into, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?)
}

/// Has tokio forget a readiness that has been used up, as if a call had said so: the next one
/// that the kernel tells is a new one. Only on the thread whose poller owns the socket.
pub fn not_ready(socket: &TcpStream, interest: Interest) {
    let would_block = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    let _ = socket.try_io(interest, would_block);
}

/// How many bytes a socket would take without waiting: its send buffer without what lies in
/// it, less an eighth for the kernel's own overhead with large writes.
#[must_use]
pub fn send_room(socket: &TcpStream) -> usize {
    let size = SockRef::from(socket).send_buffer_size().unwrap_or(0);
    (size - size / 8).saturating_sub(unacknowledged(socket))
}

/// What of the send buffer the other end has not acknowledged yet (SIOCOUTQ, tcp(7)).
#[allow(unsafe_code, reason = "an ioctl that no crate of ours wraps")]
#[must_use]
pub fn unacknowledged(socket: &TcpStream) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (TIOCOUTQ) writes one int to the pointer, which is valid for it, and
    // the descriptor is open while `socket` is borrowed.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done == 0 { usize::try_from(bytes).unwrap_or(0) } else { usize::MAX }
}

/// Where the connection was going before it was redirected; its local address if it was not.
///
/// # Errors
/// If the socket is already gone.
pub fn original_dst(socket: &TcpStream) -> io::Result<SocketAddr> {
    let raw = SockRef::from(socket);
    let asked = raw.original_dst_v4().or_else(|_| raw.original_dst_v6());
    match asked.ok().and_then(|a| a.as_socket()) {
        Some(dst) => Ok(canonical(dst)),
        None => socket.local_addr().map(canonical),
    }
}

/// An IPv4 address that came through an IPv6 socket, as what it is.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever opened the listener: we, or another process that we took it over from.
    #[test]
    fn what_is_accepted_notices_a_dead_peer_and_sends_at_once() {
        let ours = listener("127.0.0.1:0".parse().unwrap(), |_| Ok(())).unwrap();
        let theirs = Socket::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let taken_over = Socket::from(adopted(theirs.into()).unwrap());
        for listener in [ours, taken_over] {
            listener.set_nonblocking(false).unwrap();
            let addr = listener.local_addr().unwrap().as_socket().unwrap();
            let _caller = std::net::TcpStream::connect(addr).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let minute = Duration::from_secs(60);
            assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
            assert_eq!(accepted.tcp_keepalive_time().unwrap(), minute);
            assert_eq!(accepted.tcp_keepalive_interval().unwrap(), minute);
            assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 5);
        }
    }

    #[test]
    fn what_a_listener_accepts_probes_as_it_is_told_or_not_at_all() {
        let seconds = Duration::from_secs;
        let told = Keepalive { time: seconds(7), interval: seconds(3), ..Keepalive::default() };
        for told in [told, Keepalive { enabled: false, ..told }] {
            let listener = listener("127.0.0.1:0".parse().unwrap(), |_| Ok(())).unwrap();
            told.set_on(&listener).unwrap();
            listener.set_nonblocking(false).unwrap();
            let addr = listener.local_addr().unwrap().as_socket().unwrap();
            let _caller = std::net::TcpStream::connect(addr).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(accepted.keepalive().unwrap(), told.enabled);
            if told.enabled {
                assert_eq!(accepted.tcp_keepalive_time().unwrap(), told.time);
                assert_eq!(accepted.tcp_keepalive_interval().unwrap(), told.interval);
            }
        }
    }
}

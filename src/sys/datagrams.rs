//! UDP sockets inside pods, marked as those of TCP are ([`super::sockets`]).

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::{descriptors::of_traffic, netns::Netns, sockets::MARK};

/// A socket that takes datagrams at `addr` inside `netns`, shared by `SO_REUSEPORT`. To be called
/// on the runtime that is to use it.
///
/// # Errors
/// Names the address.
pub fn bound(netns: &Netns, addr: SocketAddr) -> io::Result<UdpSocket> {
    let opened = netns.run(|| {
        let socket = marked(addr)?;
        socket.set_reuse_port(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&addr.into())?;
        Ok(socket)
    })?;
    let named =
        |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {addr} (UDP): {e}"));
    opened.and_then(|socket: Socket| UdpSocket::from_std(socket.into())).map_err(named)
}

/// A socket that speaks to `to` only, from an address inside `netns` that others may listen at. To be
/// called on the runtime that is to use it.
///
/// # Errors
/// The address is taken by another user, or there is no way to `to`.
pub fn answering(netns: &Netns, from: SocketAddr, to: SocketAddr) -> io::Result<UdpSocket> {
    let opened = netns.run(|| {
        let socket = of_traffic(marked(from)?)?;
        socket.set_reuse_port(true)?;
        socket.bind(&from.into())?;
        socket.connect(&to.into())?;
        Ok::<_, io::Error>(socket)
    })??;
    UdpSocket::from_std(opened.into())
}

/// A socket inside `netns` that speaks to `to` only, from a port that the kernel chooses.
///
/// # Errors
/// No route, no right to set the mark, or no descriptors: the last are not for traffic.
pub fn connected(netns: &Netns, to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = netns.run(|| {
        let socket = of_traffic(marked(to)?)?;
        socket.connect(&to.into())?;
        Ok::<_, io::Error>(socket)
    })??;
    UdpSocket::from_std(socket.into())
}

fn marked(addr: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::UDP))?;
    socket
        .set_mark(MARK)
        .map_err(|e| io::Error::new(e.kind(), format!("SO_MARK: {e} (needs CAP_NET_ADMIN)")))?;
    Ok(socket)
}

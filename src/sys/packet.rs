//! Frames as they pass an interface (packet(7)): what a packet capture is made of.

use std::{io, time::Duration};

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::netns::Netns;

/// A socket that receives a copy of every frame of `interface` inside `netns`, whole, with
/// its Ethernet header; reads give up after `patience`.
///
/// # Errors
/// No such interface, or no `CAP_NET_RAW` there.
pub fn tap(netns: &Netns, interface: &str, patience: Duration) -> io::Result<Socket> {
    netns.run(|| {
        let all = u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be();
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(all))))?;
        let index = i32::try_from(if_nametoindex(interface)?).map_err(io::Error::other)?;
        socket.bind(&link_layer(all, index))?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_recv_buffer_size(8 << 20)?;
        Ok(socket)
    })?
}

fn link_layer(protocol: u16, index: i32) -> SockAddr {
    let fill = |storage: *mut socket2::SockAddrStorage, len: *mut libc::socklen_t| {
        let address = storage.cast::<libc::sockaddr_ll>();
        // SAFETY: the storage is zeroed, large enough and aligned for any socket address, as
        // `try_init` promises; all-zero is a valid sockaddr_ll; both pointers are ours alone.
        unsafe {
            (*address).sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(17);
            (*address).sll_protocol = protocol;
            (*address).sll_ifindex = index;
            *len = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(20);
        }
        Ok(())
    };
    // SAFETY: `fill` writes a whole sockaddr_ll and its length.
    match unsafe { SockAddr::try_init(fill) } {
        Ok(((), address)) => address,
        Err(_) => unreachable!("fill does not fail"),
    }
}

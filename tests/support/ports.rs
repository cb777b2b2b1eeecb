//! Ports for who must be told of one before it listens.
//!
//! A port that `bind` to port 0 gave and that was let go again is soon somebody else's: the
//! kernel hands it to whoever next connects or asks for any. These come from below the range
//! that it hands out, and one process of tests never gets one of them twice.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

const FIRST: u16 = 10_000;
/// Where Linux' `net.ipv4.ip_local_port_range` begins.
const END: u16 = 32_768;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// An address of 127.0.0.1 that nobody listens at, and nobody will unasked.
pub(crate) fn free() -> SocketAddr {
    let ports = usize::from(END - FIRST);
    // Other processes of tests, if they run beside this one, begin elsewhere.
    let begin = std::process::id() as usize * 97;
    for _ in 0..ports {
        let port = (begin + usize::from(NEXT.fetch_add(1, Relaxed))) % ports;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + u16::try_from(port).unwrap()));
        if TcpListener::bind(at).is_ok() {
            return at;
        }
    }
    panic!("no port below {END} is free");
}

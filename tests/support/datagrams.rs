//! Datagrams between namespaces.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use adit::sys::netns::Netns;
use nix::sys::socket::{setsockopt, sockopt};

use crate::wait::again;

/// How long an answer takes at most, where there is one.
const ANSWERED_WITHIN: Duration = Duration::from_millis(400);

fn bound(netns: &Netns, at: &str) -> UdpSocket {
    let bind = || UdpSocket::bind(at);
    netns.run(bind).expect("namespace entered").unwrap_or_else(|e| panic!("{at}: {e}"))
}

/// An application that sends each datagram back.
pub(crate) fn echo(netns: &Netns, at: &str) {
    let socket = bound(netns, at);
    thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((length, from)) = again(|| socket.recv_from(&mut room)) {
            let _ = socket.send_to(&room[..length], from);
        }
    });
}

/// Whether a datagram is sent back: one is asked for a few times, as any may be lost.
pub(crate) fn are_answered(netns: &Netns, to: &str) -> bool {
    let from = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    (0..3).any(|_| is_answered(netns, from, to))
}

/// Whether one datagram from this address is sent back.
///
/// # Panics
/// If it is refused: then it has arrived.
pub(crate) fn is_answered(netns: &Netns, from: &str, to: &str) -> bool {
    match answer(netns, from, to) {
        Ok(()) => true,
        Err(ErrorKind::ConnectionRefused) => panic!("nobody listens at {to}"),
        Err(_) => false,
    }
}

/// What becomes of one datagram.
pub(crate) fn answer(netns: &Netns, from: &str, to: &str) -> Result<(), ErrorKind> {
    answered(&bound(netns, from), to)
}

/// Whether one datagram that has this mark is sent back.
#[allow(dead_code, reason = "not every binary marks its own")]
pub(crate) fn is_answered_with_mark(netns: &Netns, mark: u32, to: &str) -> bool {
    let socket = bound(netns, "0.0.0.0:0");
    setsockopt(&socket, sockopt::Mark, &mark).expect("marked");
    answered(&socket, to).is_ok()
}

fn answered(socket: &UdpSocket, to: &str) -> Result<(), ErrorKind> {
    let to = to.parse::<SocketAddr>().expect("an address");
    socket.set_read_timeout(Some(ANSWERED_WITHIN)).expect("a limit");
    let asked = socket.connect(to).and_then(|()| socket.send(b"hello"));
    let answered = asked.and_then(|_| again(|| socket.recv(&mut [0; 64])));
    answered.map(drop).map_err(|error| error.kind())
}

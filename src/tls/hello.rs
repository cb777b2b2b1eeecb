//! What a connection begins with, at a port where it may be one protocol, told by ALPN, or anything
//! else: looked at and left in the socket, for whoever serves it. rustls reads the ClientHello; all
//! that is decided here is whether to wait for more of it.

use std::{
    io::{self, ErrorKind},
    ops::RangeInclusive,
    time::Duration,
};

use rustls::server::Acceptor;
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::sys::sockets;

/// What a connection is, by its first bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Beginning {
    /// Plaintext, a ClientHello that does not offer the protocol, or nothing.
    Other,
    /// A ClientHello that offers it.
    Offered,
    /// What may become one.
    Unfinished,
}

/// One connection's first bytes.
pub struct ClientHelloPeek<'a> {
    tcp: &'a TcpStream,
    hello: Hello,
    /// Whether the other end will say no more.
    ended: bool,
}

impl<'a> ClientHelloPeek<'a> {
    /// Of a connection that may offer `protocol`; nothing has been looked at yet.
    #[must_use]
    pub fn of(tcp: &'a TcpStream, protocol: &'static [u8]) -> Self {
        Self { tcp, hello: Hello::of(protocol), ended: false }
    }

    /// Classifies the connection by its first bytes. A client that sends nothing for `silence`
    /// waits for the server to speak first, so it does not speak TLS.
    ///
    /// # Errors
    /// What became of the connection.
    ///
    /// # Cancel safety
    /// Nothing is taken from the socket.
    pub async fn begun(&mut self, silence: Duration) -> io::Result<Beginning> {
        timeout(silence, self.more()).await.unwrap_or(Ok(Beginning::Other))
    }

    /// Waits for the rest of what may be a ClientHello, for as long as it takes: the deadline is the
    /// caller's.
    ///
    /// # Errors
    /// What became of the connection.
    ///
    /// # Cancel safety
    /// Nothing is taken from the socket.
    pub async fn finished(&mut self) -> io::Result<Beginning> {
        let mut pause = FIRST_PAUSE;
        loop {
            // Who sends byte by byte has few looks for it.
            sleep(pause).await;
            pause = (2 * pause).min(LAST_PAUSE);
            match self.more().await? {
                Beginning::Unfinished => {}
                known => return Ok(known),
            }
        }
    }

    /// Waits until more has come than was looked at, or the end.
    async fn more(&mut self) -> io::Result<Beginning> {
        let mut bytes = Vec::new();
        loop {
            let ready = self.tcp.ready(Interest::READABLE).await?;
            // A silent caller takes no memory. A peek fills the room; the next has more of it.
            bytes.resize((self.hello.seen + ROOM).min(MOST), 0);
            self.ended |= ready.is_read_closed();
            let seen = self.hello.seen;
            let looked = self.tcp.try_io(Interest::READABLE, || {
                match sockets::peek(self.tcp, &mut bytes)? {
                    // Nothing new: the poller tells of the next bytes, though these stay.
                    n if n == seen && !self.ended => Err(ErrorKind::WouldBlock.into()),
                    n => Ok(n),
                }
            });
            let all = match looked {
                Ok(n) => &bytes[..n],
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.ended => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            return Ok(match self.hello.hears(all) {
                Beginning::Unfinished if self.ended || all.is_empty() => Beginning::Other,
                known => known,
            });
        }
    }
}

/// No ClientHello that is waited for is longer than one record of the longest.
const MOST: usize = 5 + (1 << 14);
/// Room for what has come since the last look.
const ROOM: usize = 2 << 10;
/// Between two looks …
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// … at a ClientHello that comes slowly.
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// A ClientHello that comes in pieces.
struct Hello {
    protocol: &'static [u8],
    acceptor: Acceptor,
    /// How many bytes it has.
    seen: usize,
}

impl Hello {
    fn of(protocol: &'static [u8]) -> Self {
        Self { protocol, acceptor: Acceptor::default(), seen: 0 }
    }

    /// What all that has come says; more than the last time, or the same.
    fn hears(&mut self, all: &[u8]) -> Beginning {
        if !may_be_hello(all) {
            return Beginning::Other;
        }
        let mut new = &all[self.seen.min(all.len())..];
        self.seen = all.len();
        while !new.is_empty() {
            if !self.acceptor.read_tls(&mut new).is_ok_and(|read| read > 0) {
                return Beginning::Other;
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let mut offered = hello.alpn().into_iter().flatten();
                    let is_it = offered.any(|name| name == self.protocol);
                    return if is_it { Beginning::Offered } else { Beginning::Other };
                }
                Err(_) => return Beginning::Other,
            }
        }
        if all.len() < MOST { Beginning::Unfinished } else { Beginning::Other }
    }
}

/// What each byte of a ClientHello's beginning may be (RFC 8446 §5.1, §4): the kind of record, its
/// version, its length, the kind of message.
const HELLO: [RangeInclusive<u8>; 6] = [22..=22, 3..=3, 0..=4, 0..=64, 0..=255, 1..=1];

fn may_be_hello(bytes: &[u8]) -> bool {
    bytes.iter().zip(HELLO).all(|(byte, may)| may.contains(byte))
}

#[cfg(test)]
mod tests; // src/tls/hello/tests.rs

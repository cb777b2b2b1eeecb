//! When an application's connection takes the sockmap redirect (see [`crate::sys::sockmap`]): once
//! it has shown that it talks in small messages, until one side has said its last word.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use crate::sys::sockmap::{self, Pair, Watched};

/// After how many small messages: joining two sockets takes seven system calls.
const AFTER: u8 = 8;

/// The sockmap redirect of one connection, taken or not.
pub struct SockmapRedirect {
    watched: Arc<Watched>,
    /// What the application takes for its own other end.
    remote: SocketAddr,
    messages: u8,
    pair: Option<Pair>,
    /// What the application sends may lie in either of two queues.
    two_queues: bool,
}

impl SockmapRedirect {
    /// For an application that is in `watched`; `remote` is the peer's address on its socket.
    #[must_use]
    pub fn new(watched: Arc<Watched>, remote: SocketAddr) -> Self {
        Self { watched, remote, messages: 0, pair: None, two_queues: false }
    }

    /// The application has sent a small message to `socket`. `true`: it takes the sockmap redirect
    /// now, or did, so that there are two queues to read.
    pub(super) fn message(&mut self, socket: &TcpStream) -> bool {
        self.messages = self.messages.saturating_add(1);
        if self.messages == AFTER {
            let local = socket.peer_addr();
            let joined = local.and_then(|local| self.watched.pair(socket, (local, self.remote)));
            match joined {
                Ok(pair) => (self.two_queues, self.pair) = (pair.is_some(), pair),
                Err(error) => tracing::debug!(
                    %error,
                    "sockmap redirect to the application is not possible"
                ),
            }
        }
        self.two_queues
    }

    /// One direction has ended: the rest goes by TCP, which keeps the kernel's connection
    /// tracking alive (it forgets a half-closed connection after a minute of silence).
    pub(super) fn end(&mut self) {
        self.messages = self.messages.max(AFTER);
        if let Some(Err(error)) = self.pair.as_ref().map(Pair::last) {
            tracing::debug!(
                %error,
                "sockmap redirect is not possible; connecting to the application by TCP"
            );
            self.pair = None;
        }
    }

    /// Whether this error of a write says no more than that the application must read first.
    pub(super) fn must_wait(&self, socket: &TcpStream, error: &io::Error) -> bool {
        self.pair.is_some() && sockmap::must_wait(socket, error)
    }
}

//! No sockmap redirect: this build is without the cargo feature `sockmap`, and a configuration that
//! asks for it is refused. Nothing of these types exists.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use super::netns::Netns;

/// The programs and maps.
pub enum Sockmap {}

/// A namespace whose applications take the sockmap redirect.
pub enum Watched {}

/// Two sockets that take the sockmap redirect.
pub enum Pair {}

impl Sockmap {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn load(_: u16) -> io::Result<Arc<Self>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Of a namespace.
    ///
    /// # Errors
    /// Never: there is nothing to ask.
    pub fn watch(self: &Arc<Self>, _: &Netns) -> io::Result<Watched> {
        match **self {}
    }
}

impl Watched {
    /// Of two sockets.
    ///
    /// # Errors
    /// Never: there is nothing to ask.
    pub fn pair(&self, _: &TcpStream, _: (SocketAddr, SocketAddr)) -> io::Result<Option<Pair>> {
        match *self {}
    }
}

impl Pair {
    /// Both sides go TCP from now on.
    ///
    /// # Errors
    /// Never: there is nothing to ask.
    pub fn last(&self) -> io::Result<()> {
        match *self {}
    }
}

/// Whether a write was refused, not failed: by TCP alone none is.
#[must_use]
pub fn must_wait(_: &TcpStream, _: &io::Error) -> bool {
    false
}

//! A TCP socket as [`Source`] and [`Sink`].
//!
//! The read buffer exists only while bytes are on their way, so an idle connection costs
//! none, and it grows with what the socket yields.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::{io::Interest, net::TcpStream};

use super::{Sink, Source};

const SMALLEST: usize = 4 * 1024;
const LARGEST: usize = 128 * 1024;

/// Splits a socket into the half that reads and the half that writes.
#[must_use]
pub fn split(socket: TcpStream) -> (TcpSource, TcpSink) {
    let socket = Arc::new(socket);
    let source = TcpSource { socket: Arc::clone(&socket), size: SMALLEST };
    (source, TcpSink { socket, finished: false })
}

/// The reading half.
#[derive(Debug)]
pub struct TcpSource {
    socket: Arc<TcpStream>,
    size: usize,
}

impl Source for TcpSource {
    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            self.socket.readable().await?;
            let mut buffer = BytesMut::with_capacity(self.size);
            match self.socket.try_read_buf(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(n) => {
                    if n >= self.size {
                        self.size = (self.size * 4).min(LARGEST);
                    } else if n < self.size / 8 {
                        self.size = (self.size / 2).max(SMALLEST);
                    }
                    return Ok(Some(buffer.freeze()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// The writing half. Dropped before [`Sink::finish`], it resets the connection: what was cut
/// in the middle must not look complete.
#[derive(Debug)]
pub struct TcpSink {
    socket: Arc<TcpStream>,
    finished: bool,
}

impl Drop for TcpSink {
    fn drop(&mut self) {
        if !self.finished {
            self.abort();
        }
    }
}

impl Sink for TcpSink {
    async fn write(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.socket.try_write(&bytes) {
                Ok(n) => drop(bytes.split_to(n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.socket.writable().await?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.finished = true;
        match socket2::SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Write) {
            // The peer has already reset or closed: its own end is reported by the reads.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    async fn reset(&mut self) -> io::Error {
        loop {
            if let Err(e) = self.socket.ready(Interest::ERROR).await {
                return e;
            }
            match self.socket.take_error() {
                Ok(Some(e)) | Err(e) => return e,
                // Nothing wrong after all (a stale event): forget it and wait on.
                Ok(None) => {
                    let would_block = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    let _ = self.socket.try_io(Interest::ERROR, would_block);
                }
            }
        }
    }

    fn abort(&mut self) {
        let _ = socket2::SockRef::from(&*self.socket).set_linger(Some(std::time::Duration::ZERO));
    }
}

//! Reading and writing with deadlines, and what can go wrong.

use std::{io, net::SocketAddr, time::Duration};

use socket2::SockRef;
use tokio::{net::TcpStream, time::timeout};

/// No wait on the other end is longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What a stream reads and writes at once, in bytes.
pub(super) const BUFFER: usize = 256 * 1024;

/// Why an operation failed.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    /// `connect`, `reset`, `eof`, `timeout` or `corrupt`.
    pub(super) kind: &'static str,
    pub(super) text: String,
}

impl Failed {
    pub(super) fn corrupt(text: String) -> Self {
        Self { kind: "corrupt", text }
    }

    pub(super) fn eof(text: &str) -> Self {
        Self { kind: "eof", text: text.to_owned() }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { kind: "reset", text: error.to_string() }
    }
}

/// Waits for the other end, but not for ever.
pub(super) async fn patiently<T>(
    what: &str,
    work: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let late =
        || Failed { kind: "timeout", text: format!("{what}: no answer within {PATIENCE:?}") };
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(late()))
}

/// Connects, without Nagle's delay.
pub(super) async fn connect(to: SocketAddr) -> Result<TcpStream, Failed> {
    let failed = |e: io::Error| Failed { kind: "connect", text: format!("{to}: {e}") };
    patiently("connect", async {
        let socket = TcpStream::connect(to).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        Ok(socket)
    })
    .await
}

/// Writes some of it.
pub(super) async fn write_some(to: &TcpStream, bytes: &[u8]) -> Result<usize, Failed> {
    // A socket that is always ready must not keep the thread from the others.
    tokio::task::consume_budget().await;
    loop {
        match to.try_write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            wrote => return Ok(wrote?),
        }
    }
}

/// Reads some; 0 at the end.
pub(super) async fn read_some(from: &TcpStream, buffer: &mut [u8]) -> Result<usize, Failed> {
    tokio::task::consume_budget().await;
    loop {
        match from.try_read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => from.readable().await?,
            read => return Ok(read?),
        }
    }
}

/// Writes all of it.
pub(super) async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> Result<(), Failed> {
    while !bytes.is_empty() {
        let n = patiently("write", write_some(to, bytes)).await?;
        bytes = &bytes[n..];
    }
    Ok(())
}

/// Fills the buffer.
pub(super) async fn read_exact(from: &TcpStream, mut buffer: &mut [u8]) -> Result<(), Failed> {
    while !buffer.is_empty() {
        match patiently("read", read_some(from, buffer)).await? {
            0 => return Err(Failed::eof("closed before the answer was complete")),
            n => buffer = &mut buffer[n..],
        }
    }
    Ok(())
}

/// Says that nothing more comes.
pub(super) fn half_close(socket: &TcpStream) -> Result<(), Failed> {
    Ok(SockRef::from(socket).shutdown(std::net::Shutdown::Write)?)
}

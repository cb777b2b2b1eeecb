//! The end of a connection whose peer was told something last.

use std::{io, net::Shutdown, time::Duration};

use socket2::SockRef;
use tokio::{net::TcpStream, time::timeout};

use crate::sys::sockets;

/// How long the peer has to read it.
const WITHIN: Duration = Duration::from_secs(1);
/// So much of what it sends meanwhile is thrown away, bytes.
const MOST: usize = 64 << 10;

/// Ends our side and waits until the peer has ended too, at most for a second and 64 KiB: a socket
/// that is closed while there is something to be read is reset, and what was said last, an alert of
/// TLS for one, is lost with it.
///
/// # Cancel safety
/// Cancel safe; what was said may be lost then.
pub async fn until_heard(tcp: &TcpStream) {
    let _ = SockRef::from(tcp).shutdown(Shutdown::Write);
    let _ = timeout(WITHIN, drained(tcp)).await;
}

async fn drained(tcp: &TcpStream) -> io::Result<()> {
    let (mut room, mut left) = ([0; 4096], MOST);
    while left > 0 {
        tcp.readable().await?;
        match tcp.try_read(&mut room) {
            Ok(0) => return Ok(()),
            Ok(n) => left = left.saturating_sub(n),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Waits until the application's kernel has taken all that was written, at most for
/// `within`, a minute if there is no limit.
///
/// Many TLS peers end without close_notify. Their end is passed on as the reset that it may be,
/// and a reset throws away what the kernel still holds for the plain side: that arrived whole, and
/// goes first, for as long as one side may go on when the other has ended.
///
/// # Cancel safety
/// Cancel safe.
pub async fn until_delivered(app: &TcpStream, within: Option<Duration>) {
    let all_taken = async {
        let mut pause = Duration::from_millis(1);
        while sockets::unacknowledged(app) > 0 {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(64));
        }
    };
    let _ = timeout(within.unwrap_or(Duration::from_secs(60)), all_taken).await;
}

//! A question that the mesh does not answer, asked of the name servers: from the pod's own
//! namespace, under a number and from a port of its own, and given back as it was answered,
//! whatever is in it.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
    time::{timeout, timeout_at},
};

use super::message::Question;
use crate::sys::{
    datagrams,
    netns::Netns,
    sockets::{self, outbound_socket},
};

/// From the first question to the last answer.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// How long each attempt may take; the last takes what is left.
const ATTEMPTS: [Duration; 4] = [
    Duration::from_millis(800),
    Duration::from_millis(1200),
    Duration::from_millis(1500),
    DEADLINE,
];
/// Larger answers come by TCP.
const DATAGRAM: usize = 4096;
/// Datagrams that answer something else, or were made up, before an attempt counts as failed.
const FOREIGN: usize = 16;

/// Why nobody has answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    /// There is no name server.
    #[error("resolv.conf has no name servers")]
    NoServer,
    /// The question cannot be written again.
    #[error("the query cannot be forwarded")]
    Question,
    /// All have been asked.
    #[error("no answer within {DEADLINE:?}; last asked: {server}")]
    Server {
        /// The last of them.
        server: SocketAddr,
        /// What came of it.
        source: io::Error,
    },
}

/// Asks one name server after the other until one knows; the failure of a server (SERVFAIL,
/// REFUSED) is the answer only if all others fail too.
pub(super) async fn ask(
    netns: &Netns,
    servers: &[SocketAddr],
    question: &Question,
    by_tcp: bool,
) -> Result<Vec<u8>, ForwardError> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let begun = Instant::now();
    let mut failing: Option<Vec<u8>> = None;
    let mut last = Err(ForwardError::NoServer);
    for (attempt, within) in ATTEMPTS.into_iter().enumerate() {
        let Some(&server) = servers.get(attempt % servers.len().max(1)) else { break };
        if begun.elapsed() >= DEADLINE || failing.is_some() && attempt >= servers.len() {
            break;
        }
        let query = question.with_id(rand::random()).map_err(|_| ForwardError::Question)?;
        let ends = deadline.min(tokio::time::Instant::now() + within);
        let asked = timeout_at(ends, exchange(netns, server, &query, by_tcp)).await;
        match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(answer) if has_failed(&answer) => failing = Some(answer),
            Ok(answer) => return Ok(answer),
            Err(source) => {
                // A refusal that took no time is not asked for again at once.
                last = Err(ForwardError::Server { server, source });
                if attempt + 1 >= servers.len() {
                    tokio::time::sleep_until(ends.min(tokio::time::Instant::now() + PAUSE)).await;
                }
            }
        }
    }
    failing.map_or(last, Ok)
}

const PAUSE: Duration = Duration::from_millis(100);

async fn exchange(
    netns: &Netns,
    server: SocketAddr,
    query: &[u8],
    by_tcp: bool,
) -> io::Result<Vec<u8>> {
    if by_tcp {
        return over_tcp(netns, server, query).await;
    }
    let answer = over_udp(netns, server, query).await?;
    let cut_short = answer.len() >= DATAGRAM || answer[2] & 0x02 != 0;
    if !cut_short {
        return Ok(answer);
    }
    // What was cut short is better than nothing, if it is whole as far as it goes.
    match over_tcp(netns, server, query).await {
        Ok(whole) => Ok(whole),
        Err(_) if answer.len() < DATAGRAM => Ok(answer),
        Err(error) => Err(error),
    }
}

async fn over_udp(netns: &Netns, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket: UdpSocket = datagrams::connected(netns, server)?;
    socket.send(query).await?;
    let mut buffer = vec![0; DATAGRAM];
    for _ in 0..FOREIGN {
        let length = socket.recv(&mut buffer).await?;
        if answers(&buffer[..length], query) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the answers do not match the query"))
}

/// RFC 7766: each message after its length.
async fn over_tcp(netns: &Netns, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = outbound_socket(netns, server)?;
    let mut stream = sockets::connect(socket, server, DEADLINE).await?;
    stream.write_all(&framed(query)?).await?;
    let answer = timeout(DEADLINE, read_framed(&mut stream)).await??;
    match answers(&answer, query) {
        true => Ok(answer),
        false => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the answer does not match the query"))
        }
    }
}

/// A message after its length.
///
/// # Errors
/// If it is longer than a length can say.
pub(super) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "longer than 65535 bytes"))?;
    Ok([&length.to_be_bytes()[..], message].concat())
}

/// The next message.
///
/// # Errors
/// If the other end has gone in the midst of it.
pub(super) async fn read_framed<R: AsyncRead + Unpin>(stream: &mut R) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Whether it is the answer to this very query: its number, and its question but for upper and
/// lower case. Who cannot read a question may leave it out.
fn answers(answer: &[u8], query: &[u8]) -> bool {
    const HEADER: usize = 12;
    let Some(question) = question(query) else { return false };
    let Some(head) = answer.get(..HEADER) else { return false };
    if head[..2] != query[..2] || head[2] & 0x80 == 0 || head[2] & 0x78 != query[2] & 0x78 {
        return false;
    }
    match [head[4], head[5]] {
        [0, 0] => head[3] & 0x0f != 0,
        [0, 1] => answer
            .get(HEADER..HEADER + question.len())
            .is_some_and(|theirs| theirs.eq_ignore_ascii_case(question)),
        _ => false,
    }
}

/// The question of a query that we wrote: name, type, class.
fn question(query: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    loop {
        match usize::from(*query.get(at)?) {
            0 => return query.get(12..at + 5),
            length @ 1..=63 => at += 1 + length,
            _ => return None,
        }
    }
}

/// SERVFAIL, NOTIMP or REFUSED: another server may do better.
fn has_failed(answer: &[u8]) -> bool {
    matches!(answer.get(3).map(|code| code & 0x0f), Some(2 | 4 | 5))
}

#[cfg(test)]
mod tests;

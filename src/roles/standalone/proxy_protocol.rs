//! Who really connects, said in front of the bytes: the PROXY protocol, versions 1 and 2
//! (haproxy.org/download/3.0/doc/proxy-protocol.txt), towards targets and from balancers.

use std::{io, net::SocketAddr, os::fd::AsRawFd as _, str::FromStr};

use nix::sys::socket::{MsgFlags, recv};
use ppp::{HeaderResult, PartialResult as _, v1, v2};
use tokio::{io::Interest, net::TcpStream};

use crate::{identity::PeerCert, net::UNIX_PEER, observe::conn::TlsFacts, sys::sockets};

/// What the header tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyMode {
    /// Version 1: addresses, as text.
    V1,
    /// Version 2: addresses, and the SPIFFE ID if there is one.
    Conn,
    /// And what TLS agreed on: ALPN, the name asked for, the version.
    Tls,
    /// And the client's common name and certificate.
    TlsFull,
}

impl FromStr for ProxyMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "v1" => Ok(Self::V1),
            "conn" => Ok(Self::Conn),
            "tls" => Ok(Self::Tls),
            "tls-full" => Ok(Self::TlsFull),
            other => Err(format!("{other:?}: must be conn, tls, tls-full or v1")),
        }
    }
}

/// Types of TLVs (§2.2).
const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
/// HAProxy's PP2_SUBTYPE_SSL_CLIENT_CERT.
const SSL_CLIENT_CERT: u8 = 0x28;
/// The peer's SPIFFE ID, as ztunnel and others send it.
const SPIFFE_ID: u8 = 0xD0;
/// PP2_CLIENT_SSL, _CERT_CONN, _CERT_SESS (§2.2.5).
const OVER_TLS: u8 = 0x01;
const WITH_CERTIFICATE: u8 = 0x02 | 0x04;

/// What a header is made of.
#[derive(Clone, Debug)]
pub(super) struct Told<'a> {
    /// Who connected.
    pub(super) from: SocketAddr,
    /// Where to.
    pub(super) to: SocketAddr,
    /// What TLS agreed on.
    pub(super) tls: Option<&'a TlsFacts>,
    /// The protocol that ALPN chose.
    pub(super) alpn: Option<&'a [u8]>,
    /// The name that the client asked for.
    pub(super) authority: Option<&'a str>,
    /// The client's certificate.
    pub(super) peer: Option<&'a PeerCert>,
}

/// The header to send before anything else. Peers on Unix sockets have no address: `UNKNOWN` in
/// version 1, `LOCAL` in version 2.
///
/// # Errors
/// If it were longer than a header may be.
pub(super) fn header(mode: ProxyMode, told: &Told<'_>) -> io::Result<Vec<u8>> {
    let known = told.from != UNIX_PEER;
    if mode == ProxyMode::V1 {
        let (from, to) = alike(told);
        let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
        return Ok(match known {
            false => b"PROXY UNKNOWN\r\n".to_vec(),
            true => format!(
                "PROXY {family} {} {} {} {}\r\n",
                from.ip(),
                to.ip(),
                from.port(),
                to.port()
            )
            .into_bytes(),
        });
    }
    let builder = match known {
        true => v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            alike(told),
        ),
        false => v2::Builder::new(v2::Version::Two | v2::Command::Local, 0),
    };
    let mut builder = builder;
    let full = mode == ProxyMode::TlsFull;
    if matches!(mode, ProxyMode::Tls | ProxyMode::TlsFull) {
        for (kind, value) in [(ALPN, told.alpn), (AUTHORITY, told.authority.map(str::as_bytes))] {
            if let Some(value) = value {
                builder = builder.write_tlv(kind, value)?;
            }
        }
        if let Some(tls) = told.tls {
            builder = builder.write_tlv(SSL, &ssl(tls, told.peer.filter(|_| full)))?;
        }
    }
    if let Some(id) = told.peer.and_then(|peer| peer.id.as_ref()) {
        builder = builder.write_tlv(SPIFFE_ID, id.as_str().as_bytes())?;
    }
    builder.build()
}

/// Both addresses of one family.
fn alike(told: &Told<'_>) -> (SocketAddr, SocketAddr) {
    let (from, to) = (sockets::canonical(told.from), sockets::canonical(told.to));
    match (from, to) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => {
            (from, to)
        }
        (SocketAddr::V4(_), SocketAddr::V6(_)) => {
            (from, SocketAddr::new([0, 0, 0, 0].into(), to.port()))
        }
        (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
            (from, SocketAddr::new(v4.ip().to_ipv6_mapped().into(), to.port()))
        }
    }
}

/// `pp2_tlv_ssl`: client, verify, and sub-TLVs (§2.2.5).
fn ssl(tls: &TlsFacts, peer: Option<&PeerCert>) -> Vec<u8> {
    let client = OVER_TLS | if peer.is_some() { WITH_CERTIFICATE } else { 0 };
    // verify: 0, as only what verified gets here.
    let mut out = vec![client, 0, 0, 0, 0];
    let mut sub = |kind: u8, value: &[u8]| {
        if let Ok(length) = u16::try_from(value.len()) {
            out.push(kind);
            out.extend(length.to_be_bytes());
            out.extend(value);
        }
    };
    sub(SSL_VERSION, tls.version.as_bytes());
    if let Some(peer) = peer {
        if let Some(cn) = &peer.cn {
            sub(SSL_CN, cn.as_bytes());
        }
        sub(SSL_CLIENT_CERT, &peer.der);
    }
    out
}

/// The header of a connection that carries nobody, as health checks make them: `LOCAL`, or in
/// version 1 `UNKNOWN`.
///
/// # Errors
/// Never: it is short.
pub(super) fn of_nobody(mode: ProxyMode) -> io::Result<Vec<u8>> {
    let told =
        Told { from: UNIX_PEER, to: UNIX_PEER, tls: None, alpn: None, authority: None, peer: None };
    header(mode, &told)
}

/// The longest header that there can be in version 2 (§2.2).
const LONGEST: usize = 16 + 0xffff;
/// How much of it is looked at at once.
const LOOK: usize = 4096;
const V1_PREFIX: &[u8] = b"PROXY ";
/// §2.1.
const V1_LONGEST: usize = 107;

/// Reads the header that must come first, and not a byte behind it: who connects, and where to.
/// `None` if it says that the sender itself connects (a health check).
///
/// # Errors
/// If there is none, or it is malformed; `ConnectionAborted` if the sender ended before it said
/// anything.
///
/// # Cancel safety
/// Not to be read again after it was dropped.
pub(super) async fn read(tcp: &TcpStream) -> io::Result<Ends> {
    let mut have: Vec<u8> = Vec::new();
    loop {
        tcp.readable().await?;
        let mut room = [0; LOOK];
        let peeked = tcp.try_io(Interest::READABLE, || {
            let length = LOOK.min(LONGEST - have.len());
            let room = &mut room[..length];
            Ok(recv(tcp.as_raw_fd(), room, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?)
        });
        let new = match peeked {
            Ok(0) if have.is_empty() => return Err(io::ErrorKind::ConnectionAborted.into()),
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "ended in it")),
            Ok(new) => new,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset && have.is_empty() => {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        };
        let before = have.len();
        have.extend_from_slice(&room[..new]);
        let Some((length, told)) = parse(&have)? else {
            take(tcp, new)?;
            continue;
        };
        take(tcp, length.saturating_sub(before))?;
        return Ok(told);
    }
}

/// What a header says of both ends; `None` where it says that the sender itself connects.
pub type Ends = Option<(SocketAddr, SocketAddr)>;

/// The header at the start of `have`, with its length; `None` if more of it must come first.
///
/// # Errors
/// If what is there begins no header.
pub fn parse(have: &[u8]) -> io::Result<Option<(usize, Ends)>> {
    // The parser takes a line that has not ended for a wrong one.
    let started = have.iter().zip(V1_PREFIX).all(|(is, wanted)| is == wanted);
    if started && have.len() < V1_LONGEST && !have.contains(&b'\n') {
        return Ok(None);
    }
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    match HeaderResult::parse(have) {
        HeaderResult::V1(Ok(header)) => {
            let told = match header.addresses {
                v1::Addresses::Tcp4(a) => Some(ends(
                    (a.source_address, a.source_port),
                    (a.destination_address, a.destination_port),
                )),
                v1::Addresses::Tcp6(a) => Some(ends(
                    (a.source_address, a.source_port),
                    (a.destination_address, a.destination_port),
                )),
                v1::Addresses::Unknown => None,
            };
            Ok(Some((header.header.len(), told)))
        }
        HeaderResult::V2(Ok(header)) => {
            let told = match (header.command, header.addresses) {
                (v2::Command::Local, _) => None,
                (_, v2::Addresses::IPv4(a)) => Some(ends(
                    (a.source_address, a.source_port),
                    (a.destination_address, a.destination_port),
                )),
                (_, v2::Addresses::IPv6(a)) => Some(ends(
                    (a.source_address, a.source_port),
                    (a.destination_address, a.destination_port),
                )),
                _ => None,
            };
            Ok(Some((header.len(), told)))
        }
        // A line that has ended is whole, whatever the parser still hopes for.
        unfinished if unfinished.is_incomplete() && !started && have.len() < LONGEST => Ok(None),
        HeaderResult::V1(Err(e)) => Err(wrong(e.to_string())),
        HeaderResult::V2(Err(e)) => Err(wrong(e.to_string())),
    }
}

/// Both ends, in the one spelling that an address has.
fn ends<A: Into<SocketAddr>>(from: A, to: A) -> (SocketAddr, SocketAddr) {
    (sockets::canonical(from.into()), sockets::canonical(to.into()))
}

/// Takes what was peeked at.
fn take(tcp: &TcpStream, mut bytes: usize) -> io::Result<()> {
    let mut room = [0; 512];
    while bytes > 0 {
        let part = bytes.min(room.len());
        bytes -= recv(tcp.as_raw_fd(), &mut room[..part], MsgFlags::MSG_DONTWAIT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

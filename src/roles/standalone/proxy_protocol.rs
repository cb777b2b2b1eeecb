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
            other => Err(format!("{other:?} is none of conn, tls, tls-full, v1")),
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
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    fn told<'a>(from: &str, to: &str) -> Told<'a> {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Told { from, to, tls: None, alpn: None, authority: None, peer: None }
    }

    #[tokio::test]
    async fn a_header_of_either_version_is_read_to_its_end_and_no_further() {
        for (from, to) in [("10.0.0.1:5", "10.0.0.2:6"), ("[2001:db8::1]:5", "10.0.0.2:6")] {
            for mode in [ProxyMode::V1, ProxyMode::Conn, ProxyMode::TlsFull] {
                let (mut near, mut far) = pair().await;
                let header = header(mode, &told(from, to)).unwrap();
                let reading = async {
                    let from = read(&far).await;
                    let mut rest = String::new();
                    far.read_to_string(&mut rest).await.unwrap();
                    (from, rest)
                };
                // One byte after the other, and the payload close behind the last.
                let writing = async {
                    let (last, first) = header.split_last().unwrap();
                    for byte in first {
                        near.write_all(&[*byte]).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    near.write_all(&[*last, b'h', b'i']).await.unwrap();
                    drop(near);
                };
                let ((read, rest), ()) = tokio::join!(reading, writing);
                let read = read.unwrap().map(|(from, to)| (from.to_string(), to.port()));
                assert_eq!((read, rest.as_str()), (Some((from.to_owned(), 6)), "hi"));
            }
        }
    }

    #[tokio::test]
    async fn addresses_of_a_header_have_one_spelling() {
        for (header, from, to) in [
            ("PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 5 6\r\n", "10.0.0.1:5", "10.0.0.2:6"),
            ("PROXY TCP4 10.0.0.1 10.0.0.2 0 6\r\n", "10.0.0.1:0", "10.0.0.2:6"),
        ] {
            let (mut near, far) = pair().await;
            near.write_all(header.as_bytes()).await.unwrap();
            let ends = (from.parse().unwrap(), to.parse().unwrap());
            assert_eq!(read(&far).await.unwrap(), Some(ends), "{header}");
        }
    }

    #[test]
    fn version_1_says_tcp4_of_ipv4_however_it_came() {
        for (from, to, line) in [
            ("[::ffff:10.0.0.1]:5", "[::ffff:10.0.0.2]:6", "PROXY TCP4 10.0.0.1 10.0.0.2 5 6\r\n"),
            ("10.0.0.1:0", "10.0.0.2:6", "PROXY TCP4 10.0.0.1 10.0.0.2 0 6\r\n"),
            ("0.0.0.0:0", "10.0.0.2:6", "PROXY UNKNOWN\r\n"),
        ] {
            let header = header(ProxyMode::V1, &told(from, to)).unwrap();
            assert_eq!(String::from_utf8(header).unwrap(), line);
        }
    }

    #[tokio::test]
    async fn the_longest_header_that_we_write_is_one_that_we_read() {
        let peer = PeerCert { der: vec![7; 24_000], ..PeerCert::default() };
        let tls =
            TlsFacts { version: "TLSv1.3", group: "X25519", cipher: "x", mutual: true, path: None };
        let mut told = told("10.0.0.1:5", "10.0.0.2:6");
        (told.tls, told.peer) = (Some(&tls), Some(&peer));
        let header = header(ProxyMode::TlsFull, &told).unwrap();
        let (mut near, mut far) = pair().await;
        let writing = async {
            near.write_all(&header).await.unwrap();
            near.write_all(b"hi").await.unwrap();
            drop(near);
        };
        let reading = async {
            let read = read(&far).await.unwrap();
            let mut rest = String::new();
            far.read_to_string(&mut rest).await.unwrap();
            (read, rest)
        };
        let (_, (read, rest)) = tokio::join!(writing, reading);
        assert_eq!((read, rest.as_str()), (Some((told.from, told.to)), "hi"));
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00",
            b"PROXY TCP4 300.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.1\r\n",
            b"PROXY TCP4 ",
            b"",
        ] {
            let (mut near, far) = pair().await;
            near.write_all(bytes).await.unwrap();
            drop(near);
            assert!(read(&far).await.is_err(), "{bytes:?}");
        }
    }

    /// A length that is not what follows it, and words that are not what they stand for.
    #[tokio::test]
    async fn a_header_that_lies_of_its_length_is_refused() {
        let two = |verb: u8, family: u8, says: u16, body: &[u8]| {
            let signature = b"\r\n\r\n\0\r\nQUIT\n";
            [&signature[..], &[verb, family], &says.to_be_bytes(), body].concat()
        };
        let four = [10, 0, 0, 1, 10, 0, 0, 2, 0, 5, 0, 6];
        let one = |line: &str| line.as_bytes().to_vec();
        for (name, bytes) in [
            ("no addresses", two(0x21, 0x11, 0, &[])),
            ("half of them", two(0x21, 0x11, 4, &four)),
            ("a byte too few", two(0x21, 0x11, 11, &four)),
            ("those of IPv4 for IPv6", two(0x21, 0x21, 12, &four)),
            ("a byte too few for IPv6", two(0x21, 0x21, 35, &[0; 36])),
            ("more than comes", two(0x21, 0x11, 13, &four)),
            ("very much more", two(0x21, 0x11, 0xffff, &four)),
            ("nothing comes", two(0x20, 0x00, 1, &[])),
            ("version 1 in 2", two(0x11, 0x11, 12, &four)),
            ("version 3", two(0x31, 0x11, 12, &four)),
            ("another command", two(0x22, 0x11, 12, &four)),
            ("another family", two(0x21, 0x41, 12, &four)),
            ("another protocol", two(0x21, 0x13, 12, &four)),
            ("no end", one(&format!("PROXY TCP4 10.0.0.1 10.0.0.2 5 6{}", " ".repeat(200)))),
            ("a long line", one(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(200)))),
            ("a line feed only", one("PROXY TCP4 10.0.0.1 10.0.0.2 5 6\n")),
            ("a port too large", one("PROXY TCP4 10.0.0.1 10.0.0.2 5 65536\r\n")),
            ("a port below 0", one("PROXY TCP4 10.0.0.1 10.0.0.2 -1 6\r\n")),
            ("one of each", one("PROXY TCP4 10.0.0.1 ::1 5 6\r\n")),
            ("another family", one("PROXY TCP6 10.0.0.1 10.0.0.2 5 6\r\n")),
            ("too many words", one("PROXY TCP4 10.0.0.1 10.0.0.2 5 6 7\r\n")),
            ("small letters", one("proxy TCP4 10.0.0.1 10.0.0.2 5 6\r\n")),
        ] {
            let (mut near, far) = pair().await;
            near.write_all(&bytes).await.unwrap();
            drop(near);
            let told = read(&far).await;
            assert!(told.is_err(), "{name}: {told:?}");
        }
        // What is said of a health check of the sender itself need not be understood.
        let (mut near, far) = pair().await;
        near.write_all(&two(0x20, 0x11, 3, &[1, 2, 3])).await.unwrap();
        let told = read(&far).await;
        assert!(told.is_err() || told.unwrap().is_none());
    }

    #[test]
    fn tls_full_carries_certificate_and_identity() {
        let peer = PeerCert {
            cn: Some("client".into()),
            id: Some("spiffe://td/client".parse().unwrap()),
            der: vec![0x30, 1, 2],
            ..PeerCert::default()
        };
        let tls =
            TlsFacts { version: "TLSv1.3", group: "X25519", cipher: "x", mutual: true, path: None };
        let mut told = told("10.0.0.1:5", "10.0.0.2:6");
        (told.tls, told.peer) = (Some(&tls), Some(&peer));
        (told.alpn, told.authority) = (Some(b"h2".as_slice()), Some("db.example.org"));
        for (mode, client) in [(ProxyMode::Tls, 1), (ProxyMode::TlsFull, 7)] {
            let header = header(mode, &told).unwrap();
            let read = v2::Header::try_from(header.as_slice()).unwrap();
            let tlvs: Vec<_> = read.tlvs().map(Result::unwrap).collect();
            let of = |kind: u8| tlvs.iter().find(|t| t.kind == kind).map(|t| t.value.to_vec());
            assert_eq!(of(ALPN).unwrap(), b"h2");
            assert_eq!(of(AUTHORITY).unwrap(), b"db.example.org");
            assert_eq!(of(SPIFFE_ID).unwrap(), b"spiffe://td/client");
            let ssl = of(SSL).unwrap();
            assert_eq!(ssl[..5], [client, 0, 0, 0, 0]);
            let subs: Vec<_> = v2::TypeLengthValues::from(&ssl[5..]).map(Result::unwrap).collect();
            let kinds: Vec<u8> = subs.iter().map(|t| t.kind).collect();
            match mode {
                ProxyMode::Tls => assert_eq!(kinds, [SSL_VERSION]),
                _ => assert_eq!(kinds, [SSL_VERSION, SSL_CN, SSL_CLIENT_CERT]),
            }
        }
    }
}

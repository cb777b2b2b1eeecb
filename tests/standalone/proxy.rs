//! The PROXY protocol, both ways.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::mpsc::{self, Receiver},
};

use ppp::v2;

use crate::{
    backends::{Backend, dial},
    peers::{Caller, ONLY12, ONLY13},
    pki::Pki,
    process::Adit,
    wait::{LIMIT, wait_until},
};

/// A backend that keeps what it hears first, until the client has ended.
fn keeping() -> (Backend, Receiver<Vec<u8>>) {
    let (told, heard) = mpsc::channel();
    let backend = Backend::start(move |mut socket| {
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        let _ = told.send(all);
    });
    (backend, heard)
}

/// Says `hello` to an adit with these flags: what the backend heard, and who we are.
fn said(pki: &Pki, flags: &str, leaf: bool) -> (Vec<u8>, SocketAddr, SocketAddr) {
    let (backend, heard) = keeping();
    let adit = Adit::start(format!("{} {flags}", pki.server(backend.addr)));
    let caller = Caller::new(&pki.ca, leaf.then_some(&pki.app));
    let mut session = caller.dial(adit.addr).unwrap();
    let own = session.sock.local_addr().unwrap();
    session.write_all(b"hello").unwrap();
    session.end().unwrap();
    (heard.recv().unwrap(), own, adit.addr)
}

/// The header and what follows it.
fn split(all: &[u8]) -> (v2::Header<'_>, &[u8]) {
    let header = v2::Header::try_from(all).unwrap();
    let length = header.len();
    (header, &all[length..])
}

fn tlv(header: &v2::Header<'_>, kind: u8) -> Option<Vec<u8>> {
    header.tlvs().map(Result::unwrap).find(|t| t.kind == kind).map(|t| t.value.to_vec())
}

#[test]
fn version_1_tells_addresses_as_text() {
    let pki = Pki::new();
    let (all, own, to) = said(&pki, "--allow-all --proxy-protocol-mode v1", true);
    let wanted = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello", own.port(), to.port());
    assert_eq!(String::from_utf8(all).unwrap(), wanted);
}

#[test]
fn version_2_tells_addresses_and_the_spiffe_id() {
    let pki = Pki::new();
    for flags in ["--proxy-protocol", "--proxy-protocol-mode conn"] {
        let (all, own, to) = said(&pki, &format!("--allow-all {flags}"), true);
        let (header, rest) = split(&all);
        assert_eq!(rest, b"hello");
        let v2::Addresses::IPv4(addresses) = header.addresses else { panic!("{header:?}") };
        assert_eq!((addresses.source_port, addresses.destination_port), (own.port(), to.port()));
        assert_eq!(tlv(&header, 0xD0).unwrap(), b"spiffe://td.test/apps/billing/7");
        assert_eq!(tlv(&header, 0x20), None, "TLS is told of in the other modes");
    }
}

#[test]
fn what_tls_agreed_on_is_told_in_its_mode() {
    let pki = Pki::new();
    let (all, ..) = said(&pki, "--allow-all --proxy-protocol-mode tls", true);
    let (header, rest) = split(&all);
    assert_eq!(rest, b"hello");
    let ssl = tlv(&header, 0x20).unwrap();
    assert_eq!(ssl[..5], [1, 0, 0, 0, 0], "over TLS, verified");
    assert!(ssl.windows(7).any(|w| w == b"TLSv1.3"));
    assert!(!ssl.windows(3).any(|w| w == b"app"));
    assert_eq!(tlv(&header, 0x02).unwrap(), b"localhost", "the name that the client asked for");
}

#[test]
fn the_certificate_is_told_in_full() {
    let pki = Pki::new();
    let (all, ..) = said(&pki, "--allow-all --proxy-protocol-mode tls-full", true);
    let (header, rest) = split(&all);
    assert_eq!(rest, b"hello");
    let ssl = tlv(&header, 0x20).unwrap();
    assert_eq!(ssl[0], 7);
    let der = pki.app.chain[0].as_ref();
    assert!(ssl.windows(der.len()).any(|w| w == der));
    assert!(ssl.windows(6).any(|w| w == [0x22, 0, 3, b'a', b'p', b'p']), "the common name");
}

#[test]
fn who_showed_no_certificate_is_not_said_to_have_one() {
    let pki = Pki::new();
    let flags = "--disable-authentication --proxy-protocol-mode tls-full";
    let (all, ..) = said(&pki, flags, false);
    let (header, rest) = split(&all);
    assert_eq!(rest, b"hello");
    assert_eq!(tlv(&header, 0x20).unwrap()[0], 1);
    assert_eq!(tlv(&header, 0xD0), None);
}

/// The header as a balancer sends it, before TLS.
fn v2_header(from: &str, to: &str) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let kind = v2::Version::Two | v2::Command::Proxy;
    v2::Builder::with_addresses(kind, v2::Protocol::Stream, (from, to)).build().unwrap()
}

#[test]
fn a_balancers_header_is_believed_and_handed_on() {
    let pki = Pki::new();
    let (backend, heard) = keeping();
    let adit = Adit::start(
        pki.server(backend.addr) + "--allow-all --accept-proxy-protocol --proxy-protocol-mode v1",
    );
    for header in [
        b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n".to_vec(),
        v2_header("203.0.113.9:4711", "198.51.100.1:443"),
    ] {
        for versions in [ONLY12, ONLY13] {
            let mut socket = dial(adit.addr);
            socket.write_all(&header).unwrap();
            let caller = Caller::speaking(versions, &pki.ca, Some(&pki.app));
            let mut session = caller.over(socket).unwrap();
            session.write_all(b"hello").unwrap();
            session.end().unwrap();
            let all = String::from_utf8(heard.recv().unwrap()).unwrap();
            assert!(all.starts_with("PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n"), "{all}");
            assert!(all.ends_with("\r\nhello"), "{all}");
        }
    }
    adit.logs("src.addr=203.0.113.9:4711");
}

#[test]
fn a_health_check_of_the_balancer_itself_is_itself() {
    let pki = Pki::new();
    let (backend, heard) = keeping();
    let adit = Adit::start(
        pki.server(backend.addr) + "--allow-all --accept-proxy-protocol --proxy-protocol-mode v1",
    );
    let local = v2::Builder::new(v2::Version::Two | v2::Command::Local, 0).build().unwrap();
    // Whatever addresses it has: they are to be ignored (§2.2).
    let mut lies = v2_header("203.0.113.9:4711", "198.51.100.1:443");
    lies[12] = 0x20;
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), local, lies] {
        let mut socket = dial(adit.addr);
        socket.write_all(&header).unwrap();
        let mut session = Caller::new(&pki.ca, Some(&pki.app)).over(socket).unwrap();
        session.end().unwrap();
        let all = String::from_utf8(heard.recv().unwrap()).unwrap();
        assert!(all.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{all}");
    }
}

#[test]
fn whoever_sends_no_header_or_a_wrong_one_is_refused() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all --accept-proxy-protocol");
    assert!(Caller::new(&pki.ca, Some(&pki.app)).says(adit.addr, "hello").is_err());
    let mut long = b"PROXY TCP4 ".to_vec();
    long.resize(4096, b'1');
    for words in [&b"PROXY TCP4 1.2.3.4\r\n"[..], b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", &long] {
        let mut socket = dial(adit.addr);
        let _ = socket.write_all(words);
        let mut heard = Vec::new();
        let _ = socket.read_to_end(&mut heard);
        assert!(heard.is_empty());
    }
    wait_until("all are recorded", LIMIT, || adit.count("bad_proxy_header") == 4);
    assert_eq!(echo.taken(), 0);
}

/// `--listen :PORT` is one socket for both families, where IPv4 comes in IPv6's dress.
#[test]
fn version_1_of_a_listener_for_both_families_says_tcp4() {
    let pki = Pki::new();
    let (backend, heard) = keeping();
    let adit = Adit::start(format!(
        "server --listen :0 --target :{} {} --allow-all --proxy-protocol-mode v1",
        backend.addr.port(),
        pki.showing("server")
    ));
    let to = SocketAddr::from(([127, 0, 0, 1], adit.addr.port()));
    let socket = dial(to);
    let own = socket.local_addr().unwrap();
    let mut session = Caller::new(&pki.ca, Some(&pki.app)).over(socket).unwrap();
    session.write_all(b"hello").unwrap();
    session.end().unwrap();
    let wanted = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello", own.port(), to.port());
    assert_eq!(String::from_utf8(heard.recv().unwrap()).unwrap(), wanted);
    adit.logs(&format!("src.addr={own}"));
}

#[test]
fn a_header_is_not_waited_for_for_ever() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let flags = "--allow-all --accept-proxy-protocol --connect-timeout 300ms";
    let adit = Adit::start(pki.server(echo.addr) + flags);
    for words in [&b""[..], b"PROXY", &v2_header("203.0.113.9:1", "198.51.100.1:2")[..20]] {
        let mut socket = dial(adit.addr);
        socket.write_all(words).unwrap();
        assert!(matches!(crate::wait::read_once(&mut socket, &mut [0; 1]), Ok(0) | Err(_)));
    }
    wait_until("all are recorded", LIMIT, || adit.count("did not arrive in time") == 3);
}

/// Who is not asked to speak the PROXY protocol cannot choose an address.
#[test]
fn without_the_flag_a_header_is_no_tls() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    let mut socket = dial(adit.addr);
    socket.write_all(b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n").unwrap();
    assert!(Caller::new(&pki.ca, Some(&pki.app)).over(socket).is_err());
    adit.logs("not TLS");
    assert_eq!(echo.taken(), 0);
}

#[test]
fn a_unix_client_has_no_address_to_tell() {
    let pki = Pki::new();
    for (mode, start) in [("v1", &b"PROXY UNKNOWN\r\n"[..]), ("conn", b"\r\n\r\n\0\r\nQUIT\n\x20")]
    {
        let (backend, heard) = keeping();
        let _adit = Adit::start(format!(
            "server --listen unix:{} --target {} {} --allow-all --proxy-protocol-mode {mode}",
            pki.at("tls.sock"),
            backend.addr,
            pki.showing("server")
        ));
        let socket = std::os::unix::net::UnixStream::connect(pki.path("tls.sock")).unwrap();
        let socket = std::net::TcpStream::from(std::os::fd::OwnedFd::from(socket));
        let mut session = Caller::new(&pki.ca, Some(&pki.app)).over(socket).unwrap();
        session.write_all(b"hello").unwrap();
        session.end().unwrap();
        let all = heard.recv().unwrap();
        assert!(all.starts_with(start) && all.ends_with(b"hello"), "{all:?}");
    }
}

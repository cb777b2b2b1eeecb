//! Which protocol TLS agrees on (ALPN), at either end.

use std::sync::mpsc;

use crate::{
    backends::{Backend, ask},
    peers::{BOTH, Caller, Demand, ONLY12, ONLY13, alpn_session, tls_backend, tls_echo},
    pki::Pki,
    process::{Adit, refused},
};

#[test]
fn a_server_takes_the_first_of_its_protocols_that_is_offered() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all --alpn h2 --alpn http/1.1");
    for (offered, chosen) in [
        (&["http/1.1", "h2"][..], Some("h2")),
        (&["spdy/1", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        for versions in [ONLY12, ONLY13] {
            let caller = Caller::speaking(versions, &pki.ca, Some(&pki.app)).offering(offered);
            let session = caller.dial(adit.addr).unwrap();
            assert_eq!(session.conn.alpn_protocol(), chosen.map(str::as_bytes), "{offered:?}");
            assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
        }
    }
    let other = Caller::new(&pki.ca, Some(&pki.app)).offering(&["imap", "pop3"]);
    let error = other.dial(adit.addr).map(drop).unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    adit.logs("tls_failure … offers none of our protocols (ALPN)");
}

/// What is agreed on between others is nothing to a server that names no protocol.
#[test]
fn a_server_without_protocols_takes_whatever_is_offered() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    let caller = Caller::new(&pki.ca, Some(&pki.app)).offering(&["imap"]);
    assert_eq!(caller.dial(adit.addr).unwrap().conn.alpn_protocol(), None);
    assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
}

#[test]
fn a_client_offers_its_protocols() {
    let (pki, (told, agreed)) = (Pki::new(), mpsc::channel());
    let begin = alpn_session(&pki.server, &["postgresql"]);
    let far = Backend::start(move |socket| {
        let Ok(session) = begin(socket) else { return };
        told.send(session.conn.alpn_protocol().map(<[u8]>::to_vec)).unwrap();
        tls_echo(session);
    });
    let adit = Adit::start(pki.client(far.addr) + " --alpn h2 --alpn postgresql");
    assert_eq!(ask(adit.addr, b"hello").unwrap(), b"hello");
    assert_eq!(agreed.recv().unwrap().as_deref(), Some(&b"postgresql"[..]));
    let adit = Adit::start(pki.client(far.addr));
    assert_eq!(ask(adit.addr, b"hello").unwrap(), b"hello");
    assert_eq!(agreed.recv().unwrap(), None, "without the flag it offers nothing");
    let adit = Adit::start(pki.client(far.addr) + " --alpn imap");
    assert!(ask(adit.addr, b"hello").map_or(true, |heard| heard.is_empty()));
    adit.logs("NoApplicationProtocol");
    let silent = tls_backend(BOTH, &pki.server, Demand::Nothing, tls_echo);
    let adit = Adit::start(pki.client(silent.addr) + " --alpn h2");
    assert_eq!(ask(adit.addr, b"hello").unwrap(), b"hello", "a target may know no ALPN");
}

#[test]
fn what_is_no_protocol_is_refused() {
    let pki = Pki::new();
    for (flags, says) in [
        ("--alpn acme-tls/1", "is reserved for ACME challenges"),
        ("--alpn h2 --alpn h2", "each once"),
        ("--alpn \u{e4}", "not a protocol name"),
        ("--alpn h2 --tunnel hbone", "--alpn cannot be used with --tunnel"),
    ] {
        let (code, error) = refused(&format!("{}--allow-all {flags}", pki.server("127.0.0.1:9")));
        assert!(code > 0 && error.contains(says), "{flags}: {code}: {error}");
    }
}

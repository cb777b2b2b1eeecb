//! PostgreSQL asks for TLS in the clear: SSLRequest, one byte of answer, then TLS. Its newer
//! clients may begin with TLS and want ALPN.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc,
    time::Duration,
};

use crate::{
    backends::{Backend, ask, dial},
    peers::{Caller, ONLY12, ONLY13, Session, alpn_session, tls_echo},
    pki::Pki,
    process::Adit,
};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
/// With the process and the key whose work is to be cancelled.
const CANCEL_REQUEST: [u8; 16] =
    [0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e, 0, 0, 0x30, 0x39, 1, 2, 3, 4];

/// What is answered to this question, one byte.
fn answer(socket: &mut TcpStream, question: &[u8]) -> u8 {
    socket.write_all(question).unwrap();
    let mut byte = [0];
    socket.read_exact(&mut byte).unwrap();
    byte[0]
}

fn echoes(mut session: Session<rustls::ClientConnection>) {
    session.write_all(b"hello").unwrap();
    assert_eq!(session.hear(5).unwrap(), b"hello");
    session.end().unwrap();
    assert_eq!(session.rest().unwrap(), b"");
}

#[test]
fn a_server_answers_who_asks_and_takes_who_begins() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app --starttls postgres");
    for versions in [ONLY12, ONLY13] {
        let caller = Caller::speaking(versions, &pki.ca, Some(&pki.app));
        for questions in [&[(SSL_REQUEST, b'S')][..], &[(GSS_REQUEST, b'N'), (SSL_REQUEST, b'S')]] {
            let mut socket = dial(adit.addr);
            for (question, answered) in questions {
                assert_eq!(answer(&mut socket, question), *answered);
            }
            echoes(caller.over(socket).unwrap());
        }
        // In pieces, and after the refusal of GSSAPI without another question.
        let mut socket = dial(adit.addr);
        socket.write_all(&SSL_REQUEST[..3]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(answer(&mut socket, &SSL_REQUEST[3..]), b'S');
        echoes(caller.over(socket).unwrap());
        let mut socket = dial(adit.addr);
        assert_eq!(answer(&mut socket, &GSS_REQUEST), b'N');
        echoes(caller.over(socket).unwrap());
        // Direct TLS, which wants its ALPN.
        let session = caller.clone().offering(&["postgresql"]).dial(adit.addr).unwrap();
        assert_eq!(session.conn.alpn_protocol(), Some(&b"postgresql"[..]));
        echoes(session);
        echoes(caller.dial(adit.addr).unwrap());
    }
    // Without its certificate nobody gets in by asking.
    let mut socket = dial(adit.addr);
    assert_eq!(answer(&mut socket, &SSL_REQUEST), b'S');
    let nobody = Caller::new(&pki.ca, None);
    assert!(nobody.over(socket).and_then(|mut s| s.hear(1)).is_err());
    adit.logs("no_peer_certificate");
    assert_eq!(echo.taken(), 12);
}

#[test]
fn whoever_stays_in_the_clear_is_refused() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all --starttls postgres");
    let startup = [0, 0, 0, 9, 0, 3, 0, 0, 0];
    for words in [&startup[..], b"GET / HTTP/1.0\r\n\r\n", &GSS_REQUEST.repeat(3)] {
        let seen = adit.lines();
        let mut socket = dial(adit.addr);
        socket.write_all(words).unwrap();
        let mut heard = Vec::new();
        let _ = socket.read_to_end(&mut heard);
        assert!(heard.is_empty() || heard == b"NN", "{heard:?}");
        adit.logs_since(seen, "tls_failure … neither PostgreSQL's SSLRequest nor TLS");
    }
    // What was stuffed behind the question in the clear is never taken for what TLS says.
    let mut socket = dial(adit.addr);
    let mut stuffed = SSL_REQUEST.to_vec();
    stuffed.extend_from_slice(b"Q\0\0\0\x0dSELECT 1\0");
    assert_eq!(answer(&mut socket, &stuffed), b'S');
    adit.logs("received bytes that are not TLS");
    drop(dial(adit.addr));
    adit.logs("reason=\"silent\"");
    assert_eq!(echo.taken(), 0);
}

#[test]
fn without_the_flag_the_error_names_it() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    let mut socket = dial(adit.addr);
    socket.write_all(&SSL_REQUEST).unwrap();
    adit.logs("tls_failure … PostgreSQL's SSLRequest … --starttls postgres");
}

/// A PostgreSQL that answers so.
fn postgres(pki: &Pki, answered: u8) -> (Backend, mpsc::Receiver<Option<Vec<u8>>>) {
    let (told, agreed) = mpsc::channel();
    let begin = alpn_session(&pki.server, &["postgresql"]);
    let backend = Backend::start(move |mut socket| {
        let mut asked = [0; 8];
        if socket.read_exact(&mut asked).is_err() || asked != SSL_REQUEST {
            return;
        }
        let _ = socket.write_all(&[answered]);
        let Ok(session) = begin(socket) else { return };
        let _ = told.send(session.conn.alpn_protocol().map(<[u8]>::to_vec));
        tls_echo(session);
    });
    (backend, agreed)
}

#[test]
fn a_client_asks_its_target() {
    let pki = Pki::new();
    let (db, agreed) = postgres(&pki, b'S');
    let adit = Adit::start(pki.client(db.addr) + " --starttls postgres");
    assert_eq!(ask(adit.addr, b"hello").unwrap(), b"hello");
    assert_eq!(agreed.recv().unwrap().as_deref(), Some(&b"postgresql"[..]));
    for (answered, says) in [(b'N', "does not offer TLS (ssl = off)"), (b'E', "is not PostgreSQL")]
    {
        let (db, _) = postgres(&pki, answered);
        let adit = Adit::start(pki.client(db.addr) + " --starttls postgres");
        assert!(ask(adit.addr, b"hello").map_or(true, |heard| heard.is_empty()));
        adit.logs(says);
    }
    let echo = Backend::echo();
    let server = Adit::start(pki.server(echo.addr) + "--allow-all --starttls postgres");
    let client = Adit::start(pki.client(server.addr) + " --starttls postgres");
    assert_eq!(ask(client.addr, b"hello").unwrap(), b"hello");
}

/// An application's questions are answered here, and what it says first of all else goes to the
/// target, behind the TLS that was asked for.
#[test]
fn an_application_that_asks_is_told_that_there_is_no_tls_on_its_side() {
    let pki = Pki::new();
    let (db, _) = postgres(&pki, b'S');
    let adit = Adit::start(pki.client(db.addr) + " --starttls postgres --connect-timeout 3s");
    let startup = *b"\0\0\0\x0a\0\x03\0\0\0\0";
    let questions: [&[[u8; 8]]; 5] = [
        &[],
        &[SSL_REQUEST],
        &[GSS_REQUEST],
        &[GSS_REQUEST, SSL_REQUEST],
        &[SSL_REQUEST, GSS_REQUEST],
    ];
    for asked in questions {
        for first in [&startup[..], &CANCEL_REQUEST] {
            let mut socket = dial(adit.addr);
            for question in asked {
                assert_eq!(answer(&mut socket, question), b'N');
            }
            socket.write_all(first).unwrap();
            let mut heard = vec![0; first.len()];
            socket.read_exact(&mut heard).unwrap();
            assert_eq!(heard, first, "{asked:?}");
        }
    }
    // In pieces; what only begins as a question is none, and an end is an end.
    let mut socket = dial(adit.addr);
    for piece in [&SSL_REQUEST[..1], &SSL_REQUEST[1..5]] {
        socket.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(answer(&mut socket, &SSL_REQUEST[5..]), b'N');
    for words in [&SSL_REQUEST[..6], b"Q", &SSL_REQUEST.repeat(3)] {
        let heard = ask(adit.addr, words).unwrap();
        let all = [&[b'N'; 2][..words.len() / 12], &words[words.len() / 12 * 8..]].concat();
        assert_eq!(heard, all);
    }
    // Who says nothing, or half a question, is not waited for.
    for words in [&b""[..], &SSL_REQUEST[..6]] {
        let seen = adit.lines();
        let mut socket = dial(adit.addr);
        socket.write_all(words).unwrap();
        assert_eq!(socket.read_to_end(&mut Vec::new()).unwrap_or_default(), 0);
        adit.logs_since(seen, "the application sent nothing within 3s");
    }
}

/// A cancellation is of somebody who has shown a certificate, or of nobody.
#[test]
fn a_cancel_request_goes_to_the_target_behind_tls_alone() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app --starttls postgres");
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    let mut socket = dial(adit.addr);
    assert_eq!(answer(&mut socket, &SSL_REQUEST), b'S');
    let mut session = caller.over(socket).unwrap();
    session.write_all(&CANCEL_REQUEST).unwrap();
    assert_eq!(session.hear(CANCEL_REQUEST.len()).unwrap(), CANCEL_REQUEST);
    session.end().unwrap();
    let mut socket = dial(adit.addr);
    socket.write_all(&CANCEL_REQUEST).unwrap();
    assert_eq!(socket.read_to_end(&mut Vec::new()).unwrap_or_default(), 0);
    adit.logs("tls_failure … PostgreSQL's CancelRequest in plaintext");
    assert_eq!(echo.taken(), 1);
    // Both ends of it.
    let client = Adit::start(pki.client(adit.addr) + " --starttls postgres");
    assert_eq!(ask(client.addr, &CANCEL_REQUEST).unwrap(), CANCEL_REQUEST);
}

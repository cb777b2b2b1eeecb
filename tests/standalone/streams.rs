//! What happens to the bytes, and how connections end: in order, halfway, or not at all.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    backends::{Backend, ask, dial, nobody, patient, reset},
    pattern::Pattern,
    peers::{BOTH, Caller, Demand, ONLY12, ONLY13, tls_backend, tls_echo},
    pki::Pki,
    process::Adit,
    wait::{LIMIT, wait_until},
};

const VERSIONS: [&[&rustls::SupportedProtocolVersion]; 2] = [ONLY12, ONLY13];

fn send(to: &mut impl Write, bytes: usize, piece: usize) {
    let mut pattern = Pattern::new(1);
    while pattern.at < bytes {
        let next = pattern.next(piece.min(bytes - pattern.at));
        to.write_all(next).unwrap();
    }
}

/// Reads to the end, comparing: how many bytes.
fn receive(from: &mut impl Read) -> std::io::Result<usize> {
    let (mut pattern, mut buffer) = (Pattern::new(1), vec![0; 64 * 1024]);
    loop {
        match crate::wait::read_once(from, &mut buffer)? {
            0 => return Ok(pattern.at),
            n => pattern.expect(&buffer[..n]),
        }
    }
}

#[test]
fn a_client_that_has_said_all_still_hears_the_answer() {
    let (pki, counting) = (Pki::new(), Backend::counting());
    let adit = Adit::start(pki.server(counting.addr) + "--allow-all");
    for versions in VERSIONS {
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        send(&mut *session, 300_000, 10_000);
        session.end().unwrap();
        assert_eq!(session.rest().unwrap(), b"300000");
    }
    wait_until("both are recorded", LIMIT, || adit.count("reason=\"completed\"") == 2);
}

#[test]
fn an_application_that_has_said_all_still_hears_the_answer() {
    let pki = Pki::new();
    for versions in VERSIONS {
        let far = tls_backend(versions, &pki.server, Demand::Of(&pki.ca), |mut session| {
            let heard = receive(&mut *session).unwrap();
            session.write_all(heard.to_string().as_bytes()).unwrap();
            session.end().unwrap();
        });
        let adit = Adit::start(pki.client(far.addr));
        let mut socket = dial(adit.addr);
        send(&mut socket, 300_000, 10_000);
        socket.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        socket.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "300000");
    }
}

/// The other way round: the server side ends first, as SMTP and many databases do.
#[test]
fn a_backend_that_ends_first_still_hears_the_client() {
    let pki = Pki::new();
    let (told, heard) = mpsc::channel();
    let backend = Backend::start(move |mut socket| {
        socket.write_all(b"bye").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        told.send(receive(&mut socket)).unwrap();
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-all");
    for versions in VERSIONS {
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        assert_eq!(session.rest().unwrap(), b"bye");
        send(&mut *session, 200_000, 5_000);
        session.end().unwrap();
        assert_eq!(heard.recv().unwrap().unwrap(), 200_000);
    }
}

#[test]
fn a_tls_server_that_ends_first_still_hears_the_application() {
    let pki = Pki::new();
    for versions in VERSIONS {
        let (told, heard) = mpsc::channel();
        let far = tls_backend(versions, &pki.server, Demand::Nothing, move |mut session| {
            session.write_all(b"bye").unwrap();
            session.end().unwrap();
            told.send(receive(&mut *session)).unwrap();
        });
        let adit = Adit::start(pki.client(far.addr));
        let mut socket = dial(adit.addr);
        let mut said = String::new();
        socket.read_to_string(&mut said).unwrap();
        assert_eq!(said, "bye");
        send(&mut socket, 200_000, 5_000);
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(heard.recv().unwrap().unwrap(), 200_000);
    }
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let (pki, greeting) = (Pki::new(), Backend::greeting("220 ready\r\n"));
    let adit = Adit::start(pki.server(greeting.addr) + "--allow-all");
    for versions in VERSIONS {
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        assert_eq!(session.hear(11).unwrap(), b"220 ready\r\n");
    }
}

#[test]
fn eight_mebibytes_each_way_at_once_arrive_as_they_were_sent() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let inner = Adit::start(pki.server(echo.addr) + "--allow-cn app");
    let outer = Adit::start(pki.client(inner.addr));
    let total = 8 << 20;
    let mut socket = dial(outer.addr);
    let mut writing = socket.try_clone().unwrap();
    let writer = thread::spawn(move || {
        send(&mut writing, total, 77_777);
        writing.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(receive(&mut socket).unwrap(), total);
    writer.join().unwrap();
    let bytes = format!("bytes_sent={total} … bytes_recv={total} … completed");
    inner.logs(&bytes);
    outer.logs(&bytes);
}

#[test]
fn big_transfers_to_and_from_tls_12_peers() {
    let pki = Pki::new();
    let total = 4 << 20;
    let source = Backend::start(move |mut socket| {
        send(&mut socket, total, 50_000);
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receive(&mut socket).unwrap(), total);
    });
    let adit = Adit::start(pki.server(source.addr) + "--allow-all");
    let mut session = Caller::speaking(ONLY12, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
    assert_eq!(receive(&mut *session).unwrap(), total);
    send(&mut *session, total, 50_000);
    session.end().unwrap();
    adit.logs(&format!("bytes_sent={total} … bytes_recv={total} … TLSv1.2 … completed"));
}

#[test]
fn full_duplex_without_end_of_either_side() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let inner = Adit::start(pki.server(echo.addr) + "--allow-cn app");
    let outer = Adit::start(pki.client(inner.addr));
    let talks: Vec<_> = (0..4)
        .map(|_| {
            let mut socket = dial(outer.addr);
            thread::spawn(move || {
                let (mut said, mut heard) = (Pattern::new(3), Pattern::new(3));
                let mut buffer = vec![0; 40_000];
                for turn in 0..200 {
                    let words = said.next(1 + turn * 97 % 9_000);
                    socket.write_all(words).unwrap();
                    socket.read_exact(&mut buffer[..words.len()]).unwrap();
                    heard.expect(&buffer[..words.len()]);
                }
            })
        })
        .collect();
    talks.into_iter().for_each(|talk| talk.join().unwrap());
}

#[test]
fn tiny_writes_are_carried_at_once_and_in_order() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    for versions in VERSIONS {
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        for byte in 0..=255 {
            session.write_all(&[byte]).unwrap();
            assert_eq!(session.hear(1).unwrap(), [byte], "without waiting for more");
        }
        for byte in 0..=255 {
            session.write_all(&[byte]).unwrap();
        }
        assert_eq!(session.hear(256).unwrap(), (0..=255).collect::<Vec<u8>>());
    }
}

#[test]
fn a_reset_by_the_client_is_one_for_the_backend() {
    let pki = Pki::new();
    let (told, heard) = mpsc::channel();
    let backend = Backend::start(move |mut socket| {
        let mut all = Vec::new();
        told.send(socket.read_to_end(&mut all).map_err(|e| e.kind())).unwrap();
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-all");
    for versions in VERSIONS {
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        session.write_all(b"half a").unwrap();
        reset(session.into_socket());
        assert_eq!(heard.recv().unwrap(), Err(ErrorKind::ConnectionReset));
    }
    wait_until("both are recorded", LIMIT, || adit.count("peer_reset") == 2);
}

/// Whoever cuts the wire cannot make a backend believe that the client had said all.
#[test]
fn an_end_without_close_notify_is_no_end_in_order() {
    let pki = Pki::new();
    let (told, heard) = mpsc::channel();
    let backend = Backend::start(move |mut socket| {
        let mut all = Vec::new();
        told.send(socket.read_to_end(&mut all).map_err(|e| e.kind())).unwrap();
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-all");
    for versions in VERSIONS {
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        session.write_all(b"DELETE FROM t").unwrap();
        session.into_socket().shutdown(Shutdown::Write).unwrap();
        assert_eq!(heard.recv().unwrap(), Err(ErrorKind::ConnectionReset));
    }
}

/// But where the operator says so, it is: nginx' stream proxy and others know no other.
#[test]
fn an_end_without_close_notify_is_one_where_it_may_be() {
    let pki = Pki::new();
    let (told, heard) = mpsc::channel();
    let backend = Backend::start(move |mut socket| {
        let mut all = Vec::new();
        told.send(socket.read_to_end(&mut all).map_err(|e| e.kind())).unwrap();
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-all --close-notify=optional");
    for versions in VERSIONS {
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        session.write_all(b"SELECT 1").unwrap();
        session.flush().unwrap();
        session.into_socket().shutdown(Shutdown::Write).unwrap();
        assert_eq!(heard.recv().unwrap(), Ok(8));
    }
}

/// Python's `ssl`, redis-cli and many others never say close_notify: what they sent arrives all
/// the same, however slowly it is read.
#[test]
fn what_came_before_an_end_without_close_notify_arrives() {
    let (pki, total) = (Pki::new(), 3 << 20);
    let (told, heard) = mpsc::channel();
    let backend = Backend::start(move |mut socket| {
        thread::sleep(Duration::from_millis(300));
        let (mut pattern, mut buffer) = (Pattern::new(1), vec![0; 64 * 1024]);
        let end = loop {
            match crate::wait::read_once(&mut socket, &mut buffer) {
                Ok(0) => break None,
                Ok(n) => pattern.expect(&buffer[..n]),
                Err(error) => break Some(error.kind()),
            }
        };
        told.send((pattern.at, end)).unwrap();
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-all");
    for versions in VERSIONS {
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        send(&mut *session, total, 50_000);
        session.flush().unwrap();
        session.into_socket().shutdown(Shutdown::Write).unwrap();
        assert_eq!(heard.recv().unwrap(), (total, Some(ErrorKind::ConnectionReset)));
    }
}

#[test]
fn a_tls_server_that_is_cut_off_is_no_end_in_order_for_the_application() {
    let pki = Pki::new();
    for versions in VERSIONS {
        let far = tls_backend(versions, &pki.server, Demand::Nothing, |mut session| {
            session.write_all(b"half an ans").unwrap();
            let socket = session.into_socket();
            socket.shutdown(Shutdown::Write).unwrap();
            let _ = std::io::copy(&mut &socket, &mut std::io::sink());
        });
        let adit = Adit::start(pki.client(far.addr));
        let mut socket = dial(adit.addr);
        let mut heard = Vec::new();
        let end = socket.read_to_end(&mut heard).map_err(|e| e.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        adit.logs("peer_reset");
    }
}

#[test]
fn a_backend_that_resets_is_no_end_in_order_for_the_client() {
    let pki = Pki::new();
    let backend = Backend::start(|mut socket| {
        let _ = crate::wait::read_once(&mut socket, &mut [0; 5]);
        let _ = socket.write_all(b"half an ans");
        // Let it arrive.
        thread::sleep(Duration::from_millis(50));
        reset(socket);
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-all");
    for versions in VERSIONS {
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        session.write_all(b"hello").unwrap();
        assert!(session.rest().is_err());
    }
    wait_until("both are recorded", LIMIT, || adit.count("app_reset") == 2);
}

/// `FATAL: sorry, too many clients already`, and the socket closed with the question unread: the
/// kernel makes that a reset, and the client must hear why.
#[test]
fn last_words_before_a_reset_are_heard() {
    let pki = Pki::new();
    let backend = Backend::start(|mut socket| {
        let mut some = [0; 1];
        let _ = socket.read_exact(&mut some);
        let _ = socket.write_all(b"FATAL: sorry");
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-all");
    for versions in VERSIONS {
        let caller = Caller::speaking(versions, &pki.ca, Some(&pki.app));
        for _ in 0..10 {
            let mut session = caller.dial(adit.addr).unwrap();
            session.write_all(b"a long question").unwrap();
            assert_eq!(session.hear(12).unwrap(), b"FATAL: sorry");
            assert!(session.rest().is_err());
        }
    }
}

#[test]
fn a_backend_that_is_down_is_no_end_in_order_for_the_client() {
    let pki = Pki::new();
    let adit = Adit::start(pki.server(nobody()) + "--allow-all");
    for versions in VERSIONS {
        let caller = Caller::speaking(versions, &pki.ca, Some(&pki.app));
        let heard = caller.dial(adit.addr).and_then(|mut session| session.rest());
        assert!(heard.is_err(), "{heard:?}");
    }
    wait_until("both are recorded", LIMIT, || adit.count("connect_failure") == 2);
    adit.logs("connect to 127.0.0.1 … refused");
}

#[test]
fn a_target_that_is_down_is_an_error_for_the_application() {
    let pki = Pki::new();
    let adit = Adit::start(pki.client(nobody()));
    assert!(ask(adit.addr, b"hello").is_err());
    adit.logs("connect_failure … refused");
}

#[test]
fn one_side_may_go_on_for_so_long_when_the_other_has_ended() {
    let pki = Pki::new();
    let (told, heard) = mpsc::channel();
    let backend = Backend::start(move |mut socket| {
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        told.send(all).unwrap();
        // It never ends its own side.
        let _ = crate::wait::read_once(&mut socket, &mut [0; 1]);
        thread::sleep(LIMIT);
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-all --close-timeout 300ms");
    let mut session = Caller::new(&pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
    session.write_all(b"question").unwrap();
    session.end().unwrap();
    assert_eq!(heard.recv().unwrap(), b"question");
    assert!(session.rest().is_err(), "what is cut does not look complete");
    adit.logs("half_close_timeout … 300ms");
}

/// The limit is about silence: an answer that takes longer than it is not cut.
#[test]
fn an_answer_behind_a_half_close_may_last_while_it_moves() {
    let pki = Pki::new();
    let backend = Backend::start(|mut socket| {
        let _ = socket.read_to_end(&mut Vec::new());
        for _ in 0..15 {
            socket.write_all(&[7; 1000]).unwrap();
            thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-all --close-timeout 500ms");
    let mut session = Caller::new(&pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
    session.end().unwrap();
    assert_eq!(session.rest().unwrap().len(), 15_000);
    adit.logs("completed");
}

#[test]
fn with_a_close_timeout_of_zero_both_end_at_once() {
    let pki = Pki::new();
    let backend = Backend::start(|mut socket| {
        let _ = socket.read_to_end(&mut Vec::new());
        thread::sleep(LIMIT);
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-all --close-timeout 0");
    let mut session = Caller::new(&pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
    session.end().unwrap();
    assert!(session.rest().is_err());
    adit.logs("half_close_timeout");
}

#[test]
fn a_connection_lives_for_so_long_however_busy_it_is() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for versions in VERSIONS {
        let adit = Adit::start(pki.server(echo.addr) + "--allow-all --max-conn-lifetime 400ms");
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        let cut = loop {
            if let Err(error) = session.write_all(b"x").and_then(|()| session.hear(1)) {
                break error;
            }
        };
        assert_ne!(cut.kind(), ErrorKind::WouldBlock, "cut, not stuck");
        adit.logs("lifetime_reached");
    }
}

#[test]
fn a_peer_that_does_not_read_holds_back_the_other_and_nobody_else() {
    let pki = Pki::new();
    let total = 6 << 20;
    let source = Backend::start(move |mut socket| {
        send(&mut socket, total, 60_000);
        let _ = socket.shutdown(Shutdown::Write);
        let _ = crate::wait::read_once(&mut socket, &mut [0; 1]);
    });
    let adit = Adit::start(pki.server(source.addr) + "--allow-all");
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    let mut stalled: Vec<_> = (0..4).map(|_| caller.dial(adit.addr).unwrap()).collect();
    let mut quick = caller.dial(adit.addr).unwrap();
    assert_eq!(receive(&mut *quick).unwrap(), total);
    for session in &mut stalled {
        assert_eq!(receive(&mut **session).unwrap(), total, "and they miss nothing");
    }
}

#[test]
fn records_in_pieces_are_put_together() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    for versions in VERSIONS {
        // A middle that hands on a few bytes at a time, also of the handshake.
        let to = adit.addr;
        let middle = Backend::start(move |near| {
            let far = dial(to);
            let ways = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
            for (mut from, mut to) in ways {
                thread::spawn(move || {
                    let mut piece = [0; 37];
                    while let Ok(n @ 1..) = crate::wait::read_once(&mut from, &mut piece) {
                        if to.write_all(&piece[..n]).is_err() {
                            return;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        });
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(middle.addr).unwrap();
        send(&mut *session, 40_000, 20_000);
        session.end().unwrap();
        assert_eq!(receive(&mut *session).unwrap(), 40_000);
    }
}

#[test]
fn one_flipped_bit_on_the_wire_ends_the_connection() {
    let pki = Pki::new();
    let (told, heard) = mpsc::channel();
    let backend = Backend::start(move |mut socket| {
        let (mut good, mut all) = ([0; 4], Vec::new());
        socket.read_exact(&mut good).unwrap();
        socket.write_all(&good).unwrap();
        let end = socket.read_to_end(&mut all).map(drop).map_err(|e| e.kind());
        told.send((all, end)).unwrap();
    });
    let adit = Adit::start(pki.server(backend.addr) + "--allow-all");
    for versions in VERSIONS {
        let caller = Caller::speaking(versions, &pki.ca, Some(&pki.app));
        let mut session = caller.dial(adit.addr).unwrap();
        session.write_all(b"good").unwrap();
        assert_eq!(session.hear(4).unwrap(), b"good");
        // A whole record as far as anybody can see, with another's content.
        let mut socket = session.into_socket();
        let mut forged = vec![23, 3, 3, 0, 40];
        forged.extend([7; 40]);
        socket.write_all(&forged).unwrap();
        let (all, end) = heard.recv().unwrap();
        assert_eq!((all.as_slice(), end), (&b""[..], Err(ErrorKind::ConnectionReset)));
    }
    wait_until("both are recorded", LIMIT, || adit.count("peer_reset") == 2);
}

#[test]
fn key_updates_go_by_unnoticed() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    let mut session = Caller::speaking(ONLY13, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
    for _ in 0..5 {
        session.conn.refresh_traffic_keys().unwrap();
        session.write_all(b"hello").unwrap();
        assert_eq!(session.hear(5).unwrap(), b"hello");
    }
    session.end().unwrap();
    assert_eq!(session.rest().unwrap(), b"");
    adit.logs("completed");
}

#[test]
fn an_application_that_goes_away_in_the_handshake_leaves_nothing_behind() {
    let pki = Pki::new();
    let slow = Backend::start(|socket| {
        thread::sleep(Duration::from_millis(300));
        drop(socket);
    });
    let adit = Adit::start(pki.client(slow.addr) + "--connect-timeout 2s");
    let before = adit.descriptors();
    for _ in 0..5 {
        reset(TcpStream::connect(adit.addr).unwrap());
    }
    wait_until("all are recorded", LIMIT, || adit.count("direction") == 5);
    wait_until("nothing is open", LIMIT, || adit.descriptors() <= before);
}

#[test]
fn names_and_ipv6_addresses_are_listened_at() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for listen in ["localhost:0", "[::1]:0"] {
        if listen.starts_with('[') && std::net::TcpListener::bind("[::1]:0").is_err() {
            eprintln!("left out: no IPv6 here");
            continue;
        }
        let server = pki.server(echo.addr).replace("127.0.0.1:0", listen);
        let adit = Adit::start(server + "--allow-all");
        let said = Caller::new(&pki.ca, Some(&pki.app)).says(adit.addr, "hello");
        assert_eq!(said.unwrap(), "hello", "{listen}");
    }
}

#[test]
fn a_client_that_ends_without_saying_anything_is_an_end_in_order() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    for versions in VERSIONS {
        let mut session =
            Caller::speaking(versions, &pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        session.end().unwrap();
        assert_eq!(session.rest().unwrap(), b"");
    }
    let far = tls_backend(BOTH, &pki.server, Demand::Nothing, tls_echo);
    let client = Adit::start(pki.client(far.addr));
    let socket = dial(client.addr);
    patient(&socket);
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&socket).read(&mut [0; 1]).unwrap(), 0);
    client.logs("completed");
    wait_until("both are recorded", LIMIT, || adit.count("completed") == 2);
}

//! Those who only look whether somebody is here: balancers that look at adit, and adit that looks
//! at its targets. Neither is an error at the other end.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    sync::mpsc::{self, Receiver},
};

use ppp::v2;

use crate::{
    backends::{Backend, ask, dial, patient, reset},
    peers::{Caller, Demand, ONLY12, ONLY13, tls_backend},
    pki::Pki,
    ports,
    process::Adit,
    wait::{LIMIT, wait_until},
};

/// What an HTTP GET of this path hears.
pub(crate) fn get(at: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let mut socket = dial(at);
    socket.write_all(request.as_bytes()).unwrap();
    let mut heard = String::new();
    socket.read_to_string(&mut heard).unwrap();
    heard
}

#[test]
fn a_caller_that_ends_before_it_says_anything_is_no_error() {
    let (pki, echo, status) = (Pki::new(), Backend::echo(), ports::free());
    let adit =
        Adit::start(pki.server(echo.addr) + &format!("--allow-all --status http://{status}"));
    drop(dial(adit.addr));
    reset(dial(adit.addr));
    wait_until("both are recorded", LIMIT, || adit.count("reason=\"silent\"") == 2);
    let loud = |adit: &Adit| adit.count(" ERROR ") + adit.count(" WARN ");
    assert_eq!(loud(&adit), 0);
    let counted = get(status, "/_metrics/prometheus");
    let failed: Vec<_> = counted.lines().filter(|line| line.contains("error")).collect();
    assert!(!failed.is_empty(), "{counted}");
    assert!(failed.iter().all(|l| l.starts_with('#') || l.ends_with(" 0")), "{failed:?}");
    // Who has begun to speak is one.
    let mut socket = dial(adit.addr);
    socket.write_all(&[22, 3, 1]).unwrap();
    drop(socket);
    adit.logs("ERROR … reason=\"tls_failure\" … closed during the handshake");

    let behind = Adit::start(pki.server(echo.addr) + "--allow-all --accept-proxy-protocol");
    drop(dial(behind.addr));
    reset(dial(behind.addr));
    let local = v2::Builder::new(v2::Version::Two | v2::Command::Local, 0).build().unwrap();
    dial(behind.addr).write_all(&local).unwrap();
    wait_until("all are recorded", LIMIT, || behind.count("reason=\"silent\"") == 3);
    assert_eq!(loud(&behind), 0);
    dial(behind.addr).write_all(b"PROXY TCP4").unwrap();
    behind.logs("ERROR … reason=\"bad_proxy_header\"");
}

/// A target that tells what it heard of each connection until that ended.
fn hearing() -> (Backend, Receiver<Vec<u8>>) {
    let (told, heard) = mpsc::channel();
    let backend = Backend::start(move |mut socket| {
        let mut all = Vec::new();
        let ended = socket.read_to_end(&mut all).is_ok();
        let _ = told.send(if ended { all } else { b"reset".to_vec() });
    });
    (backend, heard)
}

#[test]
fn a_target_that_wants_a_proxy_header_is_asked_with_one() {
    let pki = Pki::new();
    let local = v2::Builder::new(v2::Version::Two | v2::Command::Local, 0).build().unwrap();
    for (mode, wanted) in [("conn", &local[..]), ("tls-full", &local), ("v1", b"PROXY UNKNOWN\r\n")]
    {
        let ((one, heard), (two, _)) = (hearing(), hearing());
        let _adit = Adit::start(format!(
            "{}--target {} --allow-all --proxy-protocol-mode {mode}",
            pki.server(one.addr),
            two.addr
        ));
        assert_eq!(heard.recv_timeout(LIMIT).unwrap(), wanted, "{mode}");
    }
    let (told, heard) = mpsc::channel();
    let one = Backend::start(move |mut socket| {
        let mut all = vec![0; local.len() + 11];
        let _ = socket.read_exact(&mut all);
        let _ = told.send(all.split_off(local.len()));
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let _ = socket.shutdown(Shutdown::Write);
    });
    let (two, _) = hearing();
    let _adit = Adit::start(format!(
        "{}--target {} --allow-all --proxy-protocol --target-status /well",
        pki.server(one.addr),
        two.addr
    ));
    assert_eq!(heard.recv_timeout(LIMIT).unwrap(), b"GET /well H");
}

#[test]
fn a_target_that_speaks_tls_sees_a_handshake_and_an_end_in_order() {
    let pki = Pki::new();
    for versions in [ONLY12, ONLY13] {
        let (told, heard) = mpsc::channel();
        let far = || {
            let told = told.clone();
            tls_backend(versions, &pki.server, Demand::Of(&pki.ca), move |mut session| {
                patient(&session.sock);
                let heard = session.rest();
                // A reset would come now, if what was sent with the handshake was left unread.
                std::thread::sleep(std::time::Duration::from_millis(100));
                let ended = session.end().and_then(|()| session.sock.take_error());
                let _ = told.send((heard, ended));
            })
        };
        let (one, two) = (far(), far());
        let adit = Adit::start(format!("{} --target {}", pki.client(one.addr), two.addr));
        for _ in 0..2 {
            let (rest, ended) = heard.recv_timeout(LIMIT).unwrap();
            assert_eq!(rest.unwrap(), b"");
            assert!(ended.unwrap().is_none());
        }
        assert_eq!(adit.count("unhealthy"), 0);
    }
}

/// Two of adit: the client's checks are nothing that the server complains about.
#[test]
fn the_checks_of_a_client_are_connections_in_order_at_a_server() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let servers = [(); 2].map(|()| Adit::start(pki.server(echo.addr) + "--allow-cn app"));
    let client =
        Adit::start(format!("{} --target {}", pki.client(servers[0].addr), servers[1].addr));
    for server in &servers {
        server.logs("reason=\"completed\"");
        assert_eq!(server.count(" ERROR "), 0);
    }
    assert_eq!(ask(client.addr, b"hello").unwrap(), b"hello");
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    assert_eq!(caller.says(servers[1].addr, "hello").unwrap(), "hello");
}

//! Targets behind a forward proxy: HTTP CONNECT and SOCKS5.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    backends::{Backend, ask, nobody},
    peers::{BOTH, Demand, tls_backend, tls_echo},
    pki::Pki,
    process::Adit,
};

/// What a proxy was asked for.
type Asked = Arc<Mutex<Vec<String>>>;

/// Carries bytes both ways until both have ended.
fn join(one: TcpStream, other: TcpStream) {
    thread::scope(|scope| {
        for (from, to) in [(&one, &other), (&other, &one)] {
            scope.spawn(move || {
                let (mut from, mut to) = (from, to);
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    });
}

/// An HTTP proxy that answers with this line, and goes to `target` whatever name it hears.
fn http(target: SocketAddr, answer: &'static str) -> (Backend, Asked) {
    let asked = Asked::default();
    let heard = Arc::clone(&asked);
    let proxy = Backend::start(move |mut socket| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && socket.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
        }
        heard.lock().unwrap().push(String::from_utf8(head).unwrap());
        socket.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).unwrap();
        if answer.starts_with("200") {
            join(socket, TcpStream::connect(target).unwrap());
        }
    });
    (proxy, asked)
}

/// A SOCKS5 proxy (RFC 1928) with this status, which wants a name and password (RFC 1929) or not.
fn socks5(target: SocketAddr, status: u8, method: u8) -> (Backend, Asked) {
    let asked = Asked::default();
    let heard = Arc::clone(&asked);
    let proxy = Backend::start(move |mut socket| {
        let take = |n: usize| {
            let mut bytes = vec![0; n];
            (&socket).read_exact(&mut bytes).unwrap();
            bytes
        };
        let offered = usize::from(take(2)[1]);
        assert!(take(offered).contains(&method));
        (&socket).write_all(&[5, method]).unwrap();
        if method == 2 {
            let name_len = usize::from(take(2)[1]);
            let name = String::from_utf8(take(name_len)).unwrap();
            let password_len = usize::from(take(1)[0]);
            let password = String::from_utf8(take(password_len)).unwrap();
            heard.lock().unwrap().push(format!("{name}:{password}"));
            (&socket).write_all(&[1, 0]).unwrap();
        }
        assert_eq!(take(4), [5, 1, 0, 3], "a name is expected");
        let len = usize::from(take(1)[0]);
        let host = String::from_utf8(take(len)).unwrap();
        let port = take(2);
        let port = u16::from_be_bytes([port[0], port[1]]);
        heard.lock().unwrap().push(format!("{host}:{port}"));
        socket.write_all(&[5, status, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        if status == 0 {
            join(socket, TcpStream::connect(target).unwrap());
        }
    });
    (proxy, asked)
}

/// The target's name is one that only the proxy knows.
fn client(pki: &Pki, proxy: &str) -> Adit {
    Adit::start(
        pki.client("db.example.org:5432") + &format!("--connect-timeout 3s --proxy {proxy}"),
    )
}

#[test]
fn http_connect_reaches_a_target_that_only_the_proxy_knows() {
    let pki = Pki::new();
    let backend = tls_backend(BOTH, &pki.server, Demand::Of(&pki.ca), tls_echo);
    let (proxy, asked) = http(backend.addr, "200 Connection established");
    let adit = client(&pki, &format!("http://me:s%40crt@{}", proxy.addr));
    assert_eq!(ask(adit.addr, b"hello").unwrap(), b"hello");
    let asked = asked.lock().unwrap().concat();
    assert!(asked.starts_with("CONNECT db.example.org:5432 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic bWU6c0BjcnQ=\r\n"), "{asked}");
    assert_eq!(adit.count("s@crt"), 0, "a password is in the log");
}

#[test]
fn socks5_reaches_a_target_that_only_the_proxy_knows() {
    let pki = Pki::new();
    let backend = tls_backend(BOTH, &pki.server, Demand::Of(&pki.ca), tls_echo);
    for (user, method, said) in
        [("", 0, &["db.example.org:5432"][..]), ("me:pw@", 2, &["me:pw", "db.example.org:5432"])]
    {
        let (proxy, asked) = socks5(backend.addr, 0, method);
        let adit = client(&pki, &format!("socks5://{user}{}", proxy.addr));
        assert_eq!(ask(adit.addr, b"hello").unwrap(), b"hello");
        assert_eq!(asked.lock().unwrap().as_slice(), said);
    }
}

/// Whoever asks hears an end, and the log says that it was the proxy.
#[test]
fn a_proxy_that_refuses_or_is_not_there_is_named() {
    let pki = Pki::new();
    let (forbids, _) = http(nobody(), "403 Forbidden");
    let (asks, _) = http(nobody(), "407 Proxy Authentication Required");
    let (cannot, _) = socks5(nobody(), 5, 0);
    let silent = Backend::start(|mut socket| {
        // Until the caller gives up.
        while crate::wait::read_once(&mut socket, &mut [0; 4096]).is_ok_and(|n| n > 0) {}
    });
    for (proxy, why) in [
        (format!("http://{}", forbids.addr), "unsuccessful"),
        (format!("http://{}", asks.addr), "authorization required"),
        (format!("socks5://{}", cannot.addr), "refused"),
        (format!("http://{}", nobody()), "refused"),
        (format!("http://{}", silent.addr), "not ready after 3s"),
    ] {
        let adit = client(&pki, &proxy);
        assert!(!ask(adit.addr, b"hello").is_ok_and(|said| said == b"hello"));
        let line = adit.logs("direction");
        assert!(line.to_lowercase().contains(why), "{proxy}: {line}");
    }
}

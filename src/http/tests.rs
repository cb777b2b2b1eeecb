//! The server over real sockets, with clients that are slow, silent, endless, deaf or many.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ::http::{Request, StatusCode};
use bytes::Bytes;
use futures_util::stream::unfold;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use super::{Answer, Deadlines, Handler, Limits, Methods, Readers, Server, stream, text};
use crate::lifecycle::Tasks;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// More than the buffers of two sockets hold.
const BIG: usize = 32 << 20;

struct Pages;

impl Handler for Pages {
    fn methods(&self, path: &str) -> Methods {
        if path == "/change" { Methods::Change } else { Methods::Read }
    }

    async fn handle(&self, request: &Request<Bytes>) -> Answer {
        match request.uri().path() {
            "/stream" => stream(
                "text/plain",
                unfold(0, |n| async move {
                    tokio::time::sleep(SOON / 4).await;
                    (n < 10).then(|| (Bytes::from_static(b"line\n"), n + 1))
                }),
                "",
            ),
            "/endless" => stream(
                "text/plain",
                unfold((), |()| async move {
                    tokio::time::sleep(SOON / 4).await;
                    Some((Bytes::from_static(b"line\n"), ()))
                }),
                "the last\n",
            ),
            "/big" => text(StatusCode::OK, vec![b'a'; BIG]),
            _ => text(StatusCode::OK, format!("{} bytes\n", request.body().len())),
        }
    }
}

/// Deadlines of which only the one that a test is about is short.
const LONG: Deadlines = Deadlines {
    handshake: PATIENCE,
    head: PATIENCE,
    body: PATIENCE,
    write: PATIENCE,
    lifetime: PATIENCE,
};
const SOON: Duration = Duration::from_millis(300);

/// A server on 127.0.0.1, until its tasks are cut.
struct Running {
    addr: SocketAddr,
    conns: Tasks,
    tasks: Tasks,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

async fn serve(limits: Limits) -> Running {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tasks = Tasks::default();
    let conns = tasks.child();
    let server =
        Server { name: "test", limits, readers: Readers::ByOwnName, names: vec!["node7".into()] };
    tasks.spawn(server.run(listener, Arc::new(Pages), conns.clone()));
    Running { addr: (Ipv4Addr::LOCALHOST, port).into(), conns, tasks }
}

async fn with(deadlines: Deadlines) -> Running {
    serve(Limits { deadlines, ..Limits::OPERATORS }).await
}

impl Running {
    /// From another loopback address.
    async fn connect_from(&self, last: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        socket.connect(self.addr).await.unwrap()
    }

    /// What is answered to bytes as they are, until the server closes.
    async fn answer_to(&self, said: &str) -> String {
        answer_of(TcpStream::connect(self.addr).await.unwrap(), said).await
    }

    async fn until_idle(&self) {
        self.until_at_most(0).await;
    }

    async fn until_at_most(&self, open: usize) {
        timeout(PATIENCE, async {
            while self.conns.len() > open {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{} connections, not {open}", self.conns.len()));
    }
}

async fn answer_of(mut socket: TcpStream, said: &str) -> String {
    socket.write_all(said.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer has come is as good as an end.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it is closed");
    String::from_utf8(answer).unwrap()
}

const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_slow_head_and_an_idle_connection_are_closed() {
    let server = with(Deadlines { head: SOON, ..LONG }).await;
    let idle = GET.replace("connection: close\r\n", "");
    for (said, code) in [("", ""), ("GET / HTTP/1.1\r\nhost:", ""), (idle.as_str(), "200 OK")] {
        let begun = Instant::now();
        let answer = server.answer_to(said).await;
        assert!(answer.contains(code) && answer.is_empty() == code.is_empty(), "{answer}");
        assert!(begun.elapsed() < PATIENCE / 2, "{said:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_long_head_and_many_fields_are_refused() {
    let server = with(LONG).await;
    let field = format!("x: {}\r\n", "a".repeat(64 << 10));
    for fields in [field, "x: y\r\n".repeat(65)] {
        let answer = server.answer_to(&format!("GET / HTTP/1.1\r\n{fields}\r\n")).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let few = "x: y\r\n".repeat(60);
    let answer = server.answer_to(&GET.replace("host:", &format!("{few}host:"))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_body_is_taken_whole_or_refused() {
    let server = with(Deadlines { body: SOON, ..LONG }).await;
    let post = "POST /change HTTP/1.1\r\nhost: localhost\r\n";
    let endless = format!("4000\r\n{}\r\n", "a".repeat(0x4000)).repeat(2);
    for (rest, status, says) in [
        ("connection: close\r\ncontent-length: 3\r\n\r\nabc".to_owned(), "200 OK", "3 bytes"),
        ("connection: close\r\n\r\n".to_owned(), "200 OK", "0 bytes"),
        (format!("transfer-encoding: chunked\r\n\r\n{endless}"), "413", "longer than 16384 bytes"),
        ("content-length: 16385\r\n\r\n".to_owned(), "413", "longer than 16384 bytes"),
        ("content-length: 3\r\n\r\na".to_owned(), "408", "did not arrive within 300ms"),
        ("transfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(), "400", "not complete"),
    ] {
        let answer = server.answer_to(&format!("{post}{rest}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{rest:.40}: {answer}");
        assert!(answer.contains(says), "{rest:.40}: {answer}");
    }
    server.until_idle().await;
}

#[tokio::test]
async fn a_reader_that_never_reads_is_closed_and_a_slow_one_gets_all() {
    let server = with(Deadlines { write: SOON, ..LONG }).await;
    let ask = GET.replace("GET / ", "GET /big ");
    let mut deaf = TcpStream::connect(server.addr).await.unwrap();
    deaf.write_all(ask.as_bytes()).await.unwrap();
    let begun = Instant::now();
    deaf.readable().await.unwrap();
    server.until_idle().await;
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    drop(deaf);

    let mut slow = TcpStream::connect(server.addr).await.unwrap();
    slow.write_all(ask.as_bytes()).await.unwrap();
    let (mut room, mut got) = (vec![0; 4 << 20], 0);
    // Longer than the deadline in all, never so long without taking anything.
    while let Ok(n @ 1..) = slow.read(&mut room).await {
        got += n;
        tokio::time::sleep(SOON / 10).await;
    }
    assert!(got > BIG, "{got} bytes");
}

#[tokio::test]
async fn a_connection_lasts_no_longer_than_its_lifetime() {
    let server = with(Deadlines { lifetime: SOON, ..LONG }).await;
    let begun = Instant::now();
    assert_eq!(server.answer_to("GET / HTTP/1.1\r\n").await, "");
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
}

/// Longer than a connection lasts else; it is the last answer of its connection.
#[tokio::test]
async fn a_stream_has_no_lifetime() {
    let server = with(Deadlines { lifetime: SOON, write: SOON, ..LONG }).await;
    let ask = "GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let answer = server.answer_to(&ask.repeat(2)).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    assert_eq!(answer.matches("line\n").count(), 10, "{answer}");
}

#[tokio::test]
async fn many_from_one_address_close_their_own_and_leave_places_for_others() {
    let limits = Limits { connections: 6, per_address: 4, deadlines: LONG, ..Limits::OPERATORS };
    let server = serve(limits).await;
    let first = server.connect_from(2).await;
    let mut many = Vec::new();
    for _ in 0..20 {
        many.push(server.connect_from(3).await);
    }
    let mut oldest = many.remove(0);
    let closed = timeout(PATIENCE, oldest.read(&mut [0; 1])).await.expect("the oldest is closed");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    // Four of the many, and the first.
    server.until_at_most(5).await;
    // The two others were there before and after the many, and both are served.
    let last = server.connect_from(4).await;
    for socket in [last, first] {
        assert!(answer_of(socket, GET).await.starts_with("HTTP/1.1 200"));
    }
    // In all no more than the limit: everybody counts.
    let all: Vec<_> =
        futures_util::future::join_all((5..30).map(|last| server.connect_from(last))).await;
    let newest = server.connect_from(30).await;
    assert!(answer_of(newest, GET).await.starts_with("HTTP/1.1 200"));
    assert!(server.conns.len() <= 7, "{} connections", server.conns.len());
    drop(all);
}

/// The next bytes of a stream, or none where it has ended.
async fn more_of(socket: &mut TcpStream) -> String {
    let mut room = [0; 1024];
    let read = timeout(PATIENCE, socket.read(&mut room)).await.expect("more, or an end");
    String::from_utf8_lossy(&room[..read.unwrap_or_default()]).into_owned()
}

impl Running {
    /// A stream for a client at this address, and what is answered first.
    async fn stream_to(&self, last: u8) -> (TcpStream, String) {
        let mut socket = self.connect_from(last).await;
        socket.write_all(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let first = more_of(&mut socket).await;
        (socket, first)
    }
}

#[tokio::test]
async fn a_stream_goes_for_no_connection_and_keeps_none_away() {
    let limits = Limits { connections: 4, per_address: 3, deadlines: LONG, ..Limits::OPERATORS };
    let server = serve(limits).await;
    let (mut oldest, answer) = server.stream_to(3).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let others: Vec<_> =
        futures_util::future::join_all((0..20).map(|n| server.connect_from(3 + n % 5))).await;
    server.until_at_most(5).await;
    for _ in 0..3 {
        assert!(more_of(&mut oldest).await.contains("line\n"));
    }
    drop(others);
}

#[tokio::test]
async fn streams_are_shared_between_addresses() {
    let server = with(LONG).await;
    let mut open = Vec::new();
    for (n, last) in [3, 3, 4, 4, 5, 5, 6, 6].into_iter().enumerate() {
        let (socket, answer) = server.stream_to(last).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{n}: {answer}");
        open.push(socket);
    }
    // A third of one address goes for the oldest of that address, which is told why.
    for last in [5, 3] {
        let (socket, answer) = server.stream_to(last).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mut replaced = open.remove(if last == 5 { 4 } else { 0 });
        let mut heard = String::new();
        while let more = more_of(&mut replaced).await
            && !more.is_empty()
        {
            heard += &more;
        }
        assert!(heard.ends_with("the last\n\r\n0\r\n\r\n"), "{heard}");
        open.push(socket);
    }
    server.until_at_most(8).await;
    for socket in &mut open {
        assert!(more_of(socket).await.contains("line\n"));
    }
    // Somebody at another address has one of a source that has two.
    let (mut newest, answer) = server.stream_to(7).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.until_at_most(8).await;
    assert!(more_of(&mut newest).await.contains("line\n"));
    // Whoever has one keeps it, however many addresses somebody else has.
    drop((open, newest));
    server.until_idle().await;
    let mut alone = server.stream_to(9).await.0;
    let mut many = Vec::new();
    for last in 10..30 {
        many.push(server.stream_to(last).await);
        assert!(more_of(&mut alone).await.contains("line\n"), "{last}");
    }
    let (refused, answer) = many.pop().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("too many clients are already listening"), "{answer}");
    drop((many, refused));
}

#[tokio::test]
async fn who_changes_something_comes_from_no_web_page() {
    let server = with(LONG).await;
    let port = server.addr.port();
    for (line, host, more, status) in [
        ("POST /change", "localhost", "", "200"),
        ("POST /change", &format!("127.0.0.1:{port}"), "", "200"),
        ("POST /change", "node7", "", "200"),
        ("POST /change", "evil.example", "", "403"),
        ("POST /change", "localhost", "origin: http://evil.example\r\n", "403"),
        ("POST /change", "localhost", "sec-fetch-site: same-site\r\n", "403"),
        ("POST http://evil.example/change", "localhost", "", "403"),
        ("POST /change", "localhost\r\nhost: evil.example", "", "403"),
        ("GET /", "evil.example", "", "403"),
        ("GET /change", "localhost", "", "405"),
        ("POST /", "evil.example", "", "405"),
    ] {
        let said = format!("{line} HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\n\r\n");
        let answer = server.answer_to(&said).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{said}: {answer}");
    }
}

//! Command lines of a server, its callers, and whoever asks how it is.

use std::{
    ffi::OsString,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
};

use serde_json::Value;

use super::pki::Pki;
use crate::{
    process::{Adit, command_of},
    wait::{LIMIT, wait_for},
};

pub(crate) fn free_port() -> SocketAddr {
    crate::ports::free()
}

/// A process that ends with the test, and that may not come to listen.
pub(crate) fn start(args: &[String]) -> Adit {
    Adit::launch(command_of(args))
}

/// With more in its environment.
pub(crate) fn start_with(args: &[String], env: &[(&str, OsString)]) -> Adit {
    let mut command = command_of(args);
    command.envs(env.iter().map(|(k, v)| (k, v)));
    Adit::launch(command)
}

/// `adit server …` in front of `target`, for `spiffe://test/app`.
pub(crate) fn server(
    pki: &Pki,
    listen: SocketAddr,
    target: SocketAddr,
    more: &[&str],
) -> Vec<String> {
    let (listen, target) = (listen.to_string(), target.to_string());
    let mut args: Vec<String> =
        ["server", "--listen", &listen, "--target", &target, "--allow-uri", "spiffe://test/app"]
            .map(ToOwned::to_owned)
            .to_vec();
    args.extend(pki.flags("server"));
    args.extend(more.iter().map(|&m| m.to_owned()));
    args
}

/// A TLS connection that has carried `ping`.
pub(crate) type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

pub(crate) fn connect(pki: &Pki, to: SocketAddr) -> std::io::Result<Tls> {
    connect_with(pki.tls(), to)
}

pub(crate) fn connect_with(tls: Arc<rustls::ClientConfig>, to: SocketAddr) -> std::io::Result<Tls> {
    let name = "localhost".try_into().unwrap();
    let connection = rustls::ClientConnection::new(tls, name).unwrap();
    let tcp = TcpStream::connect(to)?;
    tcp.set_read_timeout(Some(LIMIT))?;
    let mut tls = rustls::StreamOwned::new(connection, tcp);
    tls.write_all(b"ping")?;
    let mut answer = [0; 4];
    tls.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(tls)
}

/// One HTTP/1.1 exchange over any stream, with more header lines perhaps: the code and the body.
pub(crate) fn exchange(
    mut stream: impl Read + Write,
    line: &str,
    more: &str,
) -> Option<(u16, String)> {
    let text = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(text.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // A TLS peer that only closes its socket has said all the same.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// `GET path`, or any other request line.
pub(crate) fn ask(addr: SocketAddr, line: &str) -> Option<(u16, String)> {
    let stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    exchange(stream, line, "")
}

pub(crate) fn status_of(addr: SocketAddr) -> Option<(u16, Value)> {
    let (code, body) = ask(addr, "GET /_status")?;
    Some((code, serde_json::from_str(&body).unwrap()))
}

pub(crate) fn status_over(path: &Path) -> Option<(u16, Value)> {
    let stream = UnixStream::connect(path).ok()?;
    let (code, body) = exchange(stream, "GET /_status", "")?;
    Some((code, serde_json::from_str(&body).unwrap()))
}

/// Waits until `/_status` says `message`.
pub(crate) fn until_status(addr: SocketAddr, message: &str) -> Value {
    wait_for(message, LIMIT, || status_of(addr).map(|(_, s)| s).filter(|s| s["message"] == message))
}

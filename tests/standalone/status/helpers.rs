//! A real `adit`, what it prints, and what it tells its service manager.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::pki::Pki;
pub(crate) use crate::manager::Manager;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) fn free_port() -> SocketAddr {
    crate::ports::free()
}

/// Waits until `look` finds something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: has not come");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A process that ends with the test.
pub(crate) struct Adit {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Adit {
    pub(crate) fn start(args: &[String]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_adit")).args(args))
    }

    /// With more in its environment.
    pub(crate) fn start_with(args: &[String], env: &[(&str, OsString)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        Self::run(command.args(args).envs(env.iter().map(|(k, v)| (k, v))))
    }

    fn run(command: &mut Command) -> Self {
        Self::run_with(command.stdout(Stdio::piped()))
    }

    /// Whose standard output is as it was said.
    pub(crate) fn run_with(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let stdout = child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>);
        let stderr = child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>);
        for stream in stdout.into_iter().chain(stderr) {
            let output = Arc::clone(&output);
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    *output.lock().unwrap() += &(line + "\n");
                }
            });
        }
        Self { child, output }
    }

    pub(crate) fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    pub(crate) fn says(&self, what: &str) {
        let begun = Instant::now();
        while !self.output().contains(what) {
            assert!(begun.elapsed() < PATIENCE, "{what:?} is not in\n{}", self.output());
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn ends(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it goes on:\n{}", self.output());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Adit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- adit said:\n{}", self.output());
        }
    }
}

/// Echoes on a port until it is dropped.
pub(crate) struct Echo {
    pub(crate) addr: SocketAddr,
    stop: Arc<Mutex<bool>>,
}

impl Echo {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = Arc::new(Mutex::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if *stopped.lock().unwrap() {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                thread::spawn(move || {
                    let mut room = [0; 4096];
                    while let Ok(n @ 1..) = stream.read(&mut room) {
                        if stream.write_all(&room[..n]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { addr, stop }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        *self.stop.lock().unwrap() = true;
        let _ = TcpStream::connect(self.addr);
    }
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
    tcp.set_read_timeout(Some(PATIENCE))?;
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
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
    until(message, || status_of(addr).map(|(_, s)| s).filter(|s| s["message"] == message))
}

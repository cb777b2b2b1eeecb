//! `/_status` and `/_shutdown`.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{
    helpers::{
        ask, connect, exchange, free_port, server, start, status_of, status_over, until_status,
    },
    pki::Pki,
};
use crate::{
    backends::Backend,
    wait::{LIMIT, wait_for},
};

#[test]
fn it_tells_of_listener_target_and_certificate_until_the_target_is_gone() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let url = format!("http://{at}");
    let _adit = start(&server(&pki, listen, echo.addr, &["--status", &url]));
    until_status(at, "listening");
    let _open = connect(&pki, listen).unwrap();
    let (code, status) = status_of(at).unwrap();
    assert_eq!((code, &status["ok"], &status["status"]), (200, &true.into(), &"ok".into()));
    assert_eq!(status["listen_address"], listen.to_string());
    assert_eq!(status["forward_address"], echo.addr.to_string());
    assert_eq!((&status["backend_ok"], &status["backend_status"]), (&true.into(), &"ok".into()));
    for field in ["time", "last_reload", "hostname", "revision"] {
        assert!(!status[field].as_str().unwrap().is_empty(), "{field}: {status:#}");
    }
    let aead = status["tls"]["aead"].as_array().unwrap();
    let ciphers: Vec<_> = aead.iter().map(|of| of["cipher"].as_str().unwrap()).collect();
    assert_eq!(ciphers, ["AES-128-GCM", "AES-256-GCM", "ChaCha20-Poly1305"]);
    for of in aead {
        let by = of["implementation"].as_str().unwrap();
        assert!(of["megabytesPerSecond"][by].as_u64().unwrap() > 0, "{status:#}");
    }
    assert!(status["compiler"].as_str().unwrap().starts_with("rustc "), "{status:#}");
    assert!(status.get("backend_error").is_none() && status.get("draining").is_none());
    let service = &status["services"][0];
    assert_eq!((&service["open_connections"], &service["role"]), (&1.into(), &"server".into()));
    let certificate = &service["certificate"];
    assert_eq!(certificate["subject"], "CN=localhost");
    assert_eq!(certificate["source"], format!("file {}", pki.path("server.crt").display()));
    assert!(certificate["not_after"].as_str().unwrap().contains('T'), "{status:#}");

    let gone = echo.addr;
    drop(echo);
    let (code, status) = wait_for("503", LIMIT, || status_of(at).filter(|(code, _)| *code == 503));
    assert_eq!((code, &status["ok"], &status["status"]), (503, &false.into(), &"critical".into()));
    assert_eq!(status["backend_status"], "critical");
    let why = status["backend_error"].as_str().unwrap();
    assert!(why.contains(&format!("connect to {gone}")), "{why}");
}

/// Callers refuse it from then on, which the log says while there is time.
#[test]
fn a_server_whose_own_certificate_has_expired_is_critical() {
    let pki = Pki::new().lasting(Duration::from_secs(12));
    let (echo, listen, at) = (Backend::echo(), free_port(), free_port());
    let url = format!("http://{at}");
    let adit = start(&server(&pki, listen, echo.addr, &["--status", &url]));
    adit.logs("own certificate CN=localhost expires soon: … renew it");
    let (_, status) = wait_for("503", LIMIT, || status_of(at).filter(|(code, _)| *code == 503));
    assert_eq!((&status["ok"], &status["status"]), (&false.into(), &"critical".into()));
    assert_eq!(status["backend_ok"], true, "{status:#}");
    assert_eq!(status["services"][0]["certificate"]["expired"], true, "{status:#}");
    adit.logs("own certificate CN=localhost has expired: … renew it");
}

#[test]
fn https_with_the_services_own_certificate_unless_http_is_written() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let address = at.to_string();
    let adit = start(&server(&pki, listen, echo.addr, &["--status", &address]));
    adit.logs("listening");
    let tcp = TcpStream::connect(at).unwrap();
    tcp.set_read_timeout(Some(LIMIT)).unwrap();
    let name = "localhost".try_into().unwrap();
    let tls = rustls::ClientConnection::new(pki.tls(), name).unwrap();
    let stream = rustls::StreamOwned::new(tls, tcp);
    let (code, body) = exchange(stream, "GET /_status", "").unwrap();
    assert_eq!(code, 200, "{body}");
    assert_eq!(ask(at, "GET /_status"), None, "plaintext is not answered");
}

#[test]
fn a_unix_socket_is_plain_and_goes_with_the_process() {
    let (pki, echo, listen) = (Pki::new(), Backend::echo(), free_port());
    let path = pki.path("status.sock");
    let address = format!("unix:{}", path.display());
    let mut adit = start(&server(&pki, listen, echo.addr, &["--status", &address]));
    adit.logs("listening");
    assert_eq!(status_over(&path).unwrap().0, 200);
    adit.signal(Signal::SIGTERM);
    assert!(adit.ends().success());
    assert!(!path.exists());
}

#[test]
fn while_certificates_are_waited_for_it_is_initializing() {
    let (pki, echo, at) = (Pki::new(), Backend::echo(), free_port());
    let (target, url) = (echo.addr.to_string(), format!("http://{at}"));
    let api = format!("unix://{}", pki.path("nobody.sock").display());
    let args = ["server", "--listen", "127.0.0.1:0", "--target", &target, "--allow-all"];
    let more = ["--use-workload-api-addr", &api, "--status", &url];
    let args: Vec<String> = args.iter().chain(&more).map(|&a| a.to_owned()).collect();
    let mut adit = start(&args);
    let (code, status) = wait_for("an answer", LIMIT, || status_of(at));
    assert_eq!((code, &status["message"]), (503, &"initializing".into()));
    assert_eq!(status["forward_address"], target);
    adit.signal(Signal::SIGTERM);
    assert!(adit.ends().success());
}

#[test]
fn a_status_url_of_the_target_must_answer_200() {
    let (pki, listen, at) = (Pki::new(), free_port(), free_port());
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = web.local_addr().unwrap();
    // The first is well, the others are not.
    thread::spawn(move || {
        for (n, stream) in web.incoming().take(40).enumerate() {
            let mut stream = stream.unwrap();
            let mut room = [0; 4096];
            let Ok(read) = crate::wait::read_once(&mut stream, &mut room) else { continue };
            let asked = room[..read].starts_with(b"GET /healthz HTTP/1.1\r\nhost: app.test\r\n");
            let code = if asked && n == 0 { "200 OK" } else { "500 Oh" };
            let answer = format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let url = format!("http://{at}");
    let more = ["--status", &url, "--target-status", "http://app.test/healthz"];
    let adit = start(&server(&pki, listen, target, &more));
    adit.logs("listening");
    let (code, status) = status_of(at).unwrap();
    assert_eq!(code, 200, "{status:#}");
    let (code, status) = status_of(at).unwrap();
    assert_eq!(code, 503, "{status:#}");
    let why = status["backend_error"].as_str().unwrap();
    assert!(why.contains("http://app.test/healthz: answered 500"), "{why}");
}

#[test]
fn many_who_ask_cost_the_target_one_connection_at_a_time() {
    let (pki, listen, at) = (Pki::new(), free_port(), free_port());
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = target.local_addr().unwrap();
    let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (open, highest) = (Arc::clone(&now), Arc::clone(&most));
    thread::spawn(move || {
        for stream in target.incoming() {
            let (mut stream, open) = (stream.unwrap(), Arc::clone(&open));
            highest.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
            thread::spawn(move || {
                let _ = crate::wait::read_once(&mut stream, &mut [0; 1024]);
                // Long enough for the others to ask.
                thread::sleep(Duration::from_millis(100));
                open.fetch_sub(1, SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            });
        }
    });
    let url = format!("http://{at}");
    let more = ["--status", &url, "--target-status", "http://app.test/"];
    let adit = start(&server(&pki, listen, addr, &more));
    adit.logs("listening");
    let askers: Vec<_> = (0..20).map(|_| thread::spawn(move || status_of(at))).collect();
    for asker in askers {
        assert_eq!(asker.join().unwrap().unwrap().0, 200);
    }
    assert_eq!(most.load(SeqCst), 1);
}

#[test]
fn a_client_makes_the_whole_handshake_with_its_target() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (listen, at, plain, wrong) = (free_port(), free_port(), free_port(), free_port());
    let far = start(&server(&pki, listen, echo.addr, &[]));
    far.logs("listening");
    let start = |at, plain, verify: &str| {
        let (port, url) = (listen.port(), format!("http://{at}"));
        let (target, plain) = (format!("localhost:{port}"), format!("{plain}"));
        let args = ["client", "--listen", &plain, "--target", &target, "--status", &url];
        let mut args: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
        args.extend(pki.flags("app"));
        args.extend(["--verify-cn".to_owned(), verify.to_owned()]);
        start(&args)
    };
    let _well = start(at, plain, "localhost");
    until_status(at, "listening");
    let (code, status) = status_of(at).unwrap();
    assert_eq!(code, 200, "{status:#}");
    assert_eq!(status["services"][0]["certificate"]["spiffe_id"], "spiffe://test/app");
    let _ill = start(wrong, free_port(), "somebody");
    until_status(wrong, "listening");
    let (code, status) = status_of(wrong).unwrap();
    assert_eq!(code, 503, "{status:#}");
    assert!(status["backend_error"].as_str().unwrap().contains("CN=localhost matches no rule"));
}

#[test]
fn a_reload_that_is_refused_is_told_of_and_changes_nothing() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let url = format!("http://{at}");
    let adit = start(&server(&pki, listen, echo.addr, &["--status", &url]));
    until_status(at, "listening");
    std::fs::write(pki.path("server.crt"), "nonsense").unwrap();
    adit.signal(Signal::SIGHUP);
    let status = wait_for("the error", LIMIT, || {
        status_of(at).filter(|(_, s)| !s["services"][0]["last_reload_error"].is_null())
    });
    assert_eq!(status.0, 200, "{status:#?}");
    let error = status.1["services"][0]["last_reload_error"].as_str().unwrap();
    assert!(error.contains("server.crt"), "{error}");
    connect(&pki, listen).unwrap();
}

/// Callers that say nothing, until traffic has all descriptors it may have: who asks how it is gets
/// a few of the others, and a reload still reads files.
#[test]
fn the_last_descriptors_are_for_status_and_reload() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let url = format!("http://{at}");
    let adit = start(&server(&pki, listen, echo.addr, &["--status", &url]));
    until_status(at, "listening");
    let pid = adit.pid().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, "--nofile=300:"]).status();
    assert!(limited.is_ok_and(|s| s.success()), "`prlimit` of the package util-linux runs");
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let _silent: Vec<_> = (0..300).map(|_| TcpStream::connect(listen).unwrap()).collect();
    adit.logs("accept failed; trying again after a pause");
    let full = open();
    assert!((200..=240).contains(&full), "{full} descriptors are taken");
    let _asking: Vec<_> = (0..30).map(|_| TcpStream::connect(at).unwrap()).collect();
    thread::sleep(Duration::from_millis(500));
    assert!(open() <= full + 12, "{} descriptors are taken, {full} before", open());
    let (code, status) = status_of(at).unwrap();
    assert_eq!(code, 200, "{status:#}");
    std::fs::write(pki.path("server.crt"), "nonsense").unwrap();
    adit.signal(Signal::SIGHUP);
    let told = |s: &serde_json::Value| s["services"][0]["last_reload_error"].to_string();
    let error =
        wait_for("the error", LIMIT, || Some(told(&status_of(at)?.1)).filter(|e| e != "null"));
    assert!(error.contains("server.crt") && !error.contains("open files"), "{error}");
}

#[test]
fn shutdown_needs_its_flag_a_post_and_no_web_page() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let url = format!("http://{at}");
    let mut careful = start(&server(&pki, listen, echo.addr, &["--status", &url]));
    until_status(at, "listening");
    assert_eq!(ask(at, "POST /_shutdown").unwrap().0, 405);
    assert!(careful.runs());
    drop(careful);
    let (listen, at) = (free_port(), free_port());
    let url = format!("http://{at}");
    let more = ["--status", &url, "--enable-shutdown"];
    let mut adit = start(&server(&pki, listen, echo.addr, &more));
    until_status(at, "listening");
    assert_eq!(ask(at, "GET /_shutdown").unwrap().0, 405);
    for (host, more) in [
        ("localhost", "\r\nOrigin: http://evil.test"),
        ("localhost", "\r\nSec-Fetch-Site: cross-site"),
        // A page whose name leads to this address by now (DNS rebinding).
        ("evil.test", ""),
        ("localhost.evil.test", ""),
    ] {
        let line = format!("POST /_shutdown HTTP/1.1\r\nHost: {host}{more}\r\nX: y");
        assert_eq!(ask(at, &line).unwrap().0, 403, "{line}");
    }
    assert_eq!(ask(at, "GET /elsewhere").unwrap().0, 404);
    assert!(adit.runs());
    let literal = TcpStream::connect(at).unwrap();
    let said = format!("POST /_shutdown HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    assert!(answer(literal, &said).starts_with("HTTP/1.1 200"));
    assert_eq!(adit.ends().code(), Some(0));
}

/// What is answered in the end: a busy machine may be too late with a request, which is closed.
fn answered(at: SocketAddr, line: &str) -> u16 {
    wait_for(line, LIMIT, || ask(at, line)).0
}

/// Asks until all is well, while others are held that would go by themselves only later.
fn is_well(at: SocketAddr) {
    wait_for("an answer that all is well", LIMIT, || {
        status_of(at).filter(|(code, _)| *code == 200)
    });
}

/// On all addresses, where it is called by the machine's name, and on a Unix socket.
#[test]
fn a_page_stops_no_process_wherever_it_listens_and_operators_do() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let port = free_port().port();
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let url = format!("http://0.0.0.0:{port}");
    let more = ["--status", &url, "--enable-shutdown"];
    let mut adit = start(&server(&pki, free_port(), echo.addr, &more));
    until_status(at, "listening");
    let over_tcp = |line: &str, host: &str| {
        let said = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        answer(TcpStream::connect(at).unwrap(), &said)
    };
    let own = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert!(over_tcp("POST /_shutdown", "evil.test").starts_with("HTTP/1.1 403"));
    assert!(adit.runs());
    assert!(over_tcp("POST /_shutdown", &own).starts_with("HTTP/1.1 200"));
    assert!(adit.ends().success());

    let path = pki.path("status.sock");
    let address = format!("unix:{}", path.display());
    let more = ["--status", &address, "--enable-shutdown"];
    let mut adit = start(&server(&pki, free_port(), echo.addr, &more));
    adit.logs("listening");
    let over_unix = |line: &str, host: &str| {
        let said = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        answer(std::os::unix::net::UnixStream::connect(&path).unwrap(), &said)
    };
    assert!(over_unix("POST /_shutdown", "evil.test").starts_with("HTTP/1.1 403"));
    assert!(adit.runs());
    assert!(over_unix("POST /_shutdown", "status").starts_with("HTTP/1.1 200"));
    assert!(adit.ends().success());
}

/// Of a peer that closes.
fn answer(mut stream: impl std::io::Read + std::io::Write, said: &str) -> String {
    stream.write_all(said.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn callers_that_say_nothing_do_not_keep_others_out() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let url = format!("http://{at}");
    let _adit = start(&server(&pki, listen, echo.addr, &["--status", &url]));
    until_status(at, "listening");
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(at).unwrap()).collect();
    is_well(at);
    drop(silent);
}

#[test]
fn callers_that_say_nothing_and_web_pages_that_say_too_much() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let url = format!("http://{at}");
    let _adit = start(&server(&pki, listen, echo.addr, &["--status", &url]));
    until_status(at, "listening");
    // Silent ones, and some that ask again and again and never read: these have a minute.
    let mut held: Vec<_> = (0..100).map(|_| TcpStream::connect(at).unwrap()).collect();
    for socket in held.iter_mut().skip(80) {
        socket.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let ask = "GET /_metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(300);
        let _ = socket.write_all(ask.as_bytes());
    }
    is_well(at);
    drop(held);
    for method in ["PUT", "TRACE", "DELETE", "OPTIONS", "POST"] {
        assert_eq!(answered(at, &format!("{method} /_status")), 405, "{method}");
    }
    for (line, expected) in [
        ("GET http://evil.example/_status", 403),
        ("GET /_status HTTP/1.1\r\nHost: evil.example:80\r\nX: y", 403),
        ("GET /_status HTTP/1.1\r\nOrigin: http://evil.example\r\nX: y", 403),
        ("GET /_status", 200),
    ] {
        assert_eq!(answered(at, line), expected, "{line}");
    }
}

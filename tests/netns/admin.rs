//! The admin endpoint on a Unix socket.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, symlink},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    lab::Lab,
    mesh::{PODS, allow, lab},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("admin::a_unix_socket_is_for_the_user_of_adit_alone_and_is_replaced_when_stale", socket),
    ("admin::what_is_no_stale_socket_is_left_alone", others),
    ("admin::events_tell_of_connections_that_open_close_and_are_denied", events),
];

fn ask(path: &Path, request: &str) -> String {
    let mut socket = UnixStream::connect(path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let host = if request.contains("host:") { "" } else { "host: localhost\r\n" };
    write!(socket, "{request} HTTP/1.1\r\n{host}connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

fn body(path: &Path) -> String {
    format!("admin: {{ address: 'unix:{}' }}\n{}", path.display(), allow(&["web"]))
}

fn socket() {
    let mut lab = Lab::new(PODS);
    let path = lab.file("run/admin.sock");
    // The mode of the socket is no matter of the umask.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    lab.start(&body(&path));
    nix::sys::stat::umask(before);
    let is = fs::symlink_metadata(&path).unwrap();
    assert!(is.file_type().is_socket());
    assert_eq!((is.mode() & 0o777, is.uid()), (0o600, nix::unistd::geteuid().as_raw()));
    assert!(ask(&path, "GET /certs").starts_with("HTTP/1.1 200 OK"));
    for (query, filter) in [
        ("level=info", "info"),
        ("level=access:debug", "access=debug,info"),
        ("level=", "access=debug,info"),
        ("level=svid%3Doff%2Cwarning", "access=debug,svid=off,warn"),
        ("level=access=critical&reset", "access=error,info"),
        ("reset", "info"),
    ] {
        let answer = ask(&path, &format!("POST /logging?{query}"));
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        let told = answer.rsplit_once("current log level is ").unwrap().1;
        let mut parts: Vec<_> = told.trim_end().split(',').collect();
        parts.sort_unstable();
        assert_eq!(parts.join(","), filter, "{query}");
    }
    let wrong = ask(&path, "POST /logging?level=inof");
    assert!(wrong.starts_with("HTTP/1.1 400"), "{wrong}");
    assert!(wrong.contains("\r\n\r\nInvalid level provided: inof\n"), "{wrong}");
    assert!(ask(&path, "GET /logging").ends_with("\r\n\r\ninfo\n"), "it changes nothing");
    assert!(ask(&path, "POST /quitquitquit").starts_with("HTTP/1.1 405"), "of ambient nodes");
    let foreign = ask(&path, "POST /logging?level=off HTTP/1.1\r\nhost: evil.example\r\nx: y");
    assert!(foreign.starts_with("HTTP/1.1 403"), "{foreign}");
    assert_eq!(lab.admin("127.0.0.1:15000", "GET /certs"), "", "no process is listening there");
    // Another process leaves it alone.
    let done = Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["run", "-c"])
        .arg(lab.file("mesh.yaml"))
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(1));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let says =
        "another process is listening there; stop it, or choose another address with `admin`";
    assert!(said.contains(says), "{said}");
    assert!(ask(&path, "GET /certs").starts_with("HTTP/1.1 200 OK"));

    lab.signal(Signal::SIGKILL);
    lab.stop_dead();
    assert!(path.exists(), "a stale one");
    lab.start(&body(&path));
    assert!(ask(&path, "GET /connections").starts_with("HTTP/1.1 200 OK"));
    assert!(lab.stop().success());
    assert!(!path.exists());
}

fn others() {
    let lab = Lab::new(PODS);
    let (path, secret) = (lab.file("admin.sock"), lab.file("secret"));
    fs::write(&secret, "text").unwrap();
    let refused = |says: &str| {
        lab.write_mesh(&body(&path));
        let mut adit = Command::new(env!("CARGO_BIN_EXE_adit"));
        let done = adit.args(["run", "-c"]).arg(lab.file("mesh.yaml")).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(1) && said.contains(says), "{said}");
    };
    symlink(&secret, &path).unwrap();
    refused("is not a socket");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "text");
    // Nor is what a link leads to taken for a stale one.
    let stale = lab.file("stale");
    drop(UnixListener::bind(&stale).unwrap());
    fs::remove_file(&path).unwrap();
    symlink(&stale, &path).unwrap();
    refused("is not a socket");
    assert!(stale.exists());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "text").unwrap();
    refused("is not a socket");
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
}

/// To the admin endpoint, from an address of its own.
fn connect_from(last: u8) -> TcpStream {
    let at = |last: u8, port| socket2::SockAddr::from(SocketAddr::from(([127, 0, 0, last], port)));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&at(last, 0)).unwrap();
    socket.connect(&at(1, 15000)).unwrap();
    socket.into()
}

fn events() {
    let lab = lab(&["web"]);
    let listen_at = |last: u8| {
        let mut socket = connect_from(last);
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.write_all(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut lines = BufReader::new(socket).lines();
        let status = lines.next().unwrap().unwrap();
        (status, lines)
    };
    let listen = || listen_at(1);
    let all: Vec<_> = (0..8).map(|n| listen_at(1 + n / 2)).collect();
    assert!(all.iter().all(|(status, _)| status == "HTTP/1.1 200 OK"));
    // A newer client of an address has the place of the oldest of that address, which is told so.
    let mut all = all.into_iter();
    let (_, oldest) = all.next().unwrap();
    assert_eq!(listen().0, "HTTP/1.1 200 OK");
    let told = oldest.map_while(Result::ok).filter(|line| line.starts_with('{')).last().unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["event"], "replaced", "{told}");
    assert!(told["error"].as_str().unwrap().contains("in favour of a newer client"), "{told}");
    let (_, lines) = all.next_back().unwrap();
    drop(all);
    lab.ask("web", "10.96.0.10:80").unwrap();
    lab.ask("spy", "10.96.0.10:80").unwrap_err();
    // The others have gone, and there is room again.
    lab.wait("room", || listen().0 == "HTTP/1.1 200 OK");
    let mut wanted = vec![("opened", "web"), ("closed", "web"), ("denied", "spy")];
    let events = lines.map(Result::unwrap).filter(|line| line.starts_with('{'));
    for event in events {
        let event: serde_json::Value = serde_json::from_str(&event).unwrap();
        let connection = &event["connection"];
        let (kind, from) = (&event["event"], &connection["source"]["workload"]);
        if connection["direction"] == "inbound" {
            wanted.retain(|(k, w)| kind != k || from != w);
        }
        assert_eq!(event["reason"].is_null(), kind == "opened", "{event:#}");
        if wanted.is_empty() {
            return;
        }
    }
    panic!("{wanted:?} were not told of:\n{}", lab.log());
}

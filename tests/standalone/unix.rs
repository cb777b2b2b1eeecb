//! Unix sockets at either end.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    thread,
};

use adit::lifecycle::HandoffClient;

use crate::{
    backends::Backend,
    peers::{BOTH, Caller, Demand, tls_backend, tls_echo},
    pki::Pki,
    process::{Adit, refused},
    wait::{LIMIT, wait_for},
};

fn ask(path: &std::path::Path, words: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.write_all(words)?;
    socket.shutdown(Shutdown::Write)?;
    let mut heard = Vec::new();
    socket.read_to_end(&mut heard)?;
    Ok(heard)
}

#[test]
fn a_target_may_be_a_unix_socket() {
    let pki = Pki::new();
    let listener = UnixListener::bind(pki.path("db.sock")).unwrap();
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten().take(2) {
            let mut all = Vec::new();
            socket.read_to_end(&mut all).unwrap();
            socket.write_all(&all).unwrap();
        }
    });
    let adit = Adit::start(pki.server(format!("unix:{}", pki.at("db.sock"))) + "--allow-all");
    let words = vec![7; 300_000];
    for _ in 0..2 {
        let mut session = Caller::new(&pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
        session.write_all(&words).unwrap();
        session.end().unwrap();
        assert_eq!(session.rest().unwrap(), words);
    }
}

#[test]
fn a_client_may_listen_at_a_unix_socket_and_removes_it() {
    let pki = Pki::new();
    let far = tls_backend(BOTH, &pki.server, Demand::Of(&pki.ca), tls_echo);
    let path = pki.path("app.sock");
    let adit = Adit::start(format!(
        "client --listen unix:{} --target {} {}",
        pki.at("app.sock"),
        far.addr,
        pki.showing("app")
    ));
    let words = vec![7; 300_000];
    assert_eq!(ask(&path, &words).unwrap(), words);
    assert_eq!(adit.stop(), 0);
    assert!(!path.exists());
}

/// A process that has the socket takes over, whether the other one has heard so or not: the path is
/// its own by then.
#[test]
fn the_path_stays_where_sigterm_and_a_takeover_meet() {
    let pki = Pki::new();
    let far = tls_backend(BOTH, &pki.server, Demand::Of(&pki.ca), tls_echo);
    let (path, meet) = (pki.path("app.sock"), pki.path("takeover.sock"));
    let adit = Adit::start(format!(
        "client --listen unix:{} --target {} {} --takeover unix:{}",
        pki.at("app.sock"),
        far.addr,
        pki.showing("app"),
        pki.at("takeover.sock")
    ));
    let find = || HandoffClient::find(&meet).unwrap();
    let (next, sockets) = wait_for("its sockets", LIMIT, find);
    adit.logs("passed the sockets to a new process");
    assert_eq!(adit.stop(), 0);
    drop(next);
    let [(_, socket)] = <[_; 1]>::try_from(sockets).expect("one socket");
    let listener = UnixListener::from(socket);
    let _caller = UnixStream::connect(&path).expect("the path is there");
    listener.set_nonblocking(true).unwrap();
    listener.accept().expect("and leads to the new process");
}

#[test]
fn both_ends_may_be_unix_sockets() {
    let pki = Pki::new();
    let listener = UnixListener::bind(pki.path("db.sock")).unwrap();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).unwrap();
        socket.write_all(&all).unwrap();
    });
    let _adit = Adit::start(format!(
        "server --listen unix:{} --target unix:{} {} --allow-all",
        pki.at("tls.sock"),
        pki.at("db.sock"),
        pki.showing("server")
    ));
    // rustls over a Unix socket, which carries the same bytes.
    let socket = UnixStream::connect(pki.path("tls.sock")).unwrap();
    let socket = std::net::TcpStream::from(std::os::fd::OwnedFd::from(socket));
    let mut session = Caller::new(&pki.ca, Some(&pki.app)).over(socket).unwrap();
    session.write_all(b"hello").unwrap();
    session.end().unwrap();
    assert_eq!(session.rest().unwrap(), b"hello");
}

#[test]
fn a_clients_target_may_be_a_unix_socket_by_either_kind_of_name() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let unique = pki.at("tls").replace('/', "-");
    for there in [format!("unix:{}", pki.at("tls.sock")), format!("unix:@{unique}")] {
        let server = Adit::start(format!(
            "server --listen {there} --target {} {} --allow-cn app",
            echo.addr,
            pki.showing("server")
        ));
        let client = Adit::start(pki.client(&there));
        let words = vec![7; 300_000];
        assert_eq!(crate::backends::ask(client.addr, &words).unwrap(), words, "{there}");
        server.logs("reason=\"completed\"");
        let other = format!("{} --override-server-name other.example", pki.client(&there));
        let other = Adit::start(other);
        assert!(crate::backends::ask(other.addr, &words).map_or(true, |heard| heard.is_empty()));
        other.logs("is not valid for the requested name other.example");
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn abstract_sockets_need_no_file_at_either_end_of_a_pair() {
    let pki = Pki::new();
    let unique = pki.at("x").replace('/', "-");
    let name = |end: &str| format!("unix:@{unique}{end}");
    let listener = {
        use std::os::linux::net::SocketAddrExt as _;
        let addr = std::os::unix::net::SocketAddr::from_abstract_name(format!("{unique}db"));
        UnixListener::bind_addr(&addr.unwrap()).unwrap()
    };
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten().take(1) {
            let mut all = Vec::new();
            socket.read_to_end(&mut all).unwrap();
            socket.write_all(&all).unwrap();
        }
    });
    let server = format!(
        "server --listen {} --target {} {} --allow-all",
        name("tls"),
        name("db"),
        pki.showing("server")
    );
    let first = Adit::start(&server);
    let (code, error) = refused(&server);
    assert!(code == 1 && error.contains("another process is listening there"), "{error}");
    let client = Adit::start(pki.client(name("tls")));
    assert_eq!(crate::backends::ask(client.addr, b"hello").unwrap(), b"hello");
    assert_eq!(first.stop(), 0);
}

#[test]
fn a_socket_that_nobody_answers_at_is_replaced_and_one_that_lives_is_not() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    drop(UnixListener::bind(pki.path("tls.sock")).unwrap());
    let args = format!(
        "server --listen unix:{} --target {} {} --allow-all",
        pki.at("tls.sock"),
        echo.addr,
        pki.showing("server")
    );
    let first = Adit::start(&args);
    let (code, error) = refused(&args);
    assert!(code == 1 && error.contains("another process is listening there"), "{error}");
    assert!(pki.path("tls.sock").exists(), "the first one's is still there");
    assert_eq!(first.stop(), 0);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    pki.write("precious", "data");
    let (code, error) = refused(&format!(
        "server --listen unix:{} --target {} {} --allow-all",
        pki.at("precious"),
        echo.addr,
        pki.showing("server")
    ));
    assert!(code == 1 && error.contains("not a socket"), "{error}");
    assert_eq!(std::fs::read(pki.path("precious")).unwrap(), b"data");
}

#[test]
fn a_folder_that_may_not_be_written_to_is_named() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (code, error) = refused(&format!(
        "server --listen unix:{}/none/x.sock --target {} {} --allow-all",
        pki.at(""),
        echo.addr,
        pki.showing("server")
    ));
    assert!(code == 1 && error.contains("none/x.sock"), "{error}");
}

/// Whoever may connect is decided by the folder and the umask, as with any other daemon.
#[test]
fn the_sockets_mode_follows_the_umask() {
    let pki = Pki::new();
    let far = tls_backend(BOTH, &pki.server, Demand::Nothing, tls_echo);
    let args = format!(
        "client --listen unix:{} --target {} {}",
        pki.at("app.sock"),
        far.addr,
        pki.showing("app")
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("umask 077; exec {} {args}", env!("CARGO_BIN_EXE_adit"))]);
    let adit = Adit::spawn(shell);
    let mode = std::fs::metadata(pki.path("app.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    assert_eq!(adit.stop(), 0);
}

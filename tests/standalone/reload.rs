//! New certificates while it runs, and its end while others still talk.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Instant,
};

use nix::sys::signal::Signal;

use crate::{
    backends::{Backend, ask, dial},
    pattern::Pattern,
    peers::{BOTH, Caller, Demand, ONLY13, tls_backend, tls_echo},
    pki::{Leaf, Pki, as_app, as_server},
    process::Adit,
    wait::{LIMIT, wait_until},
};

/// What the server shows now.
fn shown(pki: &Pki, adit: &Adit) -> Vec<u8> {
    let session = Caller::new(&pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
    session.conn.peer_certificates().unwrap()[0].to_vec()
}

fn shows(pki: &Pki, adit: &Adit, leaf: &Leaf) -> bool {
    shown(pki, adit) == leaf.chain[0].as_ref()
}

#[test]
fn sighup_and_sigusr1_read_the_files_anew() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    assert!(shows(&pki, &adit, &pki.server));
    for signal in [Signal::SIGHUP, Signal::SIGUSR1] {
        let new = pki.ca.leaf("server", as_server);
        pki.put("server", &new);
        let seen = adit.lines();
        adit.signal(signal);
        adit.logs_since(seen, &format!("reloaded … {}", pki.at("ca.pem")));
        assert!(shows(&pki, &adit, &new), "{signal}");
    }
    assert_eq!(adit.stop(), 0);
}

#[test]
fn changed_files_are_noticed_by_themselves() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    let new = pki.ca.leaf("server", as_server);
    pki.put("server", &new);
    adit.logs(&format!("changed files reloaded … {}", pki.at("server.crt")));
    assert!(shows(&pki, &adit, &new));
}

/// Whoever renews writes one file after the other: between the two, nothing fits together.
#[test]
fn a_certificate_waits_for_its_key() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    let new = pki.ca.leaf("server", as_server);
    pki.put("new", &new);
    std::fs::rename(pki.path("new.crt"), pki.path("server.crt")).unwrap();
    adit.logs("rejected; keeping … does not belong to the certificate");
    assert!(shows(&pki, &adit, &pki.server));
    std::fs::rename(pki.path("new.key"), pki.path("server.key")).unwrap();
    adit.logs("changed files reloaded");
    assert!(shows(&pki, &adit, &new));
}

/// As the kubelet mounts secrets: a link to a folder, exchanged as a whole.
#[test]
fn files_behind_a_link_that_is_exchanged_are_noticed() {
    use std::os::unix::fs::symlink;
    let (pki, echo) = (Pki::new(), Backend::echo());
    let folder = |name: &str, leaf: &Leaf| {
        std::fs::create_dir(pki.path(name)).unwrap();
        pki.put(&format!("{name}/tls"), leaf);
    };
    folder("first", &pki.server);
    symlink("first", pki.path("data")).unwrap();
    let args = pki.server(echo.addr).replace("/server.", "/data/tls.");
    let adit = Adit::start(args + "--allow-all");
    let new = pki.ca.leaf("server", as_server);
    folder("second", &new);
    symlink("second", pki.path("link")).unwrap();
    std::fs::rename(pki.path("link"), pki.path("data")).unwrap();
    adit.logs("changed files reloaded");
    assert!(shows(&pki, &adit, &new));
}

#[test]
fn every_so_often_they_are_read_without_being_told() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all --timed-reload 1h");
    assert_eq!(Caller::new(&pki.ca, Some(&pki.app)).says(adit.addr, "hello").unwrap(), "hello");
    assert_eq!(adit.count("reloaded"), 0, "not at once: they have just been read");
    drop(adit);
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all --timed-reload 100ms");
    wait_until("three times", LIMIT, || adit.count("reloaded") >= 3);
    let new = pki.ca.leaf("server", as_server);
    pki.put("server", &new);
    wait_until("the new one is shown", LIMIT, || shows(&pki, &adit, &new));
}

#[test]
fn what_is_wrong_changes_nothing_and_is_told() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    pki.write("revoked.crl", pki.ca.crl(&[1]));
    let flags = format!("--allow-all --crl {}", pki.at("revoked.crl"));
    let adit = Adit::start(pki.server(echo.addr) + &flags);
    let other = pki.ca.leaf("server", as_server);
    let expired = pki.ca.leaf("server", |params| {
        as_server(params);
        params.not_after = params.not_before;
    });
    let good = std::fs::read(pki.path("server.crt")).unwrap();
    let good_key = std::fs::read(pki.path("server.key")).unwrap();
    pki.put("other", &other);
    pki.put("expired", &expired);
    let other_key = std::fs::read(pki.path("other.key")).unwrap();
    let expired = std::fs::read(pki.path("expired.crt")).unwrap();
    let (roots, crl) = (pki.path("ca.pem"), pki.path("revoked.crl"));
    let (roots, crl) = (std::fs::read(roots).unwrap(), std::fs::read(crl).unwrap());
    for (file, bad, was, says) in [
        ("server.crt", &b""[..], &good, "server.crt: contains no PEM certificate"),
        ("server.crt", &good[..good.len() / 2], &good, "server.crt"),
        ("server.key", &other_key, &good_key, "does not belong to the certificate"),
        ("server.key", b"-----BEGIN PRIVATE KEY-----\n", &good_key, "server.key"),
        ("server.crt", &expired, &good, "server.crt"),
        ("ca.pem", b"nothing", &roots, "ca.pem: contains no PEM certificate"),
        ("revoked.crl", b"nothing", &crl, "revoked.crl"),
        ("revoked.crl", &roots, &crl, "revoked.crl"),
    ] {
        pki.write(file, bad);
        let seen = adit.lines();
        adit.signal(Signal::SIGHUP);
        adit.logs_since(seen, &format!("reload rejected … {says}"));
        assert!(shows(&pki, &adit, &pki.server), "{file}: the old one stays");
        pki.write(file, was);
    }
    std::fs::remove_file(pki.path("server.key")).unwrap();
    let seen = adit.lines();
    adit.signal(Signal::SIGHUP);
    adit.logs_since(seen, "reload rejected … server.key: No such file");
    assert!(shows(&pki, &adit, &pki.server));
}

#[test]
fn a_certificate_that_is_revoked_while_it_runs_is_refused_from_then_on() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let app = pki.ca.leaf("app", |p| p.serial_number = Some(rcgen::SerialNumber::from(77)));
    pki.write("revoked.crl", pki.ca.crl(&[1]));
    let flags = format!("--allow-cn app --crl {}", pki.at("revoked.crl"));
    let adit = Adit::start(pki.server(echo.addr) + &flags);
    let caller = Caller::new(&pki.ca, Some(&app));
    assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
    pki.write("revoked.crl", pki.ca.crl(&[1, 77]));
    adit.signal(Signal::SIGHUP);
    adit.logs("reloaded");
    assert!(caller.says(adit.addr, "hello").is_err());
}

#[test]
fn new_roots_let_others_in_and_the_old_ones_out() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app");
    let next = Pki::new();
    let (old, new) = (Some(&pki.app), Some(&next.app));
    assert_eq!(Caller::new(&pki.ca, old).says(adit.addr, "hello").unwrap(), "hello");
    assert!(Caller::new(&pki.ca, new).says(adit.addr, "hello").is_err());
    pki.write("ca.pem", std::fs::read(next.path("ca.pem")).unwrap());
    adit.signal(Signal::SIGHUP);
    adit.logs("reloaded");
    assert!(Caller::new(&pki.ca, old).says(adit.addr, "hello").is_err());
    assert_eq!(Caller::new(&pki.ca, new).says(adit.addr, "hello").unwrap(), "hello");
}

/// Two that shake hands for each other, many streams, and certificates that change under both.
#[test]
fn reloads_under_load_lose_no_byte_and_no_connection() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let inner = Adit::start(pki.server(echo.addr) + "--allow-cn app");
    let outer = Adit::start(pki.client(inner.addr));
    let stop = Arc::new(AtomicBool::new(false));
    let (long, short) = (stop.clone(), stop.clone());
    let addr = outer.addr;
    let mut streams: Vec<_> = (0..3)
        .map(|seed| {
            let stop = long.clone();
            thread::spawn(move || {
                let mut socket = dial(addr);
                let (mut said, mut heard) = (Pattern::new(seed), Pattern::new(seed));
                let mut buffer = vec![0; 8192];
                while !stop.load(SeqCst) {
                    let words = said.next(8192);
                    socket.write_all(words).unwrap();
                    socket.read_exact(&mut buffer[..words.len()]).unwrap();
                    heard.expect(&buffer[..words.len()]);
                }
                socket.shutdown(Shutdown::Write).unwrap();
                assert_eq!(crate::wait::read_once(&mut socket, &mut buffer).unwrap(), 0);
            })
        })
        .collect();
    streams.push(thread::spawn(move || {
        while !short.load(SeqCst) {
            assert_eq!(ask(addr, b"hello").unwrap(), b"hello");
        }
    }));
    for _ in 0..8 {
        pki.put("server", &pki.ca.leaf("server", as_server));
        pki.put("app", &pki.ca.leaf("app", as_app));
        for adit in [&inner, &outer] {
            let seen = adit.lines();
            adit.signal(Signal::SIGHUP);
            adit.logs_since(seen, "reload");
        }
    }
    stop.store(true, SeqCst);
    streams.into_iter().for_each(|stream| stream.join().unwrap());
    for adit in [outer, inner] {
        assert!(adit.count("reloaded") >= 1);
        adit.signal(Signal::SIGTERM);
        let log = adit.rest_of_log();
        assert!(!log.contains("ERROR access"), "{log}");
    }
}

#[test]
fn a_drain_lets_open_connections_end_and_takes_no_new_ones() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all --shutdown-timeout 1m");
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    let mut sessions: Vec<_> = (0..5).map(|_| caller.dial(adit.addr).unwrap()).collect();
    for session in &mut sessions {
        session.write_all(b"before").unwrap();
        session.hear(6).unwrap();
    }
    adit.signal(Signal::SIGTERM);
    adit.logs("draining");
    wait_until("nobody is taken", LIMIT, || caller.dial(adit.addr).is_err());
    let mut pattern = Pattern::new(5);
    for session in &mut sessions {
        let words = pattern.next(100_000);
        session.write_all(&words[..10_000]).unwrap();
        assert_eq!(session.hear(10_000).unwrap(), words[..10_000], "while draining");
        session.end().unwrap();
        assert_eq!(session.rest().unwrap(), b"");
    }
    drop(sessions);
    assert_eq!(adit.exit_code(), 0);
}

#[test]
fn an_idle_server_ends_at_once() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let adit = Adit::start(pki.server(echo.addr) + "--allow-all --shutdown-timeout 1h");
        adit.signal(signal);
        assert_eq!(adit.exit_code(), 0);
    }
}

#[test]
fn who_does_not_end_in_time_is_cut_and_the_exit_code_says_so() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all --shutdown-timeout 300ms");
    let mut session = Caller::new(&pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
    session.write_all(b"hello").unwrap();
    session.hear(5).unwrap();
    adit.signal(Signal::SIGTERM);
    assert!(session.rest().is_err(), "cut is no end in order");
    adit.logs("that did not finish in time");
    assert_eq!(adit.exit_code(), 1);
}

#[test]
fn reload_signals_while_draining_change_nothing() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all --shutdown-timeout 1m");
    let mut session = Caller::new(&pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
    session.write_all(b"hello").unwrap();
    session.hear(5).unwrap();
    adit.signal(Signal::SIGTERM);
    adit.logs("draining");
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGHUP] {
        adit.signal(signal);
    }
    session.write_all(b"still").unwrap();
    assert_eq!(session.hear(5).unwrap(), b"still");
    // What is logged is that nothing is; a line may come between the two looks.
    assert!(adit.count("reload") <= adit.count("reload ignored"));
    session.end().unwrap();
    session.rest().unwrap();
    assert_eq!(adit.exit_code(), 0);
}

#[test]
fn a_second_sigterm_does_not_cut_a_drain_short() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let mut adit = Adit::start(pki.server(echo.addr) + "--allow-all --shutdown-timeout 1m");
    let mut session = Caller::new(&pki.ca, Some(&pki.app)).dial(adit.addr).unwrap();
    adit.signal(Signal::SIGTERM);
    adit.logs("draining");
    adit.signal(Signal::SIGTERM);
    session.write_all(b"still").unwrap();
    assert_eq!(session.hear(5).unwrap(), b"still");
    assert!(adit.runs());
    session.end().unwrap();
    session.rest().unwrap();
    assert_eq!(adit.exit_code(), 0);
}

/// How many connections the kernel keeps for whoever listens there until it accepts them.
fn waiting(at: SocketAddr) -> u32 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", at.port());
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut listening = rows.filter(|row| row[1].ends_with(&port) && row[3] == "0A");
    let queues = listening.next().expect("somebody listens there")[4];
    u32::from_str_radix(queues.split(':').nth(1).unwrap(), 16).unwrap()
}

#[test]
fn a_handshake_that_has_begun_before_the_drain_is_finished() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all --connect-timeout 10s");
    let socket = dial(adit.addr);
    wait_until("it is accepted", LIMIT, || waiting(adit.addr) == 0);
    adit.signal(Signal::SIGTERM);
    adit.logs("connections=1");
    let mut session = Caller::speaking(ONLY13, &pki.ca, Some(&pki.app)).over(socket).unwrap();
    session.write_all(b"hello").unwrap();
    session.end().unwrap();
    assert_eq!(session.rest().unwrap(), b"hello");
    assert_eq!(adit.exit_code(), 0);
}

/// A drain of many streams that still have much to say.
#[test]
fn drain_under_load_loses_no_byte() {
    let pki = Pki::new();
    let far = tls_backend(BOTH, &pki.server, Demand::Of(&pki.ca), tls_echo);
    let adit = Adit::start(pki.client(far.addr) + "--shutdown-timeout 1m");
    let addr = adit.addr;
    let streams: Vec<_> = (0..6)
        .map(|seed| {
            let mut socket = dial(addr);
            thread::spawn(move || {
                let (mut said, mut heard) = (Pattern::new(seed), Pattern::new(seed));
                let mut buffer = vec![0; 30_000];
                while said.at < 3_000_000 {
                    let words = said.next(30_000);
                    socket.write_all(words).unwrap();
                    socket.read_exact(&mut buffer[..words.len()]).unwrap();
                    heard.expect(&buffer[..words.len()]);
                }
                socket.shutdown(Shutdown::Write).unwrap();
                assert_eq!(crate::wait::read_once(&mut socket, &mut buffer).unwrap(), 0);
            })
        })
        .collect();
    wait_until("all are through", LIMIT, || far.taken() == 6);
    adit.signal(Signal::SIGTERM);
    streams.into_iter().for_each(|stream| stream.join().unwrap());
    adit.signal(Signal::SIGTERM);
    let log = adit.rest_of_log();
    assert_eq!(log.matches("reason=\"completed\"").count(), 6, "{log}");
}

/// What a shell's `<(command)` is: read once, at start.
#[test]
fn a_certificate_may_come_through_a_pipe_at_start() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let mut shell = std::process::Command::new("bash");
    let args = pki.server(echo.addr).replace(&pki.at("server.key"), "<(cat $KEY)");
    shell.args(["-c", &format!("exec {} {args} --allow-all", env!("CARGO_BIN_EXE_adit"))]);
    shell.env("KEY", pki.path("server.key"));
    let adit = Adit::spawn(shell);
    assert!(shows(&pki, &adit, &pki.server));
    adit.signal(Signal::SIGHUP);
    adit.logs("reload rejected");
    assert!(shows(&pki, &adit, &pki.server));
}

/// `--cert <(command)` in a shell: what is read at start is gone later, and nobody hangs on it.
#[test]
fn a_pipe_without_a_writer_does_not_hold_up_the_end() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    std::fs::remove_file(pki.path("server.crt")).unwrap();
    nix::unistd::mkfifo(&pki.path("server.crt"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    adit.signal(Signal::SIGHUP);
    let begun = Instant::now();
    adit.logs("reload rejected … server.crt: is a pipe without a writer");
    assert!(shows(&pki, &adit, &pki.server));
    assert_eq!(adit.stop(), 0);
    assert!(begun.elapsed() < LIMIT);
}

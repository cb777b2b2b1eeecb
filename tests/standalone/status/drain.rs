//! The end of a process that still has connections.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use nix::sys::signal::Signal;

use super::{
    helpers::{connect, free_port, server, start, start_with, status_of, until_status},
    pki::Pki,
};
use crate::{
    backends::Backend,
    manager::Manager,
    wait::{LIMIT, wait_for},
};

#[test]
fn draining_shows_who_holds_connections_and_serves_them_to_their_end() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let (url, manager) = (format!("http://{at}"), Manager::new());
    let args = server(&pki, listen, echo.addr, &["--status", &url]);
    let mut adit = start_with(&args, &[manager.env()]);
    until_status(at, "listening");
    let mut open = connect(&pki, listen).unwrap();
    adit.signal(Signal::SIGTERM);
    until_status(at, "stopping");
    // The caller has the last bytes a moment before they are counted.
    let (code, status) = wait_for("four bytes each way", LIMIT, || {
        status_of(at).filter(|(_, status)| {
            let holder = &status["draining"]["held_by"][0];
            [&holder["bytes_received"], &holder["bytes_sent"]].iter().all(|moved| **moved == 4)
        })
    });
    assert_eq!(code, 503);
    let draining = &status["draining"];
    assert_eq!((&draining["connections"], &draining["not_listed"]), (&1.into(), &0.into()));
    let holder = &draining["held_by"][0];
    assert_eq!(holder["peer"], open.sock.local_addr().unwrap().to_string());
    assert_eq!(holder["identity"], "spiffe://test/app");
    assert!(holder["age_seconds"].is_f64());
    let told = manager.hears("STATUS=draining: 1 connection, the oldest of 127.0.0.1:");
    assert!(told.contains("(spiffe://test/app)"), "{told}");
    wait_for("refused", LIMIT, || TcpStream::connect(listen).is_err().then_some(()));
    // What is asked of it now must not disturb: no reload, no second drain.
    for signal in [Signal::SIGHUP, Signal::SIGUSR1] {
        adit.signal(signal);
    }
    adit.logs("draining: reload ignored");
    adit.signal(Signal::SIGTERM);
    adit.logs("already draining");
    open.write_all(b"more").unwrap();
    let mut answer = [0; 4];
    open.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"more");
    assert!(adit.runs());
    drop(open);
    assert_eq!(adit.ends().code(), Some(0));
    assert!(!adit.log().contains("\"reloaded\""));
}

#[test]
fn sigint_while_draining_cuts_what_is_left() {
    let (pki, echo, listen) = (Pki::new(), Backend::echo(), free_port());
    let mut adit = start(&server(&pki, listen, echo.addr, &[]));
    adit.logs("listening");
    let mut open = connect(&pki, listen).unwrap();
    adit.signal(Signal::SIGINT);
    adit.logs("draining");
    adit.signal(Signal::SIGINT);
    assert_eq!(adit.ends().code(), Some(1));
    assert_eq!(crate::wait::read_once(&mut open, &mut [0]).unwrap_or(0), 0);
}

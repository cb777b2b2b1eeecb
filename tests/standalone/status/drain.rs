//! The end of a process that still has connections.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use nix::sys::signal::Signal;

use super::{
    pki::Pki,
    process::{Adit, Echo, Manager, connect, free_port, server, status_of, until, until_status},
};

#[test]
fn draining_shows_who_holds_connections_and_serves_them_to_their_end() {
    let (pki, echo, listen, at) = (Pki::new(), Echo::start(), free_port(), free_port());
    let (url, manager) = (format!("http://{at}"), Manager::new());
    let args = server(&pki, listen, echo.addr, &["--status", &url]);
    let mut adit = Adit::start_with(&args, &[manager.env()]);
    until_status(at, "listening");
    let mut open = connect(&pki, listen).unwrap();
    adit.signal(Signal::SIGTERM);
    let status = until_status(at, "stopping");
    assert_eq!(status_of(at).unwrap().0, 503);
    let draining = &status["draining"];
    assert_eq!((&draining["connections"], &draining["not_listed"]), (&1.into(), &0.into()));
    let holder = &draining["held_by"][0];
    assert_eq!(holder["peer"], open.sock.local_addr().unwrap().to_string());
    assert_eq!(holder["identity"], "spiffe://test/app");
    let moved = (&holder["bytes_received"], &holder["bytes_sent"]);
    assert_eq!(moved, (&4.into(), &4.into()), "{status:#}");
    assert!(holder["age_seconds"].is_f64());
    let told = manager.hears("STATUS=draining: 1 connections, the oldest of 127.0.0.1:");
    assert!(told.contains("(spiffe://test/app)"), "{told}");
    until("refused", || TcpStream::connect(listen).is_err().then_some(()));
    // What is asked of it now must not disturb: no reload, no second drain.
    for signal in [Signal::SIGHUP, Signal::SIGUSR1] {
        adit.signal(signal);
    }
    adit.says("draining: nothing is reloaded");
    adit.signal(Signal::SIGTERM);
    adit.says("draining already");
    open.write_all(b"more").unwrap();
    let mut answer = [0; 4];
    open.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"more");
    assert!(adit.runs());
    drop(open);
    assert_eq!(adit.ends().code(), Some(0));
    assert!(!adit.output().contains("\"reloaded\""));
}

#[test]
fn sigint_while_draining_cuts_what_is_left() {
    let (pki, echo, listen) = (Pki::new(), Echo::start(), free_port());
    let mut adit = Adit::start(&server(&pki, listen, echo.addr, &[]));
    adit.says("listening");
    let mut open = connect(&pki, listen).unwrap();
    adit.signal(Signal::SIGINT);
    adit.says("draining");
    adit.signal(Signal::SIGINT);
    assert_eq!(adit.ends().code(), Some(1));
    assert_eq!(open.read(&mut [0]).unwrap_or(0), 0);
}

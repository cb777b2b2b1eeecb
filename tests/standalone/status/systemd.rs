//! What systemd is told, and sockets that it passes.

use std::{
    ffi::OsString,
    net::TcpListener,
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;

use super::{
    helpers::{ask, connect, free_port, server, start_with, until_status},
    pki::Pki,
};
use crate::{backends::Backend, manager::Manager, process::Adit};

#[test]
fn the_manager_hears_ready_reloading_ready_stopping_in_this_order() {
    let (pki, echo, listen) = (Pki::new(), Backend::echo(), free_port());
    let manager = Manager::new();
    let mut adit = start_with(&server(&pki, listen, echo.addr, &[]), &[manager.env()]);
    let ready = manager.next();
    assert_eq!(ready.trim_end(), format!("READY=1\nSTATUS=listening: TLS on {listen}"));
    // Ready means ready.
    connect(&pki, listen).unwrap();
    adit.signal(Signal::SIGHUP);
    let reloading = manager.next();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(manager.next().starts_with("READY=1\n"));
    adit.signal(Signal::SIGTERM);
    let stopping = manager.next();
    assert!(stopping.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=305000000\n"), "{stopping}");
    assert!(adit.ends().success());
}

#[test]
fn the_watchdog_is_fed_while_it_works() {
    let (pki, echo, listen) = (Pki::new(), Backend::echo(), free_port());
    let manager = Manager::new();
    let env = [manager.env(), ("WATCHDOG_USEC", OsString::from("500000"))];
    let mut adit = start_with(&server(&pki, listen, echo.addr, &[]), &env);
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    // Also while it drains.
    let open = connect(&pki, listen).unwrap();
    adit.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    manager.hears("WATCHDOG=1");
    drop(open);
    assert!(adit.ends().success());
}

/// `adit` with `sockets` as systemd passes them: from descriptor 3 on, with `LISTEN_PID`.
pub(crate) fn activated(args: &[String], names: &str, sockets: [Option<TcpListener>; 2]) -> Adit {
    let count = sockets.iter().flatten().count();
    let [first, second] = sockets.map(|s| s.map_or(Stdio::null(), |s| OwnedFd::from(s).into()));
    // Standard input and another become 3 and 4, as a shell can do it.
    let script = "exec 3<&0 4<&1 0</dev/null 1>&2; LISTEN_PID=$$; export LISTEN_PID; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_adit")]).args(args);
    if count > 0 {
        command.env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", names);
    }
    command.stdin(first).stdout(second);
    Adit::launch_with_stdout(command)
}

#[test]
fn sockets_come_from_systemd_by_their_names() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let tls = TcpListener::bind("127.0.0.1:0").unwrap();
    let status = TcpListener::bind("127.0.0.1:0").unwrap();
    let (listen, at) = (tls.local_addr().unwrap(), status.local_addr().unwrap());
    let mut args = server(&pki, listen, echo.addr, &["--status", "systemd:status"]);
    args[2] = "systemd:tls".into();
    let _adit = activated(&args, "tls:status", [Some(tls), Some(status)]);
    let told = until_status(at, "listening");
    assert_eq!(told["listen_address"], "systemd:tls");
    connect(&pki, listen).unwrap();
    assert_eq!(ask(at, "GET /_status").unwrap().0, 200);
}

#[test]
fn a_name_that_no_socket_or_more_than_one_has_is_an_error() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let socket = || Some(TcpListener::bind("127.0.0.1:0").unwrap());
    for (names, sockets, says) in [
        ("other", [socket(), None], "systemd:tls: no socket has this name"),
        ("tls:tls", [socket(), socket()], "systemd:tls: systemd has passed 2 sockets of this name"),
        ("", [None, None], "systemd:tls: systemd passed no sockets"),
    ] {
        let mut args = server(&pki, free_port(), echo.addr, &[]);
        args[2] = "systemd:tls".into();
        let mut adit = activated(&args, names, sockets);
        adit.logs(says);
        assert_eq!(adit.ends().code(), Some(1));
    }
}

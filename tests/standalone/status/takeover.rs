//! One process takes over from another, and nobody who connects meanwhile notices.

use std::{
    io::Write as _,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    helpers::{
        connect, connect_with, free_port, server, start, start_with, status_of, until_status,
    },
    pki::Pki,
    systemd::activated,
};
use crate::{
    backends::Backend,
    manager::Manager,
    wait::{LIMIT, wait_for},
};

/// Connects again and again from some threads until it is told to stop.
struct Load {
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(pki: &Pki, to: std::net::SocketAddr) -> Self {
        let (done, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let one = |_| {
            let (done, stop, tls) = (Arc::clone(&done), Arc::clone(&stop), pki.tls());
            thread::spawn(move || {
                let mut failed = Vec::new();
                for _ in 0..20_000 {
                    if stop.load(SeqCst) {
                        break;
                    }
                    match connect_with(Arc::clone(&tls), to) {
                        Ok(_) => drop(done.fetch_add(1, SeqCst)),
                        Err(error) => failed.push(error.to_string()),
                    }
                }
                failed
            })
        };
        let threads = (0..4).map(one).collect();
        Self { done, stop, threads }
    }

    /// Lets some more connections come.
    fn goes_on(&self) {
        let from = self.done.load(SeqCst);
        wait_for("more connections", LIMIT, || (self.done.load(SeqCst) > from + 20).then_some(()));
    }

    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, SeqCst);
        let failed = self.threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        (self.done.load(SeqCst), failed)
    }
}

#[test]
fn an_upgrade_refuses_no_connection_and_cuts_none() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let path = format!("unix:{}", pki.path("takeover.sock").display());
    let url = format!("http://{at}");
    let args = server(&pki, listen, echo.addr, &["--takeover", &path, "--status", &url]);
    let manager = Manager::new();
    let mut old = start_with(&args, &[manager.env()]);
    manager.hears("READY=1");
    let mut kept = connect(&pki, listen).unwrap();
    let load = Load::start(&pki, listen);
    load.goes_on();
    let new = start(&args);
    manager.hears(&format!("MAINPID={}", new.pid()));
    load.goes_on();
    old.logs("draining");
    // Both live, and the new one answers.
    for _ in 0..10 {
        assert_eq!(status_of(at).unwrap().1["message"], "listening");
    }
    kept.write_all(b"still").unwrap();
    drop(kept);
    assert_eq!(old.ends().code(), Some(0));
    load.goes_on();
    until_status(at, "listening");
    // And once more: the successor has a successor.
    let mut newest = start(&args);
    newest.logs("took over from the previous process");
    load.goes_on();
    let (done, failed) = load.end();
    println!("{done} connections while two processes took over");
    assert_eq!(failed, Vec::<String>::new(), "of {done}");
    newest.signal(Signal::SIGTERM);
    assert!(newest.ends().success());
    assert!(!pki.path("takeover.sock").exists());
}

/// A process that no test has started itself, and that ends with the test all the same.
struct Grandchild(Pid);

impl Drop for Grandchild {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

#[test]
fn sigusr2_starts_the_successor_with_the_same_arguments() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let path = format!("unix:{}", pki.path("takeover.sock").display());
    let url = format!("http://{at}");
    let args = server(&pki, listen, echo.addr, &["--takeover", &path, "--status", &url]);
    let manager = Manager::new();
    let mut old = start_with(&args, &[manager.env()]);
    manager.hears("READY=1");
    old.signal(Signal::SIGUSR2);
    let told = manager.hears("MAINPID=");
    assert_eq!(old.ends().code(), Some(0));
    let successor: i32 = told.trim().trim_start_matches("MAINPID=").parse().unwrap();
    let successor = Grandchild(Pid::from_raw(successor));
    assert_eq!(status_of(at).unwrap().0, 200);
    connect(&pki, listen).unwrap();
    kill(successor.0, Signal::SIGTERM).unwrap();
    manager.hears("STOPPING=1");
}

#[test]
fn a_socket_of_systemd_goes_from_hand_to_hand() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let tls = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = tls.local_addr().unwrap();
    let path = format!("unix:{}", pki.path("takeover.sock").display());
    let mut args = server(&pki, listen, echo.addr, &["--takeover", &path]);
    args[2] = "systemd:tls".into();
    let mut old = activated(&args, "tls", [Some(tls), None]);
    old.logs("listening");
    // The new one was not started by systemd, and has its socket all the same.
    let new = start(&args);
    new.logs("took over from the previous process");
    assert_eq!(old.ends().code(), Some(0));
    connect(&pki, listen).unwrap();
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let (pki, echo, listen) = (Pki::new(), Backend::echo(), free_port());
    let path = format!("unix:{}", pki.path("takeover.sock").display());
    let args = server(&pki, listen, echo.addr, &["--takeover", &path]);
    let mut old = start(&args);
    old.logs("listening");
    std::fs::write(pki.path("bad.key"), "nonsense").unwrap();
    let bad: Vec<String> = args.iter().map(|a| a.replace("server.key", "bad.key")).collect();
    assert_eq!(start(&bad).ends().code(), Some(1));
    old.logs("a process asked to take over, but did not");
    assert!(old.runs());
    connect(&pki, listen).unwrap();
    let mut good = start(&args);
    assert_eq!(old.ends().code(), Some(0));
    connect(&pki, listen).unwrap();
    assert!(good.runs());
}

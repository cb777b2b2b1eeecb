//! `adit ca serve` as a service of its host: what the service manager hears.

use std::{fs, net::TcpStream};

use nix::sys::signal::{Signal, kill};

use crate::{
    issuer::jwks,
    manager::Manager,
    server::{ATTESTORS, CaServer, PODS},
};

#[test]
fn the_manager_hears_ready_reloading_stopping_and_the_watchdog() {
    let manager = Manager::new();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("jwks"), jwks(&[])).unwrap();
    let env = [manager.env(), ("WATCHDOG_USEC", "500000".into())];
    let mut server = CaServer::start_with(dir, ATTESTORS, "127.0.0.1:0", &env);
    let ready = manager.next();
    let says = format!("READY=1\nSTATUS=issues SVIDs of td on {}", server.addr);
    assert_eq!(ready.trim_end(), says);
    TcpStream::connect(server.addr).unwrap();
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.pid()).unwrap());
    fs::write(server.file("pods"), PODS.replace("web-1", "web-2")).unwrap();
    kill(pid, Signal::SIGHUP).unwrap();
    manager.hears("RELOADING=1\nMONOTONIC_USEC=");
    assert_eq!(manager.hears("READY=1\n").trim_end(), says);
    kill(pid, Signal::SIGTERM).unwrap();
    manager.hears("STOPPING=1\n");
    assert!(server.ends().success());
}

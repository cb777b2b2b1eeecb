//! `adit ca serve` as a service of its host: what the service manager hears.

use std::{fs, net::TcpStream};

use nix::sys::signal::{Signal, kill};

use crate::{
    issuer::jwks,
    manager::Manager,
    server::{ATTESTORS, CaServer, PODS, fetch, id},
};

#[test]
fn the_manager_hears_ready_reloading_stopping_and_the_watchdog() {
    let manager = Manager::new();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("jwks"), jwks(&[])).unwrap();
    let env = [manager.env(), ("WATCHDOG_USEC", "500000".into())];
    let mut server = CaServer::start_with(dir, ATTESTORS, "127.0.0.1:0", &env);
    let ready = manager.next();
    let says = format!("READY=1\nSTATUS=issuing SVIDs of td on {}", server.addr);
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

/// Everything it needs is named in its file, so it gets that alone.
#[tokio::test]
async fn it_is_confined_to_what_its_file_names() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("jwks"), jwks(&[])).unwrap();
    let attestors = format!("{ATTESTORS}\nsandbox: required\n");
    let server = CaServer::start_in(dir, &attestors, "127.0.0.1:0");
    let line = server.line("of the sandbox", |l| l["message"] == "sandbox");
    assert_eq!((&line["landlock"], &line["seccomp"]), (&"on".into(), &"on".into()));
    for task in fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"));
    }
    let joins = id("host/db");
    let token = server.join_token(&joins, "1m");
    fetch(&server.client(&token), &joins).await.unwrap();
    assert!(server.metrics().contains("200 OK"));
    // A file that becomes a link to somewhere else is not followed there.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("pods"), PODS).unwrap();
    fs::remove_file(server.file("pods")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("pods"), server.file("pods")).unwrap();
    let refused = server.line("of the link", |l| {
        l["message"].as_str().is_some_and(|m| m.starts_with("pods rejected"))
    });
    assert!(refused["error"].as_str().unwrap().contains("Permission denied"), "{refused}");
}

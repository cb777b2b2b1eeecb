//! What happens when descriptors run out.

use std::{process::Command, time::Duration};

use crate::{
    lab::Lab,
    mesh::{PODS, allow, lab},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("shortage::without_descriptors_it_backs_off_and_comes_back", descriptors),
    ("shortage::who_asks_for_metrics_leaves_the_last_descriptors", operators),
    ("shortage::one_pod_leaves_descriptors_to_the_others", one_pod),
];

/// So many descriptors may the proxy have open.
fn limit(lab: &Lab, most: usize) {
    let pid = lab.pid().to_string();
    let limit = format!("--nofile={most}:");
    let done = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(done.is_ok_and(|s| s.success()), "`prlimit` of the package util-linux runs");
}

fn descriptors() {
    let lab = lab(&["web"]);
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    let open = std::fs::read_dir(format!("/proc/{}/fd", lab.pid())).unwrap().count();
    let highest = std::fs::read_dir(format!("/proc/{}/fd", lab.pid()))
        .unwrap()
        .filter_map(|fd| fd.ok()?.file_name().to_str()?.parse::<usize>().ok())
        .max()
        .unwrap();
    limit(&lab, highest + 4);
    // Each waits for a handshake.
    let waiting: Vec<_> =
        (0..highest + 40).filter_map(|_| lab.connect("db", "127.0.0.1:15008").ok()).collect();
    lab.wait("short", || lab.log().contains("accept failed; trying again after a pause"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    let told = lab.log().matches("accept failed; trying again after a pause").count();
    assert!(told < 60, "it spins: {told} lines");
    drop(waiting);
    lab.wait("back", || lab.ask("web", "10.96.0.10:80").is_ok());
    limit(&lab, 4096);
    lab.counts("adit_accept_errors_total{");
    lab.wait("nothing is left open", || {
        std::fs::read_dir(format!("/proc/{}/fd", lab.pid())).unwrap().count() <= open + 6
    });
}

/// An application that opens connections without an end, beside one of another pod.
fn one_pod() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    lab.echo("web", 8080);
    lab.start(&allow(&["web"]));
    limit(&lab, 1_000);
    let mut held = Vec::new();
    // As many as it gets.
    for n in 0..600 {
        let Ok(mut socket) = lab.connect("web", "10.96.0.10:80") else { break };
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        if !crate::wait::read_once(&mut socket, &mut [0; 17]).is_ok_and(|n| n > 0) {
            break;
        }
        assert!(n < 550, "it has all descriptors");
        held.push(socket);
    }
    assert!(held.len() > 200, "{} connections", held.len());
    lab.wait("it is said", || lab.log().contains("Too many open files"));
    let open = std::fs::read_dir(format!("/proc/{}/fd", lab.pid())).unwrap().count();
    assert!(open < 800, "{open} descriptors are taken");
    assert!(lab.ask("db", "10.77.0.1:8080").is_ok(), "another pod's connection");
    drop(held);
    lab.wait("back", || lab.ask("web", "10.96.0.10:80").is_ok());
}

/// Callers of metrics that say nothing, when traffic has all descriptors it may have.
fn operators() {
    let lab = lab(&["web"]);
    limit(&lab, 256);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", lab.pid())).unwrap().count();
    let _waiting: Vec<_> =
        (0..200).filter_map(|_| lab.connect("db", "127.0.0.1:15008").ok()).collect();
    lab.wait("short", || lab.log().contains("accept failed; trying again after a pause"));
    let full = open();
    assert!((180..=193).contains(&full), "{full} descriptors are taken");
    let _silent: Vec<_> =
        (0..30).map(|_| std::net::TcpStream::connect("127.0.0.1:15020").unwrap()).collect();
    std::thread::sleep(Duration::from_millis(500));
    assert!(open() <= full + 10, "{} descriptors are taken, {full} before", open());
    lab.counts("adit_accept_errors_total{");
}

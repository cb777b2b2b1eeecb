//! What happens when descriptors run out.

use std::{net::TcpStream, process::Command, time::Duration};

use crate::{issuer::Issuer, server::CaServer};

/// Callers of the CA that say nothing, until they have all descriptors they may have: who asks for
/// metrics gets a few of the others.
#[test]
fn the_last_descriptors_are_not_for_callers() {
    let server = CaServer::start(&[&Issuer::new("k1")]);
    let pid = server.pid().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, "--nofile=256:"]).status();
    assert!(limited.is_ok_and(|s| s.success()), "`prlimit` of the package util-linux runs");
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let silent: Vec<_> = (0..220).filter_map(|_| TcpStream::connect(server.addr).ok()).collect();
    server.line("of the shortage", |l| l["message"] == "accept failed; trying again after a pause");
    let full = open();
    assert!((150..=196).contains(&full), "{full} descriptors are taken");
    let at = server.line("of metrics", |l| l["message"] == "serving metrics");
    let at = at["address"].as_str().expect("an address");
    let asking: Vec<_> = (0..30).filter_map(|_| TcpStream::connect(at).ok()).collect();
    std::thread::sleep(Duration::from_millis(500));
    assert!(open() <= full + 12, "{} descriptors are taken, {full} before", open());
    server.counts("adit_ca_issued_total");
    assert_eq!((silent.len(), asking.len()), (220, 30));
}

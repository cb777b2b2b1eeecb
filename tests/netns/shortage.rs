//! What happens when descriptors run out.

use std::process::Command;

use crate::{lab::Lab, mesh::lab};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("shortage::without_descriptors_it_backs_off_and_comes_back", descriptors)];

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
    lab.wait("short", || lab.log().contains("accept failed, backing off"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    let told = lab.log().matches("accept failed, backing off").count();
    assert!(told < 60, "it spins: {told} lines");
    drop(waiting);
    lab.wait("back", || lab.ask("web", "10.96.0.10:80").is_ok());
    limit(&lab, 4096);
    let metrics = lab.admin("127.0.0.1:15020", "GET /metrics");
    assert!(metrics.contains("adit_accept_errors_total{"), "{metrics}");
    lab.wait("nothing is left open", || {
        std::fs::read_dir(format!("/proc/{}/fd", lab.pid())).unwrap().count() <= open + 6
    });
}

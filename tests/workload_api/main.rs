//! The Workload API of the real `adit run`, and clients of tonic. Runs as root, or as anybody
//! where user namespaces are allowed: the process moves into fresh ones first.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

#[path = "../support/harness.rs"]
mod harness;
mod scripted;
mod served;
mod server;

fn main() {
    adit::sys::sandbox::enter().expect("root, or user namespaces");
    let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.expect("ip runs").success());
    harness::run(&[server::TESTS, scripted::TESTS].concat());
}

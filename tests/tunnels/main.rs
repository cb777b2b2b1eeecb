//! Whole tunnels over loopback, application to application: adit with adit, and each end of
//! adit with the h2 crate over tokio-rustls. adit marks its sockets (CAP_NET_ADMIN), so this
//! runs as root, or as anybody where user namespaces are allowed.
// A scenario that is in no list, or a list that is not in `main`, does not compile.
#![deny(dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod egress;
mod endings;
mod expiry;
mod fairness;
#[path = "../support/harness.rs"]
mod harness;
#[path = "../support/pattern.rs"]
mod pattern;
mod peer;
mod pool;
mod silence;
#[path = "../support/svids.rs"]
#[allow(dead_code, reason = "PEM is for other tests")]
mod svids;
mod transfers;
mod tunnel;

fn main() {
    let all = [
        transfers::TESTS,
        egress::TESTS,
        endings::TESTS,
        expiry::TESTS,
        fairness::TESTS,
        pool::TESTS,
        silence::TESTS,
    ];
    harness::run(&all.concat());
}

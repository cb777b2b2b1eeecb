//! The Workload API of the real `adit run`, and clients of tonic. Runs as root, or as anybody
//! where user namespaces are allowed: the process moves into fresh ones first.
// A scenario that is in no list, or a list that is not in `main`, does not compile.
#![deny(dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

#[path = "../support/agent.rs"]
mod agent;
mod broker;
mod changes;
mod check;
#[path = "../support/harness.rs"]
mod harness;
#[path = "../support/hpack.rs"]
mod hpack;
#[path = "../support/jwt_corpus.rs"]
mod jwt_corpus;
mod jwt_live;
#[path = "../support/process.rs"]
mod process;
mod provider;
mod scripted;
mod served;
mod server;
#[path = "../support/spiffe_ids.rs"]
#[allow(dead_code, reason = "the others use the rest")]
mod spiffe_ids;
#[path = "../support/svids.rs"]
#[allow(dead_code, reason = "not all tests need all of it")]
mod svids;
#[path = "../support/wait.rs"]
mod wait;
mod wire;
mod wrong;

fn main() {
    wire::connect_if_asked();
    harness::run(
        &[
            server::TESTS,
            check::TESTS,
            broker::TESTS,
            wire::TESTS,
            changes::TESTS,
            jwt_live::TESTS,
            scripted::TESTS,
        ]
        .concat(),
    );
}

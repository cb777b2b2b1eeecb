//! The DNS proxy over real sockets: a client, the proxy, and name servers that do as they are told.
//! adit marks its sockets (CAP_NET_ADMIN), so this runs as root, or as anybody where user
//! namespaces are allowed.
// A scenario that is in no list, or a list that is not in `main`, does not compile.
#![deny(dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

#[path = "../support/harness.rs"]
mod harness;
mod names;
mod place;
mod upstreams;

fn main() {
    harness::run(&[names::TESTS, upstreams::TESTS].concat());
}

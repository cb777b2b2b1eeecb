//! Federation over loopback: our client against endpoints that follow a script, our servers
//! against our client and curl.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod endpoint;
mod fetching;
#[path = "../support/ports.rs"]
mod ports;
mod refusals;
mod serving;
mod trust;
#[path = "../support/wait.rs"]
mod wait;

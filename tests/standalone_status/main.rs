//! `adit server` and `adit client` as a service of a host: what operators and systemd see of
//! them, sockets that are passed to them, their end, and their upgrade.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod drain;
mod endpoint;
#[path = "../support/manager.rs"]
mod manager;
mod metrics;
mod pki;
#[path = "../support/ports.rs"]
mod ports;
mod process;
mod refused;
mod systemd;
mod takeover;

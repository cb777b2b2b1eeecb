//! `adit proxy` as a process on loopback: services from one file, exchanged while they run; targets
//! that come and go; policies; an imported stunnel.conf; what is logged and counted of peers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod checks;
mod counted;
mod edits;
mod files;
mod policies;
#[path = "../support/ports.rs"]
mod ports;
mod rego;
mod targets;
mod words;
mod world;

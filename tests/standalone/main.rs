//! `adit server`, `adit client` and `adit proxy` as their users see them: the real binary, its
//! flags and files, real sockets on loopback, and peers that are not adit's own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod access;
mod access_client;
#[cfg(feature = "acme")]
mod acme;
#[path = "../support/agent.rs"]
mod agent;
mod alpn;
mod backends;
mod expiry;
mod first_steps;
mod flags;
mod forward;
mod hbone;
mod kernel_tls;
#[path = "../support/manager.rs"]
mod manager;
mod material;
mod node;
mod output;
#[path = "../support/pattern.rs"]
mod pattern;
mod peers;
#[path = "../support/pipe.rs"]
mod pipe;
#[path = "../support/pki.rs"]
mod pki;
#[path = "../support/ports.rs"]
mod ports;
mod postgres;
mod probes;
#[path = "../support/process.rs"]
mod process;
mod proxy;
#[cfg(feature = "rego")]
mod rego;
mod reload;
mod sandbox;
mod services;
mod silence;
mod starts;
mod status;
mod storms;
mod streams;
#[cfg(feature = "pkcs11")]
mod tokens;
mod trust;
mod unix;
#[path = "../support/wait.rs"]
mod wait;
mod workers;
mod workload_api;

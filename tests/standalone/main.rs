//! `adit server` and `adit client` as their users see them: the real binary, its flags, real
//! sockets on loopback, and peers that are not adit's own.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking")]

mod access;
mod access_client;
mod acme;
mod alpn;
mod backends;
mod expiry;
mod flags;
mod forward;
mod hbone;
mod kernel_tls;
mod material;
mod output;
#[path = "../support/pattern.rs"]
mod pattern;
mod peers;
mod pki;
#[path = "../support/ports.rs"]
mod ports;
mod postgres;
mod probes;
mod process;
mod proxy;
mod rego;
mod reload;
mod sandbox;
mod starts;
mod storms;
mod streams;
mod tokens;
mod trust;
mod unix;
mod workload_api;

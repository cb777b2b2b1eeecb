//! `adit server` and `adit client` as a service of a host: what operators and systemd see of
//! them, sockets that are passed to them, their end, and their upgrade.

mod drain;
mod endpoint;
mod helpers;
mod metrics;
mod pki;
mod refused;
mod systemd;
mod takeover;

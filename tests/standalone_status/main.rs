//! `adit server` and `adit client` as a service of a host: what operators see of them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod endpoint;
mod metrics;
mod pki;
mod process;

//! The values of flags that `adit server` and `adit client` share.

use std::time::Duration;

use clap::ValueEnum;

use crate::{identity::SpiffeId, roles::standalone::Balance};

/// The heading of ghostunnel's flags that are refused with a reason, or do nothing.
pub(super) const REJECTED: &str = "Flags of ghostunnel without effect here";

/// `1h30m`, `500ms`, `0`: as Go writes durations.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err("must not be negative".into());
    }
    humantime::parse_duration(text).map_err(|e| format!("{e}; for example 10s, 5m, 1h"))
}

/// The SPIFFE ID of a client.
pub(super) fn allowed_id(text: &str) -> Result<SpiffeId, String> {
    id_or(text, ["--allow-cn", "--allow-dns"])
}

/// The SPIFFE ID of a target.
pub(super) fn verified_id(text: &str) -> Result<SpiffeId, String> {
    id_or(text, ["--verify-cn", "--verify-dns"])
}

/// Where no URI is written, a plain name may be meant.
fn id_or(text: &str, [cn, dns]: [&str; 2]) -> Result<SpiffeId, String> {
    text.parse().map_err(|error| match text.contains("://") {
        true => format!("{error}"),
        false => format!("{error}; for a common name use {cn}, for a DNS name {dns}"),
    })
}

/// Events that are not logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum QuietValue {
    /// All of the following
    All,
    /// Connections that completed
    Conns,
    /// Connections that failed
    ConnErrs,
    /// Handshakes that failed
    HandshakeErrs,
}

/// What a CRL past its nextUpdate means.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Stale {
    /// Peers that its issuer certified are refused
    Refuse,
    /// It is still used
    Warn,
}

/// TLS 1.2 or 1.3.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum TlsVersion {
    #[value(name = "TLS1.2", alias = "1.2")]
    Tls12,
    #[value(name = "TLS1.3", alias = "1.3")]
    Tls13,
}

/// How a TLS peer must end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum CloseNotify {
    /// Without it the other side is reset
    Required,
    /// A TCP FIN is enough
    Optional,
}

/// Whether the kernel or this process encrypts and decrypts TLS records.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum KernelTls {
    /// The kernel, where it supports it
    Auto,
    /// This process
    Off,
}

/// The protocol of the tunnel that carries the connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum TunnelProtocol {
    /// HTTP/2 CONNECT over mutual TLS, the wire of Istio's ambient mode
    Hbone,
}

/// Which of several targets is tried first.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum BalanceValue {
    /// The first that can be reached
    First,
    /// Round robin
    RoundRobin,
}

impl From<BalanceValue> for Balance {
    fn from(value: BalanceValue) -> Self {
        match value {
            BalanceValue::First => Self::First,
            BalanceValue::RoundRobin => Self::RoundRobin,
        }
    }
}

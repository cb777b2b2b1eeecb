//! What is counted of tunnels and of the handshakes before them.

use prometheus::{Error, IntCounterVec, Registry};

use super::register::counters;

/// Tunnels and handshakes.
#[derive(Debug)]
pub struct TunnelMetrics {
    /// Tunnels closed as their peer is no longer trusted, by `reporter` and `close_reason`.
    pub closed: IntCounterVec,
    /// TLS and HTTP/2 handshakes that failed, by `reporter` and `close_reason`.
    pub handshake_failures: IntCounterVec,
}

impl TunnelMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        let labels = &["reporter", "close_reason"];
        Ok(Self {
            closed: counters(
                registry,
                "adit_tunnels_closed_total",
                "Tunnels closed because their peer is no longer trusted",
                labels,
            )?,
            handshake_failures: counters(
                registry,
                "adit_handshake_failures_total",
                "TLS or HTTP/2 handshakes that failed",
                labels,
            )?,
        })
    }
}

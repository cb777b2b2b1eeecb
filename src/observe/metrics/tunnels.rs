//! What is counted of tunnels and of the handshakes before them.

use prometheus::{Error, IntCounterVec, Registry};

use super::register::counters;
use crate::net::{CloseReason, Direction};

/// Tunnels and handshakes.
#[derive(Debug)]
pub struct TunnelMetrics {
    /// Tunnels closed as their peer is no longer trusted, by `reporter` and `close_reason`.
    closed: IntCounterVec,
    /// TLS and HTTP/2 handshakes that failed, by `reporter` and `close_reason`.
    handshake_failures: IntCounterVec,
    /// What was closed or failed because a CRL names the peer's SVID, under Istio's name.
    revoked: IntCounterVec,
    /// Connections that a new CRL would not end: there are none, and Istio's dashboards ask.
    _untracked: IntCounterVec,
}

impl TunnelMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        let labels = &["reporter", "close_reason"];
        let untracked = counters(
            registry,
            "istio_crl_untracked_connections_total",
            "Connections that adit would not close when a new CRL revokes their peer (unstable)",
            &["reporter"],
        )?;
        let revoked = counters(
            registry,
            "istio_crl_policy_rejections_total",
            "Connections refused because a CRL revokes the SVID of their peer (unstable)",
            &["reporter"],
        )?;
        for reporter in [Direction::Inbound, Direction::Outbound].map(Direction::reporter) {
            untracked.with_label_values(&[reporter]);
            revoked.with_label_values(&[reporter]);
        }
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
            revoked,
            _untracked: untracked,
        })
    }

    /// Counts a tunnel that was closed as its peer is no longer trusted.
    pub fn distrusted(&self, direction: Direction, reason: CloseReason) {
        self.count(&self.closed, direction, reason);
    }

    /// Counts a handshake, of TLS or of a tunnel, that came to nothing.
    pub fn handshake_failed(&self, direction: Direction, reason: CloseReason) {
        self.count(&self.handshake_failures, direction, reason);
    }

    fn count(&self, family: &IntCounterVec, direction: Direction, reason: CloseReason) {
        let reporter = direction.reporter();
        family.with_label_values(&[reporter, reason.as_str()]).inc();
        if reason == CloseReason::SvidRevoked {
            self.revoked.with_label_values(&[reporter]).inc();
        }
    }
}

//! What is counted of listeners and of the sockets that they accept.

use prometheus::{Error, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::register::{counters, gauges, retain};
use crate::net::Direction;

/// Listeners and accepted sockets.
#[derive(Debug)]
pub struct ListenerMetrics {
    accept_errors: IntCounterVec,
    sockets: IntGaugeVec,
}

impl ListenerMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            accept_errors: counters(
                registry,
                "adit_accept_errors_total",
                "Connections that could not be accepted",
                &["listener"],
            )?,
            sockets: gauges(
                registry,
                "istio_tcp_sockets_open",
                "Accepted sockets now open (unstable)",
                &["reporter"],
            )?,
        })
    }

    /// Counts an accept that failed (descriptors exhausted and the like).
    pub fn accept_failed(&self, listener: &str) {
        self.accept_errors.with_label_values(&[listener]).inc();
    }

    /// Removes the series of listeners for which `is_there` says no.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        retain(&self.accept_errors, &["listener"], |values| is_there(values[0]));
    }

    /// A gauge of accepted sockets that counts itself down when dropped.
    #[must_use]
    pub fn socket(&self, direction: Direction) -> SocketCount {
        let gauge = self.sockets.with_label_values(&[direction.reporter()]);
        gauge.inc();
        SocketCount(gauge)
    }
}

/// One accepted socket in the gauge; see [`ListenerMetrics::socket`].
#[derive(Debug)]
pub struct SocketCount(IntGauge);

impl Drop for SocketCount {
    fn drop(&mut self) {
        self.0.dec();
    }
}

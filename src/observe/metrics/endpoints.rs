//! What is counted of endpoints that could not be reached.

use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, Registry};

use super::register::{counter, counters, gauge};
use crate::net::CloseReason;

/// Endpoints of services, waypoints and gateways.
#[derive(Debug)]
pub struct EndpointMetrics {
    /// By the reason for which the endpoint before was given up.
    retries: IntCounterVec,
    /// Endpoints that were left out, each time that one began to be.
    pub ejections: IntCounter,
    /// Those that are left out now, counted once for each pod that does so.
    pub ejected: IntGauge,
}

impl EndpointMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            retries: counters(
                registry,
                "adit_endpoint_retries_total",
                "Connections tried again on another endpoint, by why the attempt before failed",
                &["close_reason"],
            )?,
            ejections: counter(
                registry,
                "adit_endpoint_ejections_total",
                "Endpoints ejected because connections to them failed in a row",
            )?,
            ejected: gauge(
                registry,
                "adit_endpoints_ejected",
                "Endpoints that are ejected now: pods' new connections avoid them",
            )?,
        })
    }

    /// Counts a connection that is tried on another endpoint.
    pub fn retried(&self, reason: CloseReason) {
        self.retries.with_label_values(&[reason.as_str()]).inc();
    }
}

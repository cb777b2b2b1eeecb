//! What is counted of pods, under the names of Istio's workload manager.

use prometheus::{Error, IntGauge, Registry};

use super::register::gauge;

/// Pods of this node.
#[derive(Debug)]
pub struct PodMetrics {
    /// Pods whose connections this process proxies.
    pub active: IntGauge,
    /// Pods that could not be started yet.
    pub pending: IntGauge,
}

impl PodMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            active: gauge(
                registry,
                "workload_manager_active_proxy_count",
                "Pods carried (unstable)",
            )?,
            pending: gauge(
                registry,
                "workload_manager_pending_proxy_count",
                "Pods that could not be started yet (unstable)",
            )?,
        })
    }
}

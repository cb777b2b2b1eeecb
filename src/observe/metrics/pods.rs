//! What is counted of pods, under the names of Istio's workload manager.

use prometheus::{Error, IntCounterVec, IntGauge, Registry};

use super::register::{counters, gauge};

/// Pods of this node.
#[derive(Debug)]
pub struct PodMetrics {
    /// Pods whose connections this process proxies.
    pub active: IntGauge,
    /// Pods that could not be started yet.
    pub pending: IntGauge,
    /// Capture rules that somebody else has changed, by `result`: `restored`, `failed`.
    pub rules_restored: IntCounterVec,
}

impl PodMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            active: gauge(
                registry,
                "workload_manager_active_proxy_count",
                "Pods attached (unstable)",
            )?,
            pending: gauge(
                registry,
                "workload_manager_pending_proxy_count",
                "Pods that could not be started yet (unstable)",
            )?,
            rules_restored: counters(
                registry,
                "adit_capture_rules_restored_total",
                "Capture rules of pods that another program changed, by result",
                &["result"],
            )?,
        })
    }
}

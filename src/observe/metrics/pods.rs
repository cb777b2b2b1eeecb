//! What is counted of pods, under the names of Istio's workload manager.

use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, Registry};

use super::register::{counter, counters, gauge};

/// Pods of this node.
#[derive(Debug)]
pub struct PodMetrics {
    /// Pods whose connections this process proxies.
    pub active: IntGauge,
    /// Pods that could not be started yet.
    pub pending: IntGauge,
    /// Pods that were started.
    pub started: IntCounter,
    /// Pods that were stopped.
    pub stopped: IntCounter,
    /// Capture rules that somebody else has changed, by `result`: `restored`, `failed`.
    pub rules_restored: IntCounterVec,
    /// Packets that are not TCP, by `direction`, `protocol` and `verdict`: `passed`, `dropped`.
    pub non_tcp_packets: IntCounterVec,
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
                "Pods that could not be attached yet (unstable)",
            )?,
            started: counter(
                registry,
                "workload_manager_proxies_started_total",
                "Pods attached so far (unstable)",
            )?,
            stopped: counter(
                registry,
                "workload_manager_proxies_stopped_total",
                "Pods detached so far (unstable)",
            )?,
            rules_restored: counters(
                registry,
                "adit_capture_rules_restored_total",
                "Capture rules of pods that another program changed, by result",
                &["result"],
            )?,
            non_tcp_packets: counters(
                registry,
                "adit_pod_non_tcp_packets_total",
                "Packets of pods other than TCP, where nonTcp is count or drop",
                &["direction", "protocol", "verdict"],
            )?,
        })
    }
}

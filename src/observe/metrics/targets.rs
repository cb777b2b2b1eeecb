//! What is counted of the targets of standalone services.

use prometheus::{Error, IntCounterVec, IntGaugeVec, Registry};

use super::register::{counters, gauges, retain};

/// Targets of standalone services.
#[derive(Debug)]
pub struct TargetMetrics {
    /// Whether connections and checks work, by `service` and `target`.
    pub up: IntGaugeVec,
    /// Connections to targets, by `service`, `target` and `result`: `connected`, `failed`.
    pub connects: IntCounterVec,
}

impl TargetMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            up: gauges(
                registry,
                "adit_target_up",
                "0 if the last connection to a target or its last health check failed, else 1",
                &["service", "target"],
            )?,
            connects: counters(
                registry,
                "adit_target_connects_total",
                "Connections to targets, by result",
                &["service", "target", "result"],
            )?,
        })
    }

    /// Removes the series of targets for which `is_there`, asked by service and target, says no: a
    /// connection that began before its service was removed counts in them once more.
    pub fn retain(&self, is_there: impl Fn(&str, &str) -> bool) {
        let keep = |values: &[&str]| is_there(values[0], values[1]);
        retain(&self.up, &["service", "target"], keep);
        retain(&self.connects, &["service", "target", "result"], keep);
    }

    /// Removes the series of a target that its service no longer has.
    pub fn forget(&self, service: &str, target: &str) {
        let _ = self.up.remove_label_values(&[service, target]);
        for result in ["connected", "failed"] {
            let _ = self.connects.remove_label_values(&[service, target, result]);
        }
    }
}

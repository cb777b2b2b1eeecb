//! What is counted of the configuration and its reloads.

use prometheus::{Error, IntCounterVec, IntGauge, Registry};

use super::register::{counters, gauge};

/// The configuration.
#[derive(Debug)]
pub struct ConfigMetrics {
    /// Loads, by `result`: `accepted`, `rejected`.
    pub loads: IntCounterVec,
    /// When the configuration in use was loaded, Unix seconds.
    pub loaded: IntGauge,
    /// Files whose newest content was read and rejected: what runs is not what is on disk.
    pub rejected_files: IntGauge,
}

impl ConfigMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            loads: counters(
                registry,
                "adit_config_loads_total",
                "Configuration loads, by result",
                &["result"],
            )?,
            loaded: gauge(
                registry,
                "adit_config_loaded_timestamp_seconds",
                "When the configuration in use was loaded, in Unix time",
            )?,
            rejected_files: gauge(
                registry,
                "adit_reload_refused",
                "Files that were rejected, so that their previous content is in use",
            )?,
        })
    }
}

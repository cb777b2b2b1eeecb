//! What is counted of the configuration and its reloads.

use std::time::{SystemTime, UNIX_EPOCH};

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
    /// The configuration in use was loaded now.
    pub fn loaded_now(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.loaded.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

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

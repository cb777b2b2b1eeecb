//! What adit says about its work: one record per connection, metrics, access log, logging.
//!
//! [`conn::OpenConn`] is the record of one connection; [`Telemetry`] is what all records
//! write to. Not here: serving any of it over HTTP ([`crate::admin`]).

mod build_info;
pub mod conn;
pub mod cpu_profile;
mod feature;
mod istio_log;
mod log_filter;
pub mod logging;
pub mod metrics;
mod refused;
mod syslog;

use std::sync::Arc;

pub use build_info::BuildInfo;
pub use feature::{Feature, NotBuilt};
pub use refused::{ConfigView, Refusal, Refused};

/// Where connections are recorded: the live table and the metrics, shared by the process.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// Connections that are open now.
    pub live: Arc<conn::LiveTable>,
    /// Everything counted.
    pub metrics: Arc<metrics::Metrics>,
}

impl Telemetry {
    /// An empty table and fresh metrics in a registry of their own.
    ///
    /// # Errors
    /// If a metric cannot be registered, which is a defect of ours.
    pub fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            live: Arc::new(conn::LiveTable::default()),
            metrics: Arc::new(metrics::Metrics::new()?),
        })
    }
}

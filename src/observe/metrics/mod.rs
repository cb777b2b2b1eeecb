//! Metrics under Istio's names (istio-ambient facts §12), a piece per component; what has labels
//! that peers or configuration choose is bounded by construction.
//!
//! Byte counters of live connections are brought up to date when somebody scrapes, so the
//! path of a byte touches no metric.

mod config;
mod connections;
mod credentials;
mod dns;
mod endpoints;
mod listeners;
mod open_metrics;
mod pods;
mod process;
mod register;
mod runtime;
mod series;
mod targets;
#[cfg(test)]
mod tests;
mod trust;
mod tunnels;
mod xds;

use prometheus::{Encoder, Error, Registry, TextEncoder, proto::MetricFamily};

pub use self::{
    config::ConfigMetrics,
    connections::{ConnectionMetrics, KEPT, MAX_SERIES},
    credentials::CredentialMetrics,
    dns::{DnsLabels, DnsMetrics},
    endpoints::EndpointMetrics,
    listeners::{ListenerMetrics, SocketCount},
    pods::PodMetrics,
    process::ProcessMetrics,
    runtime::RuntimeMetrics,
    series::Series,
    targets::TargetMetrics,
    trust::TrustMetrics,
    tunnels::TunnelMetrics,
    xds::{Termination, XdsMetrics},
};
use super::conn::LiveTable;

/// Everything the process counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Connections and their bytes, by who called whom.
    pub connections: ConnectionMetrics,
    /// Listeners and accepted sockets.
    pub listeners: ListenerMetrics,
    /// Tunnels and handshakes.
    pub tunnels: TunnelMetrics,
    /// Own SVIDs and certificates.
    pub credentials: CredentialMetrics,
    /// Queries of pods' applications.
    pub dns: DnsMetrics,
    /// Trust bundles and CRLs.
    pub trust: TrustMetrics,
    /// Endpoints that could not be reached.
    pub endpoints: EndpointMetrics,
    /// The configuration and its reloads.
    pub config: ConfigMetrics,
    /// Pods of this node.
    pub pods: PodMetrics,
    /// Targets of standalone services.
    pub targets: TargetMetrics,
    /// The stream of the control plane.
    pub xds: XdsMetrics,
    /// The process itself.
    pub process: ProcessMetrics,
    /// The runtimes of the data workers.
    pub runtime: RuntimeMetrics,
}

impl Metrics {
    /// Registers all metrics in a registry of their own.
    ///
    /// # Errors
    /// If a name is taken, which is a defect of ours.
    pub fn new() -> Result<Self, Error> {
        let registry = Registry::new();
        Ok(Self {
            connections: ConnectionMetrics::register(&registry)?,
            listeners: ListenerMetrics::register(&registry)?,
            tunnels: TunnelMetrics::register(&registry)?,
            credentials: CredentialMetrics::register(&registry)?,
            dns: DnsMetrics::register(&registry)?,
            trust: TrustMetrics::register(&registry)?,
            endpoints: EndpointMetrics::register(&registry)?,
            config: ConfigMetrics::register(&registry)?,
            pods: PodMetrics::register(&registry)?,
            targets: TargetMetrics::register(&registry)?,
            xds: XdsMetrics::register(&registry)?,
            process: ProcessMetrics::register(&registry)?,
            runtime: RuntimeMetrics::register(&registry)?,
            registry,
        })
    }

    /// The exposition text, with the bytes of `live` connections brought up to date first.
    #[must_use]
    pub fn render(&self, live: &LiveTable) -> String {
        let mut text = Vec::new();
        // Writing to memory does not fail; a half-written text would be refused by a scraper.
        let _ = TextEncoder::new().encode(&self.gather(live), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    /// The exposition as `OpenMetrics`, with the bytes of `live` connections brought up to date
    /// first.
    #[must_use]
    pub fn render_open_metrics(&self, live: &LiveTable) -> String {
        open_metrics::text(&self.gather(live))
    }

    fn gather(&self, live: &LiveTable) -> Vec<MetricFamily> {
        live.all().iter().for_each(|conn| conn.flush_bytes());
        self.process.refresh();
        self.registry.gather()
    }
}

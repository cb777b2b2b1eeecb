//! The Workload API of `adit run`, if the mesh file has one: who is registered follows the
//! configuration and the pods that are carried.

use std::sync::Arc;

use crate::{
    config::WorkloadApiConfig,
    identity::{TrustDomain, shown},
    lifecycle::Tasks,
    pods::manager::PodManager,
    roles::node::Node,
    spiffe_api::workload_api::{Registrar, Registrations, WorkloadApi},
};

/// What is served, if anything.
pub(super) struct Served {
    config: Option<WorkloadApiConfig>,
    registrar: Option<Registrar>,
}

impl Served {
    /// Opens the socket and answers on it: `accepting` accepts, callers are served in `tasks`.
    pub(super) fn open(
        config: Option<WorkloadApiConfig>,
        node: &Arc<Node>,
        trust_domain: &TrustDomain,
        accepting: &Tasks,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let Some(WorkloadApiConfig { socket, mode, .. }) = &config else {
            return Ok(Self { config, registrar: None });
        };
        let (svids, listeners) = (Arc::clone(&node.svids), &node.listeners);
        let api = WorkloadApi::open(socket, *mode, svids, trust_domain.clone(), listeners)?;
        tracing::info!(socket = %shown(socket), "serving the Workload API");
        let registrar = Some(api.registrar());
        accepting.spawn(api.serve(tasks.child()));
        Ok(Self { config, registrar })
    }

    /// The keys of settings that differ in `now` and take effect only after a restart.
    pub(super) fn restart_keys(&self, now: Option<&WorkloadApiConfig>) -> Vec<&'static str> {
        let (then, now) = match (&self.config, now) {
            (None, None) => return Vec::new(),
            (Some(then), Some(now)) => (then, now),
            _ => return vec!["workloadApi"],
        };
        let changed = [
            ("workloadApi.socket", then.socket != now.socket),
            ("workloadApi.mode", then.mode != now.mode),
        ];
        changed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
    }

    /// Takes over entries; a socket stays what it was.
    pub(super) fn take(&mut self, config: Option<WorkloadApiConfig>) {
        let entries = config.map(|c| c.entries).unwrap_or_default();
        if let Some(served) = &mut self.config {
            served.entries = entries;
        }
    }

    /// Tells what is registered now.
    pub(super) fn register(&self, pod_manager: &PodManager) {
        let (Some(registrar), Some(config)) = (&self.registrar, &self.config) else { return };
        let (pods, entries) = (pod_manager.carried(), config.entries.clone());
        registrar.register(Registrations { pods, entries });
    }
}

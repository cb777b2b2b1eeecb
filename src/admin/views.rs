//! What `/config_dump` and `/certs` answer. The names of the fields are an interface: one may come,
//! none goes or changes; `istioctl` and Kiali decode them (ambient contract §8).

mod certificates;
mod control_plane;
mod endpoints;
mod non_tcp;
mod pods;
mod settings;

use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;
use serde_json::Value;

use self::{
    certificates::CertificateView,
    control_plane::ControlPlaneView,
    endpoints::{EjectedEndpoint, ejected},
};
pub(super) use self::{
    non_tcp::NonTcpView,
    pods::{PodState, pods},
};
pub use self::{pods::PodView, settings::settings};
use crate::{
    config::environment::Environment,
    credentials::{SvidStatus, Svids},
    mesh::{MeshDump, View, source::xds::XdsStatus},
    observe::{BuildInfo, ConfigView, Refused, conn::LiveTable},
    proxy::egress::Ejections,
    tls::record::ChoicesView,
};

/// The mesh in force, and what this process makes of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigDump {
    /// Workloads, services and policies.
    #[serde(flatten)]
    pub(super) mesh: MeshDump,
    /// What waits for a service that is not there: nothing ever does.
    pub(super) staged_services: BTreeMap<String, Value>,
    /// What does not come from the control plane.
    pub(super) static_config: StaticConfig,
    /// Our own SVIDs.
    pub(super) certificates: Vec<CertificateView>,
    /// Whether what is on disk is what is in force; of an ambient node its settings.
    pub(super) config: Value,
    /// Who seals TLS records.
    pub(super) tls: ChoicesView,
    /// Of adit.
    pub(super) version: BuildInfo,
    /// The pods of an ambient node and their connections, by the pod's UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workload_state: Option<BTreeMap<String, PodState>>,
    /// What is not as it should be about pods of an ambient node: adit's own, not of Istio.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) pod_faults: Vec<String>,
    /// What is counted or dropped of pods' traffic that is not TCP: adit's own, not of Istio.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) non_tcp: Vec<NonTcpView>,
    /// Endpoints that pods' connections are not given at present: adit's own, not of Istio.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ejected_endpoints: Vec<EjectedEndpoint>,
    /// How an ambient node's mesh is followed, and how old it is: adit's own, not of Istio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) control_plane: Option<ControlPlaneView>,
}

/// What does not come from the control plane: nothing.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct StaticConfig {
    workloads: [(); 0],
    policies: [(); 0],
    services: [(); 0],
}

/// Our own SVIDs, and for how long they serve without their source.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CertsView {
    /// Which kind of source issues them.
    pub(super) source: &'static str,
    /// Until the first of them runs out.
    pub(super) outage_budget_seconds: Option<u64>,
    /// That one.
    pub(super) first_to_expire: Option<String>,
    /// Identities that have none.
    pub(super) without_valid_svid: Vec<String>,
    /// Each.
    pub(super) certificates: Vec<SvidStatus>,
}

/// An ambient node, as far as a dump depends on it.
pub(super) struct Ambient<'a> {
    pub(super) environment: &'a Environment,
    pub(super) pods: &'a [PodView],
    pub(super) pod_faults: Vec<String>,
    pub(super) control_plane: Option<XdsStatus>,
    pub(super) live: &'a LiveTable,
}

impl ConfigDump {
    pub(super) fn of(
        mesh: &View,
        svids: &Svids,
        file: Option<Refused>,
        ambient: Option<&Ambient<'_>>,
        ejections: &Ejections,
    ) -> Self {
        let istio = ambient.and_then(|ambient| ambient.environment.istio_version.as_deref());
        let bundles = svids.bundles();
        let certificates = match ambient {
            Some(_) => certificates::one_for_each_identity(svids.held(), &bundles),
            None => certificates::all(svids.held(), &bundles),
        };
        let mut mesh = mesh.dump();
        if ambient.is_some() {
            // Strict mode reaches an ambient node as a DENY policy.
            mesh.mtls = "by policy";
        }
        Self {
            mesh,
            staged_services: BTreeMap::new(),
            static_config: StaticConfig::default(),
            certificates,
            config: match ambient {
                Some(ambient) => settings(ambient.environment),
                None => serde_json::json!(ConfigView::of(file)),
            },
            tls: ChoicesView::now(),
            version: BuildInfo::with_istio(istio),
            workload_state: ambient.map(|ambient| pods(ambient.pods, &ambient.live.all())),
            pod_faults: ambient.map(|ambient| ambient.pod_faults.clone()).unwrap_or_default(),
            non_tcp: Vec::new(),
            ejected_endpoints: ejected(ejections),
            control_plane: ambient
                .and_then(|ambient| ambient.control_plane.as_ref())
                .map(|status| ControlPlaneView::of(status, Instant::now())),
        }
    }
}

impl CertsView {
    pub(super) fn of(svids: &Svids) -> Self {
        let budget = svids.outage_budget();
        Self {
            source: svids.source(),
            outage_budget_seconds: budget.seconds,
            first_to_expire: budget.first.map(|id| id.to_string()),
            without_valid_svid: budget.without,
            certificates: svids.statuses(),
        }
    }
}

#[cfg(test)]
mod tests;

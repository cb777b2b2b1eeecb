//! The mesh in force as programs read it, in Istio's shapes (ambient contract §8): `istioctl` and
//! Kiali decode them, and one wrong type loses them all of it. The names of the fields are an
//! interface: one may come, none goes or changes.

mod service;
mod workload;

use serde::Serialize;

pub use self::{
    service::{BalancingDump, CidrDump, EndpointDump, ServiceDump, WeightedDump},
    workload::{AppTunnelDump, GatewayDump, LocalityDump, WorkloadDump},
};
use super::{MtlsMode, View};
use crate::policy::PolicyDump;

/// What `/config_dump` shows of the mesh.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshDump {
    /// By uid.
    pub workloads: Vec<WorkloadDump>,
    /// By host name and namespace.
    pub services: Vec<ServiceDump>,
    /// By namespace and name.
    pub policies: Vec<PolicyDump>,
    /// The mesh's own.
    pub trust_domain: String,
    /// `strict` or `permissive`; `by policy` where policies alone say who may call in plaintext.
    pub mtls: &'static str,
}

impl View {
    /// All that is in force.
    #[must_use]
    pub fn dump(&self) -> MeshDump {
        let mut workloads: Vec<_> = self.workloads().collect();
        workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
        let mut services: Vec<_> = self.services().collect();
        services.sort_by(|a, b| (&a.hostname, &a.namespace).cmp(&(&b.hostname, &b.namespace)));
        let mut policies: Vec<_> = self.policies.iter().collect();
        policies.sort_by(|a, b| a.key.cmp(&b.key));
        MeshDump {
            workloads: workloads.into_iter().map(|w| WorkloadDump::of(w)).collect(),
            services: services.into_iter().map(|s| ServiceDump::of(self, s)).collect(),
            policies: policies.into_iter().map(|named| named.policy.dump()).collect(),
            trust_domain: self.trust_domain.as_str().to_owned(),
            mtls: match self.mtls {
                MtlsMode::Strict => "strict",
                MtlsMode::Permissive => "permissive",
            },
        }
    }
}

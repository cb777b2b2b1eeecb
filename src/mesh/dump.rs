//! The mesh in force as programs read it, in Istio's shapes as far as the fields exist. The names
//! of the fields are an interface: one may come, none goes or changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Serialize;

use super::{MtlsMode, Protocol, Service, View, Workload};
use crate::policy::PolicyDump;

/// What `/config_dump` shows of the mesh.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshDump {
    /// By uid.
    pub workloads: Vec<WorkloadDump>,
    /// By namespace and host name.
    pub services: Vec<ServiceDump>,
    /// By namespace and name.
    pub policies: Vec<PolicyDump>,
    /// The mesh's own.
    pub trust_domain: String,
    /// `strict` or `permissive`.
    pub mtls: &'static str,
}

/// One workload.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadDump {
    /// Unique in the mesh.
    pub uid: String,
    /// Its addresses.
    pub workload_ips: Vec<IpAddr>,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Of its SPIFFE ID.
    pub trust_domain: String,
    /// Its SPIFFE ID.
    pub identity: String,
    /// How it is reached.
    pub protocol: Protocol,
    /// The node that it runs on.
    pub node: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The services in front of it, `namespace/hostname`.
    pub services: Vec<String>,
    /// `Healthy` or `Unhealthy`, as its platform says.
    pub status: &'static str,
}

/// One service.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDump {
    /// The first label of its host name.
    pub name: Option<String>,
    /// Its namespace.
    pub namespace: String,
    /// Its host name.
    pub hostname: String,
    /// Its virtual addresses, `network/address`.
    pub vips: Vec<String>,
    /// From its ports to those of its workloads.
    pub ports: BTreeMap<String, u16>,
    /// The uids of the workloads behind it.
    pub endpoints: Vec<String>,
}

impl View {
    /// All that is in force.
    #[must_use]
    pub fn dump(&self) -> MeshDump {
        let mut workloads: Vec<_> = self.workloads().collect();
        workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
        let mut services: Vec<_> = self.services().collect();
        services.sort_by(|a, b| (&a.namespace, &a.hostname).cmp(&(&b.namespace, &b.hostname)));
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

impl WorkloadDump {
    fn of(workload: &Workload) -> Self {
        let services = workload.services().iter();
        let services: BTreeSet<_> =
            services.map(|s| format!("{}/{}", s.namespace, s.hostname)).collect();
        let labels = workload.labels().iter();
        Self {
            uid: workload.uid.to_string(),
            workload_ips: workload.addresses.to_vec(),
            name: workload.name.to_string(),
            namespace: workload.namespace().to_string(),
            service_account: workload.service_account().to_owned(),
            trust_domain: workload.id().trust_domain().as_str().to_owned(),
            identity: workload.id().as_str().to_owned(),
            protocol: workload.protocol(),
            node: workload.node.as_deref().map(ToOwned::to_owned),
            labels: labels.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            services: services.into_iter().collect(),
            status: if workload.healthy { "Healthy" } else { "Unhealthy" },
        }
    }
}

impl ServiceDump {
    fn of(mesh: &View, service: &Service) -> Self {
        let ports = service.ports.iter();
        let mut endpoints: Vec<_> =
            mesh.endpoints(service).map(|(workload, _)| workload.uid.to_string()).collect();
        endpoints.sort();
        Self {
            name: Some(service.name.to_string()),
            namespace: service.namespace.to_string(),
            hostname: service.hostname.to_string(),
            vips: service.vips.iter().map(|vip| format!("{}/{}", vip.network, vip.ip)).collect(),
            ports: ports.map(|p| (p.port.to_string(), p.target_port)).collect(),
            endpoints,
        }
    }
}

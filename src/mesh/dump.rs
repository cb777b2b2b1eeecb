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
    /// `Healthy`: nothing else is known yet.
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
        let mut behind: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for service in &services {
            for uid in &service.workloads {
                let key = format!("{}/{}", service.namespace, service.hostname);
                behind.entry(uid).or_default().insert(key);
            }
        }
        let mut of = |w: &Workload| WorkloadDump::of(w, behind.remove(&*w.uid).unwrap_or_default());
        MeshDump {
            workloads: workloads.into_iter().map(|w| of(w)).collect(),
            services: services.into_iter().map(|s| ServiceDump::of(s)).collect(),
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
    fn of(workload: &Workload, services: BTreeSet<String>) -> Self {
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
            status: "Healthy",
        }
    }
}

impl ServiceDump {
    fn of(service: &Service) -> Self {
        let ports = service.ports.iter();
        Self {
            name: service.hostname.split('.').next().map(ToOwned::to_owned),
            namespace: service.namespace.to_string(),
            hostname: service.hostname.to_string(),
            vips: service.addresses.iter().map(|a| format!("/{a}")).collect(),
            ports: ports.map(|p| (p.port.to_string(), p.target_port)).collect(),
            endpoints: service.workloads.iter().map(ToString::to_string).collect(),
        }
    }
}

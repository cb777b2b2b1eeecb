//! The mesh at one moment: immutable, indexed, with the rules of every workload compiled.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use serde_json::{Value, json};

use super::{Service, Workload};
use crate::{
    identity::TrustDomain,
    policy::{Policy, Rules},
};

/// Whether plaintext towards a workload of the mesh is taken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MtlsMode {
    /// Refused. The default.
    #[default]
    Strict,
    /// Taken if a policy allows a caller without identity.
    Permissive,
}

/// What a snapshot is made of.
#[derive(Clone, Debug)]
pub struct SnapshotParts {
    /// The mesh's own trust domain.
    pub trust_domain: TrustDomain,
    /// Strict or permissive.
    pub mtls: MtlsMode,
    /// All workloads; uids and addresses are unique.
    pub workloads: Vec<Workload>,
    /// All services; addresses are unique.
    pub services: Vec<Service>,
    /// All policies.
    pub policies: Vec<Policy>,
}

/// One immutable state of the mesh.
#[derive(Debug)]
pub struct Snapshot {
    trust_domain: TrustDomain,
    mtls: MtlsMode,
    workloads: HashMap<Arc<str>, Arc<Workload>>,
    by_ip: HashMap<IpAddr, Arc<Workload>>,
    services: Vec<Arc<Service>>,
    by_vip: HashMap<IpAddr, Arc<Service>>,
    policies: Vec<Arc<Policy>>,
    rules: HashMap<Arc<str>, Arc<Rules>>,
    deny_all: Arc<Rules>,
}

impl Snapshot {
    /// Indexes the parts and compiles each workload's rules.
    #[must_use]
    pub fn build(parts: SnapshotParts) -> Self {
        let workloads: Vec<_> = parts.workloads.into_iter().map(Arc::new).collect();
        let services: Vec<_> = parts.services.into_iter().map(Arc::new).collect();
        let policies: Vec<_> = parts.policies.into_iter().map(Arc::new).collect();
        let rules = |w: &Workload| {
            let apply = policies.iter().filter(|p| p.applies_to(&w.namespace, &w.labels));
            Arc::new(Rules::compile(apply))
        };
        Self {
            trust_domain: parts.trust_domain,
            mtls: parts.mtls,
            rules: workloads.iter().map(|w| (w.uid.clone(), rules(w))).collect(),
            by_ip: workloads
                .iter()
                .flat_map(|w| w.addresses.iter().map(|a| (*a, Arc::clone(w))))
                .collect(),
            workloads: workloads.into_iter().map(|w| (w.uid.clone(), w)).collect(),
            by_vip: services
                .iter()
                .flat_map(|s| s.addresses.iter().map(|a| (*a, Arc::clone(s))))
                .collect(),
            services,
            policies,
            deny_all: Arc::new(Rules::deny_all()),
        }
    }

    /// The mesh's own trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Strict or permissive.
    #[must_use]
    pub fn mtls(&self) -> MtlsMode {
        self.mtls
    }

    /// A workload by `namespace/name`.
    #[must_use]
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workload that owns an address.
    #[must_use]
    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.by_ip.get(&ip)
    }

    /// All services, in the order of the file.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// The service that owns a virtual address.
    #[must_use]
    pub fn service_by_vip(&self, ip: IpAddr) -> Option<&Arc<Service>> {
        self.by_vip.get(&ip)
    }

    /// All policies, in the order of the file.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter()
    }

    /// The rules of a workload. One that is not in the mesh (any more) is denied everything.
    #[must_use]
    pub fn rules(&self, uid: &str) -> Arc<Rules> {
        Arc::clone(self.rules.get(uid).unwrap_or(&self.deny_all))
    }

    /// What `/config_dump` shows, in Istio's shapes as far as the fields exist.
    #[must_use]
    pub fn dump(&self) -> Value {
        let mut workloads: Vec<_> = self.workloads().collect();
        workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
        let services_of = |uid: &str| -> Vec<String> {
            let behind = |s: &&Arc<Service>| s.workloads.iter().any(|w| &**w == uid);
            self.services.iter().filter(behind).map(|s| s.key()).collect()
        };
        let workloads: Vec<_> = workloads.iter().map(|w| w.dump(&services_of(&w.uid))).collect();
        json!({
            "workloads": workloads,
            "services": self.services.iter().map(|s| s.dump()).collect::<Vec<_>>(),
            "policies": self.policies.iter().map(|p| p.dump()).collect::<Vec<_>>(),
            "trustDomain": self.trust_domain.as_str(),
            "mtls": match self.mtls {
                MtlsMode::Strict => "strict",
                MtlsMode::Permissive => "permissive",
            },
        })
    }
}

impl Workload {
    fn dump(&self, services: &[String]) -> Value {
        json!({
            "uid": &*self.uid,
            "workloadIps": self.addresses,
            "name": &*self.name,
            "namespace": &*self.namespace,
            "serviceAccount": &*self.service_account,
            "trustDomain": self.id.trust_domain().as_str(),
            "identity": self.id.as_str(),
            "protocol": self.protocol,
            "node": self.node.as_deref(),
            "labels": self.labels,
            "services": services,
            "status": "Healthy",
        })
    }
}

impl Service {
    fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.hostname)
    }

    fn dump(&self) -> Value {
        let ports: serde_json::Map<_, _> =
            self.ports.iter().map(|p| (p.port.to_string(), p.target_port.into())).collect();
        json!({
            "name": self.hostname.split('.').next(),
            "namespace": &*self.namespace,
            "hostname": &*self.hostname,
            "vips": self.addresses.iter().map(|a| format!("/{a}")).collect::<Vec<_>>(),
            "ports": ports,
            "endpoints": self.workloads.iter().map(|w| &**w).collect::<Vec<_>>(),
        })
    }
}

//! The mesh at one moment: immutable, indexed, and cheap to clone, as views share what they
//! have in common.

use std::{net::IpAddr, sync::Arc};

use super::{
    Service, ServicePort, Workload,
    by_hostname::Named,
    claims::spelled,
    compiled::{Compiled, NamedPolicy},
    endpoints::Backed,
    map::{Keyed, Map},
    named::{Host, meant},
    network::Network,
    scopes::Scopes,
};
use crate::{
    identity::TrustDomain,
    net::PodName,
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

/// One immutable state of the mesh, as [`Store`](super::Store) gives it out.
#[derive(Clone)]
pub struct View {
    pub(super) trust_domain: TrustDomain,
    pub(super) mtls: MtlsMode,
    /// Our own.
    pub(super) network: Arc<str>,
    pub(super) workloads: Map<Arc<Workload>>,
    /// Those of this node, by `namespace/name`.
    pub(super) local: Map<Local>,
    pub(super) networks: Map<Network>,
    pub(super) hosts: Map<Host>,
    pub(super) endpoints: Map<Backed>,
    pub(super) by_hostname: Map<Named>,
    pub(super) policies: Map<NamedPolicy>,
    pub(super) scopes: Scopes,
    pub(super) compiled: Arc<Compiled>,
}

impl Keyed for Arc<Workload> {
    type Key = str;

    fn key(&self) -> &str {
        &self.uid
    }
}

/// A workload of this node, under the name of its pod.
#[derive(Clone)]
pub(super) struct Local {
    /// `namespace/name`.
    pub(super) pod: Arc<str>,
    /// The one that came last is the pod's now; the others are about to go.
    pub(super) workloads: Vec<Arc<Workload>>,
}

impl Keyed for Local {
    type Key = str;

    fn key(&self) -> &str {
        &self.pod
    }
}

impl View {
    /// Of a mesh in which nothing is known yet.
    pub(super) fn empty(trust_domain: TrustDomain, mtls: MtlsMode) -> Self {
        Self {
            trust_domain,
            mtls,
            network: Arc::default(),
            workloads: Map::default(),
            local: Map::default(),
            networks: Map::default(),
            hosts: Map::default(),
            endpoints: Map::default(),
            by_hostname: Map::default(),
            policies: Map::default(),
            scopes: Scopes::default(),
            compiled: Arc::default(),
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

    /// The network in which we are; empty for the only one.
    #[must_use]
    pub fn network(&self) -> &Arc<str> {
        &self.network
    }

    /// A workload by its uid.
    #[must_use]
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter()
    }

    /// The workload that has the name of a pod of this node. Whether the pod is it, is another
    /// question.
    #[must_use]
    pub fn of_pod(&self, pod: &PodName) -> Option<&Arc<Workload>> {
        match &pod.service_account {
            None => self.workload(&pod.uid),
            Some(account) => {
                self.local(&pod.name).filter(|workload| workload.service_account() == &**account)
            }
        }
    }

    /// The workload of a pod of this node, `namespace/name`.
    #[must_use]
    pub fn local(&self, pod: &str) -> Option<&Arc<Workload>> {
        self.local.get(pod)?.workloads.last()
    }

    /// The workload that owns an address in our own network.
    #[must_use]
    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.workload_at(&self.network, ip)
    }

    /// The workload that owns an address in a network.
    #[must_use]
    pub fn workload_at(&self, network: &str, ip: IpAddr) -> Option<&Arc<Workload>> {
        Some(&self.networks.get(network)?.addresses.get(&spelled(ip))?.by)
    }

    /// The workload of a namespace that has this host name in place of an address.
    #[must_use]
    pub fn workload_named(&self, namespace: &str, hostname: &str) -> Option<&Arc<Workload>> {
        let named = self.by_hostname.get(hostname)?;
        named.workloads.iter().find(|workload| **workload.namespace() == *namespace)
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.hosts.iter().flat_map(|host| host.services.as_slice().iter())
    }

    /// A service by its namespace and host name.
    #[must_use]
    pub fn service(&self, namespace: &str, hostname: &str) -> Option<&Arc<Service>> {
        self.services_named(hostname).iter().find(|s| *s.namespace == *namespace)
    }

    /// The services with a host name, in the order of their namespaces.
    #[must_use]
    pub fn services_named(&self, hostname: &str) -> &[Arc<Service>] {
        self.hosts.get(hostname).map_or(&[], |host| host.services.as_slice())
    }

    /// The service of a host name that a caller of `namespace` means.
    #[must_use]
    pub fn service_by_name(&self, hostname: &str, namespace: &str) -> Option<&Arc<Service>> {
        meant(self.services_named(hostname), namespace)
    }

    /// The service that a caller of `namespace` means by a virtual address of our own network.
    #[must_use]
    pub fn service_by_vip(&self, ip: IpAddr, namespace: &str) -> Option<&Arc<Service>> {
        self.service_at(&self.network, ip, namespace)
    }

    /// The service that a caller of `namespace` means by a virtual address of a network.
    #[must_use]
    pub fn service_at(&self, network: &str, ip: IpAddr, namespace: &str) -> Option<&Arc<Service>> {
        self.networks.get(network)?.service(ip, namespace)
    }

    /// The workloads behind a service, in no order, each with the ports that it has elsewhere than
    /// the service says.
    pub fn endpoints<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = (&'a Arc<Workload>, &'a [ServicePort])> {
        let backed = self.endpoints.get(&*service.hostname);
        let of = backed.and_then(|backed| backed.of(&service.namespace));
        of.into_iter().flat_map(|of| of.iter()).filter_map(move |workload| {
            let member = workload.membership(&service.namespace, &service.hostname)?;
            Some((workload, &*member.ports))
        })
    }

    /// All policies, in no order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter().map(|named| &named.policy)
    }

    /// A policy by `namespace/name`.
    #[must_use]
    pub fn policy(&self, key: &str) -> Option<&Arc<Policy>> {
        Some(&self.policies.get(key)?.policy)
    }

    /// The rules of a workload, compiled when they are first asked for. One that is not in the
    /// mesh (any more) is denied everything, and so is one that an unknown policy selects.
    #[must_use]
    pub fn rules(&self, uid: &str) -> Arc<Rules> {
        match self.workload(uid) {
            Some(workload) => self.compiled.rules((&self.policies, &self.scopes), workload),
            None => self.compiled.deny_all(),
        }
    }
}

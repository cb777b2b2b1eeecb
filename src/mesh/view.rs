//! The mesh at one moment: immutable, indexed, and cheap to clone, as views share what they
//! have in common.

use std::{net::IpAddr, slice, sync::Arc};

use super::{
    Service, Workload,
    claims::{Owned, spelled},
    compiled::{Compiled, NamedPolicy},
    map::{Keyed, Map},
};
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

/// One immutable state of the mesh, as [`Store`](super::Store) gives it out.
#[derive(Clone)]
pub struct View {
    pub(super) trust_domain: TrustDomain,
    pub(super) mtls: MtlsMode,
    pub(super) workloads: Map<Arc<Workload>>,
    pub(super) networks: Map<Network>,
    pub(super) hosts: Map<Host>,
    pub(super) vips: Map<Owned<Service>>,
    pub(super) policies: Map<NamedPolicy>,
    pub(super) compiled: Arc<Compiled>,
}

impl Keyed for Arc<Workload> {
    type Key = str;

    fn key(&self) -> &str {
        &self.uid
    }
}

/// The addresses of one network.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) name: Arc<str>,
    pub(super) addresses: Map<Owned<Workload>>,
}

impl Keyed for Network {
    type Key = str;

    fn key(&self) -> &str {
        &self.name
    }
}

/// The services that have one host name, in the order of their namespaces.
#[derive(Clone)]
pub(super) enum Host {
    /// As it nearly always is: no list to go through.
    One(Arc<Service>),
    /// Never empty.
    Several(Arc<[Arc<Service>]>),
}

impl Host {
    pub(super) fn services(&self) -> &[Arc<Service>] {
        match self {
            Self::One(service) => slice::from_ref(service),
            Self::Several(services) => services,
        }
    }
}

impl Keyed for Host {
    type Key = str;

    fn key(&self) -> &str {
        self.services().first().map_or("", |service| &service.hostname)
    }
}

impl View {
    /// Of a mesh in which nothing is known yet.
    pub(super) fn empty(trust_domain: TrustDomain, mtls: MtlsMode) -> Self {
        Self {
            trust_domain,
            mtls,
            workloads: Map::default(),
            networks: Map::default(),
            hosts: Map::default(),
            vips: Map::default(),
            policies: Map::default(),
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

    /// A workload by its uid.
    #[must_use]
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter()
    }

    /// The workload that owns an address in our own network.
    #[must_use]
    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.workload_at("", ip)
    }

    /// The workload that owns an address in a network.
    #[must_use]
    pub fn workload_at(&self, network: &str, ip: IpAddr) -> Option<&Arc<Workload>> {
        Some(&self.networks.get(network)?.addresses.get(&spelled(ip))?.by)
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.hosts.iter().flat_map(|host| host.services().iter())
    }

    /// A service by its namespace and host name.
    #[must_use]
    pub fn service(&self, namespace: &str, hostname: &str) -> Option<&Arc<Service>> {
        self.services_named(hostname).iter().find(|s| *s.namespace == *namespace)
    }

    /// The services with a host name, in the order of their namespaces.
    #[must_use]
    pub fn services_named(&self, hostname: &str) -> &[Arc<Service>] {
        self.hosts.get(hostname).map_or(&[], Host::services)
    }

    /// The service that owns a virtual address.
    #[must_use]
    pub fn service_by_vip(&self, ip: IpAddr) -> Option<&Arc<Service>> {
        Some(&self.vips.get(&spelled(ip))?.by)
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
            Some(workload) => self.compiled.rules(&self.policies, workload.policies()),
            None => self.compiled.deny_all(),
        }
    }
}

//! The mesh of one file: what it says now, and how a store follows from one edit to the next.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    identity::TrustDomain,
    mesh::{MtlsMode, Service, Store, Template, Workload},
    policy::{Policy, Scope},
};

/// What a mesh file says of the mesh.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshParts {
    /// The mesh's own trust domain.
    pub trust_domain: TrustDomain,
    /// Strict or permissive.
    pub mtls: MtlsMode,
    /// All workloads; uids and addresses are unique.
    pub workloads: Vec<Workload>,
    /// All services; addresses are unique.
    pub services: Vec<Service>,
    /// All policies; names are unique.
    pub policies: Vec<Policy>,
}

/// Whether a policy is about pods such as these, by label or otherwise.
#[must_use]
pub fn selects(policy: &Policy, template: &Template) -> bool {
    policy.applies_to(&template.namespace, |key| Some(&**template.labels.get(key)?))
}

impl MeshParts {
    /// Writes into each workload which policies select it by label, in the order of the file.
    pub fn select(&mut self) {
        let mut sets: HashMap<Vec<&Arc<str>>, Arc<[Arc<str>]>> = HashMap::new();
        let by_label = |p: &&Policy| matches!(p.scope, Scope::Selector { .. });
        let policies: Vec<(&Policy, Arc<str>)> =
            self.policies.iter().filter(by_label).map(|p| (p, p.key().into())).collect();
        for workload in &mut self.workloads {
            let template = Arc::make_mut(&mut workload.template);
            let all = policies.iter().filter(|(policy, _)| selects(policy, template));
            let names: Vec<_> = all.map(|(_, key)| key).collect();
            let set = sets
                .entry(names)
                .or_insert_with_key(|names| names.iter().map(|key| Arc::clone(key)).collect());
            template.policies = Arc::clone(set);
        }
    }

    /// A store with this in it.
    #[must_use]
    pub fn store(self) -> Store {
        let mut store = Store::new(self.trust_domain.clone(), self.mtls);
        self.apply(&mut store);
        store.take_changes();
        store
    }

    /// Brings a store of an earlier edit to this one: only what differs is a change.
    pub fn apply(self, store: &mut Store) {
        store.set_mtls(self.mtls);
        let workloads: HashSet<_> = self.workloads.iter().map(|w| Arc::clone(&w.uid)).collect();
        let services = self.services.iter().map(|s| (s.namespace.clone(), s.hostname.clone()));
        let services: HashSet<_> = services.collect();
        let policies: HashSet<_> = self.policies.iter().map(Policy::key).collect();
        let view = store.view();
        for workload in view.workloads().filter(|w| !workloads.contains(&w.uid)) {
            store.remove_workload(&workload.uid);
        }
        let named = |s: &Service| (s.namespace.clone(), s.hostname.clone());
        for service in view.services().filter(|s| !services.contains(&named(s))) {
            store.remove_service(&service.namespace, &service.hostname);
        }
        for key in view.policies().map(|p| p.key()).filter(|key| !policies.contains(key)) {
            store.remove_policy(&key);
        }
        drop(view);
        for policy in self.policies {
            store.upsert_policy(policy);
        }
        for workload in self.workloads {
            store.upsert_workload(workload);
        }
        for service in self.services {
            store.upsert_service(service);
        }
    }
}

//! The mesh as its sources tell it, one resource at a time: every index follows by the delta,
//! and none is ever rebuilt.

use std::{collections::BTreeSet, net::Ipv6Addr, sync::Arc};

use super::{
    Changes, MtlsMode, Service, Template, View, Workload,
    changes::{Before, between},
    claims::{Claims, spelled},
    compiled::NamedPolicy,
    intern::Interner,
    map::Map,
    view::{Host, Network},
};
use crate::{identity::TrustDomain, policy::Policy};

/// Takes deltas, gives out views and what changed between them.
///
/// Names of policies may come before the policies, endpoints of services before the workloads.
pub struct Store {
    view: View,
    before: Before,
    addresses: Claims<Workload>,
    vips: Claims<Service>,
    texts: Interner<str>,
    policy_sets: Interner<[Arc<str>]>,
    templates: Interner<Template>,
}

impl Store {
    /// Of a mesh in which nothing is known yet.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, mtls: MtlsMode) -> Self {
        Self {
            view: View::empty(trust_domain, mtls),
            before: Before::default(),
            addresses: Claims::default(),
            vips: Claims::default(),
            texts: Interner::default(),
            policy_sets: Interner::default(),
            templates: Interner::default(),
        }
    }

    /// The mesh as of the last delta.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// The mesh as of the last delta, to look at.
    #[must_use]
    pub fn now(&self) -> &View {
        &self.view
    }

    /// What became different since this was last asked.
    pub fn take_changes(&mut self) -> Changes {
        let before = std::mem::take(&mut self.before);
        let view = &self.view;
        Changes {
            workloads: between(before.workloads, |uid| view.workload(uid).cloned()),
            services: between(before.services, |(namespace, hostname)| {
                view.service(namespace, hostname).cloned()
            }),
            policies: between(before.policies, |key| view.policy(key).cloned()),
            mtls: before.mtls.is_some_and(|before| before != view.mtls),
        }
    }

    /// Strict or permissive from now on.
    pub fn set_mtls(&mut self, mtls: MtlsMode) {
        self.before.mtls.get_or_insert(self.view.mtls);
        self.view.mtls = mtls;
    }

    /// Adds a workload, or changes the one with its uid; whether that makes a difference. An
    /// address that another claims too belongs to the one whose uid sorts first.
    pub fn upsert_workload(&mut self, workload: Workload) -> bool {
        let old = self.view.workloads.get(&workload.uid).cloned();
        if old.as_deref() == Some(&workload) {
            return false;
        }
        let new = Arc::new(self.shared(workload));
        if let Some(old) = &old {
            self.release_addresses(old);
        }
        self.view.workloads.insert(Arc::clone(&new));
        self.claim_addresses(&new);
        if let Some(old) = &old {
            self.release(old);
        }
        self.before.workloads.entry(Arc::clone(&new.uid)).or_insert(old);
        true
    }

    /// Forgets a workload; whether it was there.
    pub fn remove_workload(&mut self, uid: &str) -> bool {
        let Some(old) = self.view.workloads.remove(uid) else { return false };
        self.release_addresses(&old);
        self.release(&old);
        self.before.workloads.entry(Arc::clone(&old.uid)).or_insert(Some(old));
        true
    }

    /// Adds a service, or changes the one with its namespace and host name; whether that makes
    /// a difference. A virtual address that another claims too belongs to the one that sorts
    /// first.
    pub fn upsert_service(&mut self, mut service: Service) -> bool {
        let old = self.view.service(&service.namespace, &service.hostname).cloned();
        if old.as_deref() == Some(&service) {
            return false;
        }
        service.namespace = self.texts.hold(&service.namespace);
        for uid in &mut service.workloads {
            if let Some(workload) = self.view.workloads.get(uid) {
                *uid = Arc::clone(&workload.uid);
            }
        }
        let new = Arc::new(service);
        if let Some(old) = &old {
            self.release_vips(old);
            self.texts.release(&old.namespace);
        }
        self.name_service(&new.namespace, &new.hostname, Some(&new));
        for ip in distinct(&new.addresses) {
            self.vips.claim((&Arc::default(), &mut self.view.vips), ip, &new);
        }
        let key = (Arc::clone(&new.namespace), Arc::clone(&new.hostname));
        self.before.services.entry(key).or_insert(old);
        true
    }

    /// Forgets a service; whether it was there.
    pub fn remove_service(&mut self, namespace: &str, hostname: &str) -> bool {
        let Some(old) = self.view.service(namespace, hostname).cloned() else { return false };
        self.release_vips(&old);
        self.texts.release(&old.namespace);
        self.name_service(&old.namespace, &old.hostname, None);
        let key = (Arc::clone(&old.namespace), Arc::clone(&old.hostname));
        self.before.services.entry(key).or_insert(Some(old));
        true
    }

    /// Adds a policy, or changes the one with its namespace and name; whether that makes a
    /// difference. That its rules stand in other lines now is none.
    pub fn upsert_policy(&mut self, policy: Policy) -> bool {
        let key = policy.key();
        let old = self.view.policy(&key).cloned();
        let same = old.as_ref().filter(|old| ***old == policy);
        if same.is_some_and(|old| old.places().eq(policy.places())) {
            return false;
        }
        let differs = same.is_none();
        let key = match &old {
            Some(_) => key.into(),
            None => self.texts.hold(&key.into()),
        };
        let named = NamedPolicy { key: Arc::clone(&key), policy: Arc::new(policy) };
        self.view.policies.insert(named);
        self.policy_changed(key, old);
        differs
    }

    /// Forgets a policy; whether it was there. Nobody may call a workload that still names it.
    pub fn remove_policy(&mut self, key: &str) -> bool {
        let Some(old) = self.view.policies.remove(key) else { return false };
        self.texts.release(key);
        self.policy_changed(old.key, Some(old.policy));
        true
    }

    /// Views that are out keep the rules that they have compiled.
    fn policy_changed(&mut self, key: Arc<str>, old: Option<Arc<Policy>>) {
        self.view.compiled = Arc::new(self.view.compiled.without_policy(&key));
        self.before.policies.entry(key).or_insert(old);
    }

    /// With the one copy of whatever others have too.
    fn shared(&mut self, workload: Workload) -> Workload {
        let (texts, sets) = (&mut self.texts, &mut self.policy_sets);
        let domain = &self.view.trust_domain;
        let given = &workload.template;
        let template = self.templates.hold_or(given, || {
            let mut label = |(key, value)| (texts.hold(key), texts.hold(value));
            let labels = given.labels.iter().map(&mut label).collect();
            let policies = sets.hold_or(&given.policies, || {
                given.policies.iter().map(|key| texts.hold(key)).collect()
            });
            Arc::new(Template {
                network: texts.hold(&given.network),
                namespace: texts.hold(&given.namespace),
                id: given.id.clone().sharing(domain),
                labels,
                protocol: given.protocol,
                policies,
            })
        });
        Workload {
            node: workload.node.as_ref().map(|node| self.texts.hold(node)),
            template,
            ..workload
        }
    }

    /// What it shared is forgotten if nobody else has it.
    fn release(&mut self, old: &Workload) {
        if let Some(node) = &old.node {
            self.texts.release(node);
        }
        let template = &old.template;
        if !self.templates.release(template) {
            return;
        }
        for (key, value) in template.labels.iter() {
            self.texts.release(key);
            self.texts.release(value);
        }
        self.texts.release(&template.network);
        self.texts.release(&template.namespace);
        if self.policy_sets.release(&template.policies) {
            for key in template.policies.iter() {
                self.texts.release(key);
            }
            self.view.compiled.forget(&template.policies);
        }
    }

    fn claim_addresses(&mut self, new: &Arc<Workload>) {
        self.in_network(new, |addresses, network, owned| {
            for ip in distinct(&new.addresses) {
                addresses.claim((network, owned), ip, new);
            }
        });
    }

    fn release_addresses(&mut self, old: &Workload) {
        self.in_network(old, |addresses, network, owned| {
            for ip in distinct(&old.addresses) {
                addresses.release((network, owned), ip, old);
            }
        });
    }

    /// Changes the addresses of a workload's network; one without addresses is forgotten.
    fn in_network(
        &mut self,
        workload: &Workload,
        change: impl FnOnce(&mut Claims<Workload>, &Arc<str>, &mut Map<super::claims::Owned<Workload>>),
    ) {
        let name = workload.network();
        let networks = &mut self.view.networks;
        // Taken out meanwhile, so that what no view has is changed in its place.
        let mut network = networks
            .remove(name)
            .unwrap_or_else(|| Network { name: Arc::clone(name), addresses: Map::default() });
        change(&mut self.addresses, name, &mut network.addresses);
        if !network.addresses.is_empty() {
            networks.insert(network);
        }
    }

    fn release_vips(&mut self, old: &Service) {
        for ip in distinct(&old.addresses) {
            self.vips.release((&Arc::default(), &mut self.view.vips), ip, old);
        }
    }

    /// Puts a service under its host name, or takes it away from there.
    fn name_service(&mut self, namespace: &str, hostname: &str, new: Option<&Arc<Service>>) {
        let hosts = &mut self.view.hosts;
        let there = hosts.get(hostname).map_or(&[][..], Host::services);
        let others = there.iter().filter(|s| *s.namespace != *namespace);
        let mut services: Vec<_> = others.chain(new).cloned().collect();
        services.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        let only = if services.len() == 1 { services.pop() } else { None };
        match only {
            Some(service) => drop(hosts.insert(Host::One(service))),
            None if services.is_empty() => drop(hosts.remove(hostname)),
            None => drop(hosts.insert(Host::Several(services.into()))),
        }
    }
}

fn distinct(addresses: &[std::net::IpAddr]) -> BTreeSet<Ipv6Addr> {
    addresses.iter().map(|ip| spelled(*ip)).collect()
}

#[cfg(test)]
mod tests;

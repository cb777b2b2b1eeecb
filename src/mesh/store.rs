//! The mesh as its sources tell it, one resource at a time: every index follows by the delta,
//! and none is ever rebuilt.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv6Addr,
    sync::Arc,
};

use super::{
    Changes, Locality, Membership, MtlsMode, Service, Template, View, Workload, by_hostname,
    changes::{Before, between},
    claims::{Claims, spelled},
    compiled::{NamedPolicy, Selected},
    endpoints,
    intern::Interner,
    named::{Host, Services},
    network::Network,
    view::Local,
};
use crate::{identity::TrustDomain, policy::Policy};

/// Takes deltas, gives out views and what changed between them.
///
/// Names of policies may come before the policies, endpoints of services before the workloads.
pub struct Store {
    view: View,
    before: Before,
    /// Our own, if we are one.
    node: Option<Arc<str>>,
    /// Our own; empty if it makes no difference.
    cluster: Arc<str>,
    /// Policies that could not be read, each with its namespace.
    lacking: HashMap<Arc<str>, Arc<str>>,
    addresses: Claims,
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
            node: None,
            cluster: Arc::default(),
            lacking: HashMap::new(),
            addresses: Claims::default(),
            texts: Interner::default(),
            policy_sets: Interner::default(),
            templates: Interner::default(),
        }
    }

    /// Of a node in a network: its own workloads are found by the names of their pods, and
    /// addresses mean what they mean there.
    #[must_use]
    pub fn of_node(mut self, node: Option<Arc<str>>, network: Arc<str>) -> Self {
        (self.node, self.view.network) = (node, network);
        self
    }

    /// In a cluster: one of the same name in another has pods and nodes of its own.
    #[must_use]
    pub fn in_cluster(self, cluster: Arc<str>) -> Self {
        Self { cluster, ..self }
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
            lacking: before.lacking,
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
    pub fn upsert_workload(&mut self, mut workload: Workload) -> bool {
        if !workload.services().is_sorted_by(|a, b| a.key() < b.key()) {
            let template = Arc::make_mut(&mut workload.template);
            let mut services = template.services.to_vec();
            services.sort_by(|a, b| a.key().cmp(&b.key()));
            services.dedup_by(|a, b| a.key() == b.key());
            template.services = services.into();
        }
        workload.name = workload.name.beside(&workload.uid);
        let old = self.view.workloads.get(&workload.uid).cloned();
        if old.as_deref() == Some(&workload) {
            return false;
        }
        let new = Arc::new(self.shared(workload));
        if let Some(old) = &old {
            self.release_addresses(old);
            self.name_pod(old, None);
        }
        self.view.workloads.insert(Arc::clone(&new));
        endpoints::change(&mut self.view.endpoints, (old.as_deref(), Some(&new)));
        by_hostname::change(&mut self.view.by_hostname, (old.as_deref(), Some(&new)));
        self.claim_addresses(&new);
        self.name_pod(&new, Some(&new));
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
        self.name_pod(&old, None);
        endpoints::change(&mut self.view.endpoints, (Some(&old), None));
        by_hostname::change(&mut self.view.by_hostname, (Some(&old), None));
        self.release(&old);
        self.before.workloads.entry(Arc::clone(&old.uid)).or_insert(Some(old));
        true
    }

    /// Adds a service, or changes the one with its namespace and host name; whether that makes
    /// a difference.
    pub fn upsert_service(&mut self, mut service: Service) -> bool {
        let old = self.view.service(&service.namespace, &service.hostname).cloned();
        if old.as_deref() == Some(&service) {
            return false;
        }
        service.namespace = self.texts.hold(&service.namespace);
        let new = Arc::new(service);
        if let Some(old) = &old {
            self.release_vips(old);
            self.texts.release(&old.namespace);
        }
        let hosts = &mut self.view.hosts;
        let there = hosts.get(&new.hostname).map(|host| &host.services);
        let named = Host::new(&new.hostname, Services::with(there, &new));
        hosts.insert(named);
        for network in networks_of(&new) {
            self.in_network(&network, |_, there| there.add(&new));
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
        let hosts = &mut self.view.hosts;
        match hosts.get(hostname).and_then(|host| host.services.without(&old)) {
            Some(others) => drop(hosts.insert(Host::new(&old.hostname, others))),
            None => drop(hosts.remove(hostname)),
        }
        let key = (Arc::clone(&old.namespace), Arc::clone(&old.hostname));
        self.before.services.entry(key).or_insert(Some(old));
        true
    }

    /// Adds a policy, or changes the one with its namespace and name; whether that makes a
    /// difference. That its rules stand in other lines now is none.
    pub fn upsert_policy(&mut self, policy: Policy) -> bool {
        let key = policy.key();
        self.have_policy(&key);
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
        let new = Arc::new(policy);
        let named = NamedPolicy { key: Arc::clone(&key), policy: Arc::clone(&new) };
        self.view.policies.insert(named);
        self.policy_changed(key, old, Some(&new));
        differs
    }

    /// Forgets a policy; whether it was there. All calls to a workload that still names it are
    /// denied.
    pub fn remove_policy(&mut self, key: &str) -> bool {
        self.have_policy(key);
        let Some(old) = self.view.policies.remove(key) else { return false };
        self.texts.release(key);
        self.policy_changed(old.key, Some(old.policy), None);
        true
    }

    /// Records that a policy of `namespace` (empty: of the whole mesh) could not be read: all calls
    /// to the workloads in its scope are denied until it is upserted or removed. Does nothing if an
    /// earlier version is in force.
    pub fn lack_policy(&mut self, key: &str, namespace: &str) {
        if self.view.policy(key).is_some() {
            return;
        }
        self.have_policy(key);
        let (key, namespace): (Arc<str>, Arc<str>) = (key.into(), namespace.into());
        self.lack(&key, &namespace, true);
        self.lacking.insert(key, namespace);
    }

    /// Nothing is lacking under this name any more.
    fn have_policy(&mut self, key: &str) {
        if let Some((key, namespace)) = self.lacking.remove_entry(key) {
            self.lack(&key, &namespace, false);
        }
    }

    fn lack(&mut self, key: &Arc<str>, namespace: &Arc<str>, lacks: bool) {
        let view = &mut self.view;
        view.scopes.set(key, namespace, lacks);
        view.compiled = Arc::new(view.compiled.without(key, &[&**namespace]));
        self.before.lacking.insert(Arc::clone(namespace));
    }

    /// Views that are out keep the rules that they have compiled.
    fn policy_changed(&mut self, key: Arc<str>, old: Option<Arc<Policy>>, new: Option<&Policy>) {
        let view = &mut self.view;
        view.scopes.change(&key, old.as_deref(), new);
        view.compiled = Arc::new(view.compiled.without_policy(&key, [old.as_deref(), new]));
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
            let mut services: Vec<_> = given.services.iter().cloned().collect();
            for Membership { namespace, hostname, .. } in &mut services {
                (*namespace, *hostname) = (texts.hold(namespace), texts.hold(hostname));
            }
            let mut new = Template {
                id: given.id.clone().sharing(domain),
                labels,
                policies,
                services: services.into(),
                ..(**given).clone()
            };
            for text in texts_of(&mut new) {
                *text = texts.hold(text);
            }
            Arc::new(new)
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
        for service in template.services.iter() {
            self.texts.release(&service.namespace);
            self.texts.release(&service.hostname);
        }
        for text in texts_of(&mut (**template).clone()) {
            self.texts.release(text);
        }
        self.view.compiled.forget(&Selected::of(old));
        if self.policy_sets.release(&template.policies) {
            for key in template.policies.iter() {
                self.texts.release(key);
            }
        }
    }

    /// A pod of this node has the workload `new`, or `old` no more.
    fn name_pod(&mut self, of: &Workload, new: Option<&Arc<Workload>>) {
        let cluster = &of.template.cluster;
        let elsewhere = !self.cluster.is_empty() && *cluster != self.cluster;
        if of.node.is_none() || of.node != self.node || elsewhere {
            return;
        }
        let pod = format!("{}/{}", of.namespace(), of.name());
        let local = &mut self.view.local;
        let there = local.remove(&pod);
        let mut there = there.unwrap_or_else(|| Local { pod: pod.into(), workloads: Vec::new() });
        there.workloads.retain(|workload| workload.uid != of.uid);
        there.workloads.extend(new.cloned());
        if !there.workloads.is_empty() {
            local.insert(there);
        }
    }

    fn claim_addresses(&mut self, new: &Arc<Workload>) {
        self.in_network(new.network(), |claims, network| {
            for ip in addresses_of(new) {
                claims.claim((&network.name, &mut network.addresses), ip, new);
            }
        });
    }

    fn release_addresses(&mut self, old: &Workload) {
        self.in_network(old.network(), |claims, network| {
            for ip in addresses_of(old) {
                claims.release((&network.name, &mut network.addresses), ip, old);
            }
        });
    }

    fn release_vips(&mut self, old: &Service) {
        for network in networks_of(old) {
            self.in_network(&network, |_, there| there.remove(old));
        }
    }

    /// Changes the addresses of a network; one without addresses is forgotten.
    fn in_network(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Claims, &mut Network)) {
        let networks = &mut self.view.networks;
        // Taken out meanwhile, so that what no view has is changed in its place.
        let mut network = networks.remove(name).unwrap_or_else(|| Network::new(name));
        change(&mut self.addresses, &mut network);
        if !network.is_empty() {
            networks.insert(network);
        }
    }
}

/// The addresses that mean a workload.
fn addresses_of(workload: &Workload) -> BTreeSet<Ipv6Addr> {
    let own = workload.addresses.iter().filter(|_| !workload.template.host_network);
    own.map(|ip| spelled(*ip)).collect()
}

/// The networks in which a service has addresses.
fn networks_of(service: &Service) -> BTreeSet<Arc<str>> {
    let vips = service.vips.iter().map(|vip| &vip.network);
    vips.chain(service.cidr_vips.iter().map(|(network, _)| network)).cloned().collect()
}

/// The texts of a template that others may have too, but for those in its lists.
fn texts_of(template: &mut Template) -> impl Iterator<Item = &mut Arc<str>> {
    let Template { network, namespace, cluster, app, locality, .. } = template;
    let Locality { region, zone, subzone } = locality;
    let app = [&mut app.workload, &mut app.canonical_name, &mut app.canonical_revision];
    [network, namespace, cluster, region, zone, subzone].into_iter().chain(app)
}

#[cfg(test)]
mod tests;

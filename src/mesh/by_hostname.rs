//! Workloads that have a host name in place of an address, by that name: gateways of other networks
//! may be found so. There are few of them.

use std::sync::Arc;

use super::{
    Workload,
    map::{Keyed, Map},
};

/// Those of one host name, in the order of their uids.
#[derive(Clone)]
pub(super) struct Named {
    hostname: Arc<str>,
    pub(super) workloads: Vec<Arc<Workload>>,
}

impl Keyed for Named {
    type Key = str;

    fn key(&self) -> &str {
        &self.hostname
    }
}

/// The name of one that has nothing else.
fn name_of(workload: &Workload) -> Option<&Arc<str>> {
    workload.template.hostname.as_ref().filter(|_| workload.addresses.is_empty())
}

/// `old` is no more, and `new` is there.
pub(super) fn change(
    all: &mut Map<Named>,
    (old, new): (Option<&Workload>, Option<&Arc<Workload>>),
) {
    if let Some((old, mut named)) = old.and_then(|old| Some((old, all.remove(name_of(old)?)?))) {
        named.workloads.retain(|workload| workload.uid != old.uid);
        if !named.workloads.is_empty() {
            all.insert(named);
        }
    }
    if let Some((new, hostname)) = new.and_then(|new| Some((new, name_of(new)?))) {
        let there = all.remove(hostname).map(|named| named.workloads).unwrap_or_default();
        let mut named = Named { hostname: Arc::clone(hostname), workloads: there };
        let at = named.workloads.partition_point(|workload| workload.uid < new.uid);
        named.workloads.insert(at, Arc::clone(new));
        all.insert(named);
    }
}

#[cfg(test)]
mod tests {
    use crate::mesh::{MtlsMode, Store, Template, Workload};

    fn named(uid: &str, hostname: Option<&str>) -> Workload {
        let id = "spiffe://td/ns/shop/sa/lb".parse().unwrap();
        let template =
            Template { hostname: hostname.map(Into::into), ..Template::new("shop".into(), id) };
        Workload {
            uid: uid.into(),
            name: uid.into(),
            addresses: [].into(),
            node: None,
            healthy: true,
            template: template.into(),
            local: None,
        }
    }

    fn found(store: &Store, namespace: &str, hostname: &str) -> Option<String> {
        let view = store.view();
        view.workload_named(namespace, hostname).map(|workload| workload.uid.to_string())
    }

    #[test]
    fn a_workload_with_a_host_name_is_found_by_it_until_it_goes_or_has_another() {
        let mut store = Store::new("td".parse().unwrap(), MtlsMode::Strict);
        store.upsert_workload(named("b", Some("lb.test")));
        store.upsert_workload(named("a", Some("lb.test")));
        assert_eq!(found(&store, "shop", "lb.test").as_deref(), Some("a"));
        assert_eq!(found(&store, "bank", "lb.test"), None);
        store.upsert_workload(named("a", Some("other.test")));
        assert_eq!(found(&store, "shop", "lb.test").as_deref(), Some("b"));
        assert_eq!(found(&store, "shop", "other.test").as_deref(), Some("a"));
        let addresses = ["10.0.0.1".parse().unwrap()].into();
        store.upsert_workload(Workload { addresses, ..named("a", Some("other.test")) });
        assert_eq!(found(&store, "shop", "other.test"), None, "it has an address");
        store.remove_workload("b");
        assert_eq!(found(&store, "shop", "lb.test"), None);
    }
}

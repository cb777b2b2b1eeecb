//! Resources become part of a store, in slices: whoever shares a thread with its owner has turns
//! between them.

use std::sync::Arc;

use prost::Message as _;

use super::{
    address::{MeshAddress, decode_all, service_key},
    authorization,
    message::{Delta, Upserted},
    nack::RejectedResource,
    refused,
};
use crate::{mesh::Store, policy::Policy, rpc::authorization::Authorization};

/// How many resources are applied in one turn: some 1 ms.
const SLICE: usize = 256;
/// How many are decoded at once: what is decoded shares nothing with others yet, and takes several
/// times the memory that it has in the store.
const DECODED: usize = 2048;

/// Applies what a delta of type Address changes. Returns what cannot be taken; what is in force
/// under those names stays.
///
/// # Cancel safety
/// Dropping the future leaves the rest of the delta out.
pub async fn apply_addresses(store: &mut Store, delta: Delta) -> Vec<RejectedResource> {
    let Delta { upserted, refused, removed, .. } = delta;
    let mut faults = Vec::new();
    for slice in refused.chunks(SLICE) {
        slice.iter().for_each(|resource| refused::hold_addresses(store, resource));
        tokio::task::yield_now().await;
    }
    let mut rest = upserted.into_iter();
    while rest.len() > 0 {
        let some: Vec<Upserted> = rest.by_ref().take(DECODED).collect();
        let sent: Vec<Upserted> = some.clone();
        for (n, (sent, one)) in sent.into_iter().zip(decode_all(some).await).enumerate() {
            match one {
                Ok(address) => upsert(store, &sent.name, address),
                Err(fault) => {
                    refused::hold_addresses(store, &sent);
                    faults.push(fault);
                }
            }
            if n % SLICE == SLICE - 1 {
                tokio::task::yield_now().await;
            }
        }
        tokio::task::yield_now().await;
    }
    for slice in removed.chunks(SLICE) {
        for name in slice {
            remove(store, name);
        }
        tokio::task::yield_now().await;
    }
    faults
}

/// Applies what a delta of type Authorization changes. Returns the resources that were rejected;
/// their previous versions stay in force. Without a previous version of a policy all calls to the
/// workloads in its scope are denied, because it may be a DENY policy.
///
/// # Cancel safety
/// Dropping the future leaves the rest of the delta out.
pub async fn apply_authorizations(store: &mut Store, delta: Delta) -> Vec<RejectedResource> {
    let mut faults = Vec::new();
    for slice in delta.refused.chunks(SLICE) {
        slice.iter().for_each(|resource| refused::hold_policy(store, resource));
        tokio::task::yield_now().await;
    }
    for slice in delta.upserted.chunks(SLICE) {
        for resource in slice {
            match policy(resource) {
                Ok(policy) => {
                    store.upsert_policy(policy);
                }
                Err(why) => {
                    refused::hold_policy(store, resource);
                    faults.push(RejectedResource::new(Arc::clone(&resource.name), &why));
                }
            }
        }
        tokio::task::yield_now().await;
    }
    for slice in delta.removed.chunks(SLICE) {
        for name in slice {
            store.remove_policy(name);
        }
        tokio::task::yield_now().await;
    }
    faults
}

/// A policy, under the name by which workloads know it.
fn policy(resource: &Upserted) -> Result<Policy, String> {
    let message = Authorization::decode(resource.value.clone());
    let message = message.map_err(|e| format!("is not an Authorization: {e}"))?;
    let policy = authorization::decode(message).map_err(|e| e.to_string())?;
    match policy.key() {
        key if *key == *resource.name => Ok(policy),
        key => Err(format!("is the policy {key}, under another resource name")),
    }
}

/// One name is one thing: what it meant before, if it was of the other kind, is no more.
fn upsert(store: &mut Store, name: &str, address: MeshAddress) {
    match address {
        MeshAddress::Workload(workload) => {
            if let Some((namespace, hostname)) = service_key(name) {
                store.remove_service(namespace, hostname);
            }
            refused::release(store, name);
            store.upsert_workload(workload);
        }
        MeshAddress::Service(service) => {
            store.remove_workload(name);
            store.upsert_service(service);
        }
    }
}

fn remove(store: &mut Store, name: &str) {
    if store.remove_workload(name) || refused::release(store, name) {
        return;
    }
    if let Some((namespace, hostname)) = service_key(name) {
        store.remove_service(namespace, hostname);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mesh::{MtlsMode, source::xds::TypeUrl},
        rpc::address::{Address, Service, Workload, address::Type},
    };

    fn delta(type_url: TypeUrl, upserted: Vec<Upserted>, removed: Vec<Arc<str>>) -> Delta {
        Delta { type_url, upserted, refused: Vec::new(), removed }
    }

    fn workload(uid: &str) -> Type {
        let (uid, namespace) = (uid.into(), "ns".into());
        Type::Workload(Workload { uid, namespace, ..Workload::default() })
    }

    fn service(hostname: &str) -> Type {
        let (namespace, hostname) = ("ns".into(), hostname.into());
        Type::Service(Service { namespace, hostname, ..Service::default() })
    }

    async fn apply(
        store: &mut Store,
        upserted: Vec<(&str, Type)>,
        removed: &[&str],
    ) -> Vec<RejectedResource> {
        let upserted = upserted.into_iter().map(|(name, sent)| Upserted {
            name: name.into(),
            value: Address { r#type: Some(sent) }.encode_to_vec().into(),
        });
        let removed = removed.iter().map(|name| (*name).into()).collect();
        apply_addresses(store, delta(TypeUrl::Address, upserted.collect(), removed)).await
    }

    fn all(store: &Store) -> Vec<String> {
        let view = store.view();
        let mut all: Vec<String> = view.workloads().map(|w| w.uid.to_string()).collect();
        all.extend(view.services().map(|s| format!("{}/{}", s.namespace, s.hostname)));
        all.sort();
        all
    }

    #[tokio::test]
    async fn names_are_removed_as_what_they_were() {
        let mut store = Store::new("cluster.local".parse().unwrap(), MtlsMode::Permissive);
        let pod = "Kubernetes//Pod/ns/a";
        let sent = vec![(pod, workload(pod)), ("ns/db.test", service("db.test"))];
        assert_eq!(apply(&mut store, sent, &[]).await, []);
        assert_eq!(all(&store), [pod, "ns/db.test"]);
        apply(&mut store, vec![], &["ns/db.test", "ns/other.test", "x"]).await;
        assert_eq!(all(&store), [pod]);
        apply(&mut store, vec![("ns/w", workload("ns/w"))], &[pod]).await;
        assert_eq!(all(&store), ["ns/w"]);
        apply(&mut store, vec![("ns/w", service("w"))], &[]).await;
        assert_eq!(all(&store), ["ns/w"]);
        assert_eq!(store.view().workloads().count(), 0, "the name means a service now");
    }

    #[tokio::test]
    async fn a_fault_leaves_its_neighbours_and_its_last_good_version_alone() {
        let mut store = Store::new("cluster.local".parse().unwrap(), MtlsMode::Permissive);
        apply(&mut store, vec![("a", workload("a"))], &[]).await;
        let sent = vec![("a", workload("other")), ("b", workload("b")), ("c", service("c"))];
        let faults = apply(&mut store, sent, &[]).await;
        assert_eq!(faults.iter().map(|fault| &*fault.name).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(all(&store), ["a", "b"]);
    }

    #[tokio::test]
    async fn policies_are_known_by_their_names_and_one_that_is_wrong_stays_as_it_was() {
        let mut store = Store::new("cluster.local".parse().unwrap(), MtlsMode::Permissive);
        let sent = |name: &str, policy: &str, scope| Upserted {
            name: name.into(),
            value: Authorization {
                name: policy.into(),
                namespace: "ns".into(),
                scope,
                ..Authorization::default()
            }
            .encode_to_vec()
            .into(),
        };
        let delta = |upserted, removed| delta(TypeUrl::Authorization, upserted, removed);
        let first = delta(vec![sent("ns/a", "a", 1), sent("ns/b", "b", 1)], vec![]);
        assert_eq!(apply_authorizations(&mut store, first).await, []);
        let wrong =
            delta(vec![sent("ns/a", "a", 99), sent("ns/c", "other", 1)], vec!["ns/b".into()]);
        let faults = apply_authorizations(&mut store, wrong).await;
        assert_eq!(faults.iter().map(|fault| &*fault.name).collect::<Vec<_>>(), ["ns/a", "ns/c"]);
        let view = store.view();
        assert_eq!(view.policies().map(|p| p.key()).collect::<Vec<_>>(), ["ns/a"]);
    }

    #[tokio::test]
    async fn nobody_may_call_whom_a_policy_is_about_that_was_never_right() {
        let mut store = Store::new("cluster.local".parse().unwrap(), MtlsMode::Permissive);
        let pods = vec![("p", workload("p"))];
        apply(&mut store, pods, &[]).await;
        let authorization = |name: &str, action, scope| Upserted {
            name: name.into(),
            value: Authorization {
                name: name.split('/').nth(1).unwrap().into(),
                namespace: name.split('/').next().unwrap().into(),
                scope,
                action,
                ..Authorization::default()
            }
            .encode_to_vec()
            .into(),
        };
        let open = |store: &Store| !store.now().rules("p").lacks_policy();
        let sent = |upserted, removed| delta(TypeUrl::Authorization, upserted, removed);
        store.take_changes();
        for (name, scope, stays_open) in
            [("ns/a", 1, false), ("root/b", 0, false), ("other/c", 1, true), ("ns/d", 2, true)]
        {
            let wrong = sent(vec![authorization(name, 99, scope)], vec![]);
            assert_eq!(apply_authorizations(&mut store, wrong).await.len(), 1);
            assert_eq!(open(&store), stays_open, "{name}");
            let told = store.take_changes().rules();
            assert!(stays_open || told.of(store.now().workload("p").unwrap()), "{name}");
            apply_authorizations(&mut store, sent(vec![], vec![name.into()])).await;
            assert!(open(&store), "{name} is gone");
        }
        let wrong = sent(vec![authorization("ns/a", 99, 1)], vec![]);
        apply_authorizations(&mut store, wrong).await;
        let right = sent(vec![authorization("ns/a", 1, 1)], vec![]);
        assert_eq!(apply_authorizations(&mut store, right).await, []);
        assert!(open(&store), "it is right now");

        let nothing = |name: &str| Upserted { name: name.into(), value: Default::default() };
        for (resource, stays_open) in [
            (nothing("ns/a"), true),
            (nothing("ns/e"), false),
            (nothing(""), false),
            (authorization("other/f", 1, 1), true),
            (authorization("ns/g", 1, 1), false),
        ] {
            let name = Arc::clone(&resource.name);
            let refused = vec![resource];
            let shapeless = Delta { refused, ..sent(vec![], vec![]) };
            assert_eq!(apply_authorizations(&mut store, shapeless).await, []);
            assert_eq!(open(&store), stays_open, "{name}");
            apply_authorizations(&mut store, sent(vec![], vec![name])).await;
            assert!(open(&store));
        }
    }

    #[tokio::test]
    async fn a_large_delta_is_applied_in_many_turns() {
        let mut store = Store::new("cluster.local".parse().unwrap(), MtlsMode::Permissive);
        let names: Vec<String> = (0..5000).map(|n| format!("pod-{n}")).collect();
        let sent = names.iter().map(|name| (name.as_str(), workload(name))).collect();
        let mut turns = 0;
        tokio::select! {
            faults = apply(&mut store, sent, &[]) => assert!(faults.is_empty()),
            () = async { loop { turns += 1; tokio::task::yield_now().await } } => {}
        }
        assert!(turns >= 5000 / SLICE, "{turns} turns");
        assert_eq!(store.view().workloads().count(), 5000);
    }
}

//! What stands for resources that cannot be taken, and of which no version is in force: they are
//! there, so what they would keep closed stays closed.

use std::{net::IpAddr, sync::Arc};

use prost::Message as _;

use super::{address::service_key, message::Upserted};
use crate::{
    mesh::{NetworkAddress, Service, Store},
    rpc::{
        address::{Address, NetworkAddress as Sent, address::Type},
        authorization::{Authorization, Scope},
    },
};

/// Denies all calls to the workloads in the scope of a policy that cannot be read: it may be a DENY
/// policy. Does nothing where an earlier version is in force, or where workloads name it
/// themselves.
pub(super) fn hold_policy(store: &mut Store, resource: &Upserted) {
    if let Some(namespace) = about(resource) {
        store.lack_policy(&resource.name, &namespace);
    }
}

/// About which namespace a policy is that cannot be taken, or about the mesh (the empty one, also
/// where that cannot be read either); `None` if workloads name it themselves, or if it only says what
/// it would do.
fn about(resource: &Upserted) -> Option<String> {
    let sent = Authorization::decode(resource.value.clone()).ok();
    let Some(sent) = sent.filter(|_| !resource.value.is_empty()) else {
        return Some(String::new());
    };
    match Scope::try_from(sent.scope) {
        _ if sent.dry_run => None,
        Ok(Scope::Namespace) => Some(sent.namespace),
        Ok(Scope::WorkloadSelector) => None,
        Ok(Scope::Global) | Err(_) => Some(String::new()),
    }
}

/// In place of the namespace of a workload: no namespace is called so.
const HELD: &str = "";

/// A workload's or service's addresses are those of a service without ports, so that nobody takes
/// them for the outside and goes there in plaintext. Does nothing where an earlier version is in
/// force.
pub(super) fn hold_addresses(store: &mut Store, resource: &Upserted) {
    let name = &*resource.name;
    let service = service_key(name);
    let is_there = match service {
        Some((namespace, hostname)) => store.now().service(namespace, hostname).is_some(),
        None => store.now().workload(name).is_some(),
    };
    let sent = Address::decode(resource.value.clone()).ok().and_then(|sent| sent.r#type);
    let vips: Vec<_> = match sent {
        None => return,
        Some(Type::Workload(sent)) => {
            let all = sent.addresses.iter().map(|bytes| (&*sent.network, &**bytes));
            all.filter_map(address).collect()
        }
        Some(Type::Service(sent)) => {
            let of = |sent: &Sent| address((&sent.network, &sent.address));
            sent.addresses.iter().filter_map(of).collect()
        }
    };
    if is_there || vips.is_empty() {
        return;
    }
    let (namespace, hostname) = service.unwrap_or((HELD, name));
    store.upsert_service(Service { vips, ..Service::new(namespace.into(), hostname.into()) });
}

/// A workload has been taken, or has gone: whether its addresses were held.
pub(super) fn release(store: &mut Store, uid: &str) -> bool {
    store.remove_service(HELD, uid)
}

fn address((network, bytes): (&str, &[u8])) -> Option<NetworkAddress> {
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    let network: Arc<str> = network.into();
    Some(NetworkAddress { network, ip })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mesh::{
            MtlsMode,
            source::xds::{Delta, TypeUrl, apply_addresses},
        },
        rpc::address::Workload,
    };

    #[tokio::test]
    async fn the_addresses_of_what_cannot_be_taken_are_not_the_outside() {
        let mut store = Store::new("cluster.local".parse().unwrap(), MtlsMode::Permissive);
        let sent = |protocol| Upserted {
            name: "Kubernetes//Pod/ns/a".into(),
            value: Address {
                r#type: Some(Type::Workload(Workload {
                    uid: "Kubernetes//Pod/ns/a".into(),
                    name: "a".into(),
                    namespace: "ns".into(),
                    addresses: vec![vec![10, 0, 0, 1]],
                    tunnel_protocol: protocol,
                    ..Workload::default()
                })),
            }
            .encode_to_vec()
            .into(),
        };
        let refused = Vec::new();
        let delta = |upserted, removed| Delta {
            type_url: TypeUrl::Address,
            upserted,
            refused: refused.clone(),
            removed,
        };
        let ip = [10, 0, 0, 1].into();
        let held = |store: &Store| store.now().service_by_vip(ip, "ns").is_some();
        let faults = apply_addresses(&mut store, delta(vec![sent(99)], vec![])).await;
        assert_eq!((faults.len(), held(&store)), (1, true));
        apply_addresses(&mut store, delta(vec![sent(1)], vec![])).await;
        assert!(!held(&store) && store.now().workload_by_ip(ip).is_some());
        apply_addresses(&mut store, delta(vec![sent(99)], vec![])).await;
        assert!(!held(&store) && store.now().workload_by_ip(ip).is_some(), "the last good one");
        let name = "Kubernetes//Pod/ns/a";
        apply_addresses(&mut store, delta(vec![], vec![name.into()])).await;
        apply_addresses(&mut store, delta(vec![sent(99)], vec![])).await;
        assert!(held(&store));
        apply_addresses(&mut store, delta(vec![], vec![name.into()])).await;
        assert!(!held(&store), "it is gone");
    }
}

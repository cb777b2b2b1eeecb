//! An istiod that is asked for what it knows: it tells a node of that node's pods, and otherwise of
//! what the node asks for, or that there is no such thing.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use adit::rpc::{
    address::{Address, address::Type},
    discovery::{DeltaDiscoveryResponse, Resource},
};
use prost::Message as _;

use crate::fake_istiod::{ADDRESS, AUTHORIZATION, FakeStream};

/// How often each key was asked for, by all nodes.
pub(crate) type Asked = Arc<Mutex<BTreeMap<String, usize>>>;

/// Until the node ends it.
pub(crate) async fn serve(mut stream: FakeStream, mesh: Arc<Vec<Resource>>, asked: Asked) {
    let [first, _] = stream.first().await;
    assert_eq!([&first.resource_names_subscribe, &first.resource_names_unsubscribe], [&["*"]; 2]);
    let metadata = first.node.and_then(|node| node.metadata).expect("who it is");
    let node = format!("{:?}", metadata.fields.get("NODE_NAME"));
    let of_node = |resource: &&Resource| {
        matches!(content(resource), Some(Type::Workload(workload))
            if node.contains(&format!("{:?}", workload.node)))
    };
    let pods = mesh.iter().filter(of_node).map(named).collect();
    stream.send(response(ADDRESS, pods, Vec::new())).await;
    let policies = mesh.iter().filter(|r| content(r).is_none()).cloned().collect();
    stream.send(response(AUTHORIZATION, policies, Vec::new())).await;
    while let Some(request) = stream.any_request().await {
        let keys = request.resource_names_subscribe;
        if keys.is_empty() {
            continue;
        }
        let mut response = response(ADDRESS, Vec::new(), Vec::new());
        for key in keys {
            *asked.lock().unwrap().entry(key.clone()).or_default() += 1;
            let found = found(&mesh, &key);
            match found.is_empty() {
                true => response.removed_resources.push(key),
                false => response.resources.extend(found),
            }
        }
        stream.send(response).await;
    }
}

fn response(kind: &str, resources: Vec<Resource>, removed: Vec<String>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.into(),
        resources,
        removed_resources: removed,
        ..DeltaDiscoveryResponse::default()
    }
}

/// What a resource says of the mesh; `None` if it is a policy.
fn content(resource: &Resource) -> Option<Type> {
    let content = resource.resource.as_ref().filter(|content| content.type_url == ADDRESS)?;
    Address::decode(content.value.clone()).unwrap().r#type
}

/// The same with the addresses by which it may be asked for.
fn named(resource: &Resource) -> Resource {
    let addresses = match content(resource) {
        Some(Type::Workload(workload)) => workload.addresses,
        Some(Type::Service(service)) => {
            service.addresses.into_iter().map(|address| address.address).collect()
        }
        None => Vec::new(),
    };
    let ip = |bytes: Vec<u8>| match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
    };
    let aliases = addresses.into_iter().map(|bytes| format!("/{}", ip(bytes))).collect();
    Resource { aliases, ..resource.clone() }
}

/// What is told to who asks for this: what has the name or the address, and the pods of a service.
fn found(mesh: &[Resource], key: &str) -> Vec<Resource> {
    let all = || mesh.iter().map(named);
    let mut found: Vec<_> =
        all().filter(|r| r.name == key || r.aliases.iter().any(|alias| alias == key)).collect();
    if let Some(service) = found.first().map(|resource| resource.name.clone()) {
        let backs = |resource: &Resource| match content(resource) {
            Some(Type::Workload(workload)) => workload.services.contains_key(&service),
            _ => false,
        };
        found.extend(all().filter(backs));
    }
    found
}

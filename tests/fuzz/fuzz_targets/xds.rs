//! Responses of a control plane: arbitrary resources are decoded or refused, each by itself, and
//! whoever waits for a name that was sent goes on.
#![no_main]

use std::time::Instant;

use adit::{
    mesh::source::xds::{DeltaAds, NodeIdentity, Received, TypeUrl, address::decode},
    rpc::discovery::{Any, DeltaDiscoveryResponse, Resource},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pushes: Vec<(bool, Vec<(&str, &str, &[u8])>, Vec<&str>)>| {
    let node = NodeIdentity { id: String::new(), metadata: [].into() };
    let mut ads = DeltaAds::new(&node, true);
    for (reconnect, resources, removed) in pushes {
        if reconnect {
            ads.disconnected(false);
        }
        ads.connected();
        let type_url = TypeUrl::Address.as_str();
        let waits = resources.first().map(|(name, ..)| *name).unwrap_or("a");
        let waits_for = ads.demand(&waits.into()).is_ok();
        let resource = |(name, version, value): &(&str, &str, &[u8])| Resource {
            name: (*name).into(),
            version: (*version).into(),
            resource: Some(Any { type_url: type_url.into(), value: value.to_vec().into() }),
            aliases: vec![waits.into()],
        };
        let response = DeltaDiscoveryResponse {
            type_url: type_url.into(),
            resources: resources.iter().map(resource).collect(),
            removed_resources: removed.iter().map(|name| (*name).into()).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        let Ok(Received::Delta(delta, pending)) = ads.received(response) else { return };
        let faults = delta.upserted.iter().filter_map(|resource| decode(resource).err()).collect();
        let applied = ads.applied(pending, faults, Instant::now());
        assert!(applied.answered.len() <= 1);
        assert!(!waits_for || resources.is_empty() || applied.answered.len() == 1);
        ads.forget(waits);
    }
});

//! Nodes that ask for the mesh one by one.

use std::{thread, time::Duration};

use adit::rpc::address::NetworkMode;

use crate::{
    harness::Test,
    on_demand_istiod::Asked,
    resources::workload_with,
    wait::{LIMIT, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("on_demand::who_is_called_is_asked_for_once_and_then_known", known),
    ("on_demand::who_is_not_in_the_mesh_is_asked_for_once_and_called_in_plaintext", stranger),
    ("on_demand::an_address_that_is_known_and_leads_nowhere_is_asked_for_once", nowhere),
    ("on_demand::what_nobody_can_be_asked_about_is_not_called", away),
];

fn times(asked: &Asked, key: &str) -> usize {
    asked.lock().unwrap().get(key).copied().unwrap_or_default()
}

fn known() {
    let (world, asked) = World::asking();
    assert_eq!(times(&asked, "/10.96.0.3"), 0);
    thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| world.answered("web", "10.96.0.3:80"));
        }
    });
    world.answered("web", "10.96.0.3:80");
    assert_eq!(times(&asked, "/10.96.0.3"), 1, "{asked:?}");
    // The service came with who is behind it.
    world.answered("web", "10.77.0.3:8080");
    world.answered("far", "10.77.0.2:8080");
    let record = world.first.record("a call as who it is", |record| {
        record["direction"] == "outbound"
            && record["dst.identity"] == "spiffe://cluster.local/ns/shop/sa/far"
    });
    assert_eq!(record["src.identity"], "spiffe://cluster.local/ns/shop/sa/web", "{record}");
    // Who has called is asked for without waiting, for the metrics.
    wait_until("the caller asked for", LIMIT, || {
        world.answered("web", "10.77.0.3:8080");
        times(&asked, "/10.77.0.1") > 0
    });
}

fn stranger() {
    let (world, asked) = World::asking();
    world.lab.echo("spy", 9090);
    for _ in 0..3 {
        world.answered("web", "10.77.0.4:9090");
    }
    assert_eq!(times(&asked, "/10.77.0.4"), 1, "{asked:?}");
}

/// Such as that of a node, which its pods of the host's network have.
fn nowhere() {
    let on_host = workload_with("agent", "n1", "10.77.0.201", |agent| {
        agent.network_mode = NetworkMode::HostNetwork.into();
        agent.services.clear();
    });
    let (world, asked) = World::asking_of(vec![on_host]);
    world.lab.echo("n1", 9090);
    for _ in 0..3 {
        world.answered("web", "10.77.0.201:9090");
    }
    assert_eq!(times(&asked, "/10.77.0.201"), 1, "{asked:?}");
}

/// Plaintext to who may be of the mesh would pass by his waypoint and his policies.
fn away() {
    let (mut world, asked) = World::asking();
    world.lab.echo("spy", 9090);
    world.lab.echo("n1", 9090);
    world.answered("web", "10.77.0.4:9090");
    world.answered("web", "10.96.0.3:80");
    world.istiod.kill();
    world.first.adit().logs("control plane not reachable");
    world.answered("web", "10.77.0.4:9090");
    world.answered("web", "10.96.0.3:80");
    let mut call = world.lab.connect("web", "10.77.0.201:9090").unwrap();
    call.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let mut said = Vec::new();
    let error = std::io::Read::read_to_end(&mut call, &mut said).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let record = world.first.record("the refusal", |record| {
        let error = record["error"].as_str().unwrap_or_default();
        error.contains("the control plane was asked what /10.77.0.201 is")
    });
    assert_eq!(record["direction"], "outbound", "{record}");
    assert_eq!(times(&asked, "/10.77.0.201"), 0);
}

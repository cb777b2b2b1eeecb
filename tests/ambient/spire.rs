//! SVIDs from a SPIFFE provider, the mesh from istiod.

use std::{io::Read as _, mem::take, sync::Arc};

use crate::{
    fake_spire::FakeSpire,
    harness::Test,
    pki::Ca,
    resources::workload_of,
    wait::{LIMIT, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("spire::pods_call_each_other_by_svids_of_spire_in_a_mesh_of_istiod", carried),
    ("spire::pods_of_two_trust_domains_call_each_other_while_they_are_federated", federated),
];

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const DB: &str = "spiffe://cluster.local/ns/shop/sa/db";
const FAR: &str = "spiffe://cluster.local/ns/shop/sa/far";
const FAR_AWAY: &str = "spiffe://far.test/ns/shop/sa/far";

fn authority(domain: &str) -> Arc<Ca> {
    Arc::new(Ca::new("SPIRE", Some(&format!("spiffe://{domain}"))))
}

/// The agents of both nodes, of these authorities; their proxies are told to ask them.
fn agents(world: &mut World, [first, second]: [&Arc<Ca>; 2]) -> [FakeSpire; 2] {
    let World { first: n1, second: n2, lab, .. } = world;
    [(n1, "agent-1.sock", first), (n2, "agent-2.sock", second)].map(|(node, name, ca)| {
        let path = lab.file(name);
        let socket = format!("unix://{}", path.display());
        *node = take(node)
            .with("ADIT_SVID_SOURCE", "workloadApi")
            .with("SPIFFE_ENDPOINT_SOCKET", socket)
            .with("CA_ADDRESS", "");
        FakeSpire::listen(&path, Arc::clone(ca))
    })
}

fn carried() {
    let mut world = World::new();
    let ca = authority("cluster.local");
    let [first, second] = agents(&mut world, [&ca, &ca]);
    first.says(&[WEB, DB], &[]);
    second.says(&[FAR], &[]);
    world.runs();
    for node in [&world.first, &world.second] {
        node.says_of_readiness(&world.lab, "200 OK");
    }
    for to in ["10.96.0.2:80", "10.96.0.3:80"] {
        world.answered("web", to);
    }
    world.answered("far", "10.96.0.1:80");
    let record = world.second.record("a call of web", |record| record["src.identity"] == WEB);
    assert_eq!(record["dst.identity"], FAR, "{record}");
    let dump = world.first.dump(&world.lab);
    assert_eq!(dump["config"]["svidSource"], "workloadApi");
    let serials = || world.first.dump(&world.lab)["certificates"].to_string();
    let before = serials();
    first.says(&[WEB, DB], &[]);
    wait_until("newer SVIDs are in use", LIMIT, || serials() != before);
    world.answered("web", "10.96.0.3:80");
}

/// `far` is of another trust domain, and istiod says so.
fn federated() {
    let mut world = World::new();
    let (own, other) = (authority("cluster.local"), authority("far.test"));
    world.istiod.says(vec![workload_of("far.test", "far", "n2", "10.77.0.3", &[])]);
    let [first, second] = agents(&mut world, [&own, &other]);
    first.says(&[WEB, DB], &[("far.test", &*other)]);
    second.says(&[FAR_AWAY], &[("cluster.local", &*own)]);
    world.runs();
    for node in [&world.first, &world.second] {
        node.says_of_readiness(&world.lab, "200 OK");
    }
    world.answered("web", "10.96.0.3:80");
    world.answered("far", "10.96.0.1:80");
    let record = world.second.record("a call of web", |record| record["src.identity"] == WEB);
    assert_eq!(record["dst.identity"], FAR_AWAY, "{record}");
    let mut open = world.lab.connect("web", "10.96.0.3:80").unwrap();
    open.read_exact(&mut [0; 17]).unwrap();
    second.says(&[FAR_AWAY], &[]);
    assert!(open.read(&mut [0; 1]).is_err(), "cut, not ended");
    assert!(world.lab.ask("web", "10.96.0.3:80").is_err());
    second.says(&[FAR_AWAY], &[("cluster.local", &*own)]);
    wait_until("federated again", LIMIT, || world.lab.ask("web", "10.96.0.3:80").is_ok());
}

//! The metrics of a node over HBONE: this process is a pod of the mesh, with an identity and with
//! policies of its own.

use std::io::{ErrorKind, Read as _, Write as _};

use adit::rpc::discovery::Resource;

use crate::{
    harness::Test,
    resources::{allow, workload_with},
    wait::{LIMIT, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("scrapes::metrics_of_a_node_are_scraped_over_hbone_as_whom_the_mesh_has_for_it", scraped),
    ("scrapes::policies_of_a_node_hold_for_open_scrapes_too", policed),
    ("scrapes::a_node_that_the_mesh_has_elsewhere_shows_no_key", elsewhere),
];

const AT: &str = "10.77.0.201:15020";
const ZTUNNEL: &str = "spiffe://cluster.local/ns/istio-system/sa/ztunnel";

/// The pod of the first node's proxy.
fn proxy(address: &str, policies: &[&str]) -> Resource {
    workload_with("ztunnel-n1", "n1", address, |proxy| {
        proxy.namespace = "istio-system".into();
        proxy.service_account = "ztunnel".into();
        proxy.services.clear();
        proxy.authorization_policies = policies.iter().map(|name| format!("shop/{name}")).collect();
    })
}

fn scraped() {
    let mut world = World::running();
    world.istiod.says(vec![proxy("10.77.0.201", &[])]);
    for pod in ["web", "far"] {
        let metrics = scrape(&world, pod).unwrap();
        assert!(metrics.starts_with("HTTP/1.1 200"), "{pod}: {metrics}");
        assert!(metrics.contains("istio_build"), "{pod}: {metrics}");
        let record = world.first.record("the scrape", |record| {
            record["direction"] == "inbound"
                && record["src.identity"] == format!("spiffe://cluster.local/ns/shop/sa/{pod}")
        });
        assert_eq!(record["dst.identity"], ZTUNNEL, "{record}");
        assert_eq!(record["dst.hbone_addr"], AT, "{record}");
    }
    let line = world.first.counts(
        &world.lab,
        "istio_tcp_connections_opened_total{ … reporter=\"destination\" … \
         destination_workload=\"ztunnel-n1\" … connection_security_policy=\"mutual_tls\"",
    );
    assert!(line.contains(ZTUNNEL), "{line}");
    assert!(world.first.certificates(&world.lab).contains(&ZTUNNEL.to_owned()));
}

fn policed() {
    let mut world = World::running();
    world.istiod.says(vec![proxy("10.77.0.201", &[])]);
    let mut open = world.lab.connect("web", AT).unwrap();
    open.set_read_timeout(Some(LIMIT)).unwrap();
    write!(open, "GET /metrics HTTP/1.1\r\n").unwrap(); // and it is not done yet
    world
        .first
        .counts(&world.lab, "istio_tcp_connections_opened_total{ … reporter=\"destination\"");
    world.istiod.says(vec![allow("scrapers", &["far"]), proxy("10.77.0.201", &["scrapers"])]);
    let heard = open.read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(heard, Err(ErrorKind::ConnectionReset));
    assert_eq!(scrape(&world, "web").map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
    assert!(scrape(&world, "far").unwrap().starts_with("HTTP/1.1 200"));
}

/// Its key is that of the pod in whose namespace it runs, or of nobody.
fn elsewhere() {
    let mut world = World::running();
    world.istiod.says(vec![proxy("10.77.0.99", &[])]);
    let refused = || world.first.adit().log().contains("so adit does not act for it");
    wait_until("it is said that the mesh is wrong", LIMIT, refused);
    assert!(!world.first.certificates(&world.lab).contains(&ZTUNNEL.to_owned()));
    world.istiod.says(vec![proxy("10.77.0.201", &[])]);
    assert!(scrape(&world, "far").unwrap().starts_with("HTTP/1.1 200"));
}

fn scrape(world: &World, pod: &str) -> std::io::Result<String> {
    let mut call = world.lab.connect(pod, AT)?;
    call.set_read_timeout(Some(LIMIT))?;
    write!(call, "GET /metrics HTTP/1.1\r\nhost: {AT}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    call.read_to_string(&mut answer)?;
    Ok(answer)
}

//! Calls of captured pods to each other.

use std::io::Read as _;

use adit::rpc::address::TunnelProtocol;

use crate::{
    harness::Test,
    resources::{address_of, allow, backing, workload},
    wait::{LIMIT, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("calls::pods_of_a_node_and_of_two_call_each_other_as_who_they_are", carried),
    ("calls::who_is_not_in_the_mesh_is_called_and_calls_in_plaintext", plain),
    ("calls::a_pod_reaches_itself", itself),
    ("calls::who_is_not_in_the_mesh_is_not_called_where_the_operator_forbids_it", registry_only),
    ("calls::the_sockets_of_pods_probe_their_peers_as_the_operator_says", probed),
    ("calls::plaintext_reaches_each_address_that_a_pod_holds_as_its_policies_have_it", held),
];

fn carried() {
    let world = World::running();
    let World { first, second, lab, .. } = &world;
    for to in ["10.77.0.2:8080", "10.96.0.2:80", "10.77.0.3:8080", "10.96.0.3:80"] {
        world.answered("web", to);
    }
    world.answered("far", "10.96.0.1:80");
    for (caller, at, called, by) in
        [("web", first, "db", first), ("web", second, "far", first), ("far", first, "web", second)]
    {
        let [caller, called] =
            [caller, called].map(|pod| format!("spiffe://cluster.local/ns/shop/sa/{pod}"));
        for (direction, node) in [("inbound", at), ("outbound", by)] {
            let record = node.record(&format!("{direction} {caller} to {called}"), |record| {
                record["direction"] == direction
                    && record["src.identity"] == *caller
                    && record["dst.identity"] == *called
            });
            assert_eq!(record["message"], "connection complete", "{record}");
        }
        let line = at.counts(
            lab,
            &format!(
                "istio_tcp_connections_opened_total{{ … reporter=\"destination\" … \
                 source_principal=\"{caller}\" … destination_principal=\"{called}\" … \
                 connection_security_policy=\"mutual_tls\""
            ),
        );
        assert!(!line.ends_with(" 0"), "{line}");
    }
}

fn plain() {
    let world = World::running();
    world.lab.echo("spy", 9090);
    world.answered("web", "10.77.0.4:9090");
    world.answered("spy", "10.77.0.3:8080");
    let outside = |direction: &str, node: &crate::node::Node, pod: &str| {
        node.record(&format!("{direction} {pod}"), |record| {
            let addresses = [&record["src.addr"], &record["dst.addr"]].map(ToString::to_string);
            record["direction"] == direction
                && addresses.iter().any(|addr| addr.contains("10.77.0.4:"))
        })
    };
    let out = outside("outbound", &world.first, "web");
    assert_eq!(out["dst.identity"], serde_json::Value::Null, "{out}");
    let inward = outside("inbound", &world.second, "far");
    assert_eq!(inward["src.identity"], serde_json::Value::Null, "{inward}");
}

fn itself() {
    let world = World::running();
    world.answered("web", "10.77.0.1:8080");
    world.answered("web", "10.96.0.1:80");
}

fn registry_only() {
    let mut world = World::running_with(&[("ADIT_OUTBOUND_TRAFFIC_POLICY", "REGISTRY_ONLY")]);
    world.lab.echo("spy", 9090);
    world.refused("web", "10.77.0.4:9090");
    let record = world.first.record("the refusal", |record| {
        let error = record["error"].as_str().unwrap_or_default();
        error.contains("10.77.0.4:9090 is not an address of the mesh")
    });
    assert_eq!(record["direction"], "outbound", "{record}");
    world.first.counts(&world.lab, "tcp_connections_failed_total … close_reason=\"egress_denied\"");
    for to in ["10.77.0.2:8080", "10.96.0.3:80"] {
        world.answered("web", to);
    }
    let mut spy = backing("spy", ("spy", 9090), ("n2", "10.77.0.4"), &[]);
    spy.tunnel_protocol = TunnelProtocol::None.into();
    world.istiod.says(vec![address_of(spy)]);
    world.answered("web", "10.77.0.4:9090");
}

/// Of a second interface, or for what a load balancer sends on: the mesh lists neither.
fn held() {
    let mut world = World::running();
    world.lab.tool("far", "ip addr add 10.77.0.33/32 dev lo");
    for pod in ["spy", "web"] {
        for unlisted in ["10.77.0.33", "10.77.0.34"] {
            world.lab.tool(pod, &format!("ip route add {unlisted} via 10.77.0.3"));
        }
        world.answered(pod, "10.77.0.33:8080");
        // What far would have to forward is not for far.
        world.refused(pod, "10.77.0.34:8080");
    }
    let record = world.second.record("the one to nobody", |record| {
        record["direction"] == "inbound" && record["dst.addr"] == "10.77.0.34:8080"
    });
    assert!(record["error"].as_str().unwrap().contains("not an address"), "{record}");
    world.istiod.says(vec![
        allow("far-callers", &["web"]),
        workload("far", "n2", "10.77.0.3", &["far-callers"]),
    ]);
    world.refused("spy", "10.77.0.33:8080");
}

/// As `ss` shows it: `timer:(keepalive,7sec,0)`, and a moment later `6.868ms` for 6.868 s.
fn probed() {
    let world = World::running_with(&[("KEEPALIVE_TIME", "7s")]);
    world.lab.echo("spy", 9090);
    let mut open: Vec<_> =
        ["10.96.0.3:80", "10.77.0.4:9090"].map(|to| world.lab.connect("web", to).unwrap()).into();
    for call in &mut open {
        call.read_exact(&mut [0; 17]).unwrap();
    }
    // To the other node, to who is not in the mesh, and from the application.
    for end in ["10.77.0.3:15008", "10.77.0.4:9090", ":15001"] {
        wait_until(&format!("a probe of {end} is near"), LIMIT, || {
            let all = world.lab.tool("web", "ss --numeric --tcp --options state established");
            let timers = all.lines().filter(|line| line.contains(end));
            let left = timers.filter_map(|line| line.split_once("keepalive,")?.1.split_once(','));
            let seconds = |left: &str| {
                let number = left.strip_suffix("ms").or_else(|| left.strip_suffix("sec"))?;
                number.parse::<f64>().ok()
            };
            left.filter_map(|(left, _)| seconds(left)).any(|left| left <= 7.0)
        });
    }
}

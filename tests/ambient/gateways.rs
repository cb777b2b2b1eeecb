//! Calls to another network: HBONE to its gateway, Envoy, and in it HBONE to the pod behind it.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
};

use adit::rpc::{address::Workload, discovery::Resource};

use crate::{
    envoy::Envoy,
    harness::Test,
    mounted::Mounted,
    node::Node,
    resources::{allow, gateway, service_with, workload_with},
    wait::LIMIT,
    wire::Wire,
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("gateways::calls_to_another_network_share_a_tunnel_that_its_gateway_cannot_read", carried),
    ("gateways::policies_in_the_other_network_see_who_calls_and_not_the_gateway", judged),
    ("gateways::who_answers_in_place_of_the_pod_or_the_gateway_is_refused", impostors),
    ("gateways::a_gateway_may_be_known_by_a_host_name_only", named),
    ("gateways::a_gateway_that_is_gone_is_not_passed_by_and_one_that_is_back_is_used", gone),
];

/// How many calls a scenario makes, one after the other.
const CALLS: usize = 20;

/// What is said in clear text.
const WORD: &str = "in-clear-text";

const SERVICE: &str = "10.96.0.3:80";

/// `far` and its node are in a network of their own, which the service of `far` is reached in
/// through a gateway.
fn world() -> World {
    world_of("other/10.77.0.5", |_| {})
}

/// The same where the gateway is found so, and istiod says this too of it.
fn world_of(found_by: &str, change: impl FnOnce(&mut Workload)) -> World {
    let mut world = World::new();
    world.second = Node::new("n2", "10.77.0.202").in_network("other");
    world.istiod.says(vec![
        service_with("far", "10.96.0.3", |far| far.subject_alt_names = vec![id("far")]),
        far_behind(found_by, &[]),
        workload_with("gateway", "n2", "10.77.0.5", |gateway| {
            gateway.network = "other".into();
            gateway.services.clear();
            change(gateway);
        }),
    ]);
    world.runs();
    world
}

fn far(policies: &[&str]) -> Resource {
    far_behind("other/10.77.0.5", policies)
}

fn far_behind(found_by: &str, policies: &[&str]) -> Resource {
    workload_with("far", "n2", "10.77.0.3", |far| {
        far.network = "other".into();
        far.network_gateway = gateway(found_by);
        far.authorization_policies = policies.iter().map(|name| format!("shop/{name}")).collect();
    })
}

/// The gateway; `behind` it is `far`, or `itself`.
fn envoy(world: &World, account: &str, behind: &str) -> Envoy {
    let config = include_str!("gateway.yaml.in").replace("@BEHIND@", behind);
    Envoy::start(&world.lab, "proxy", &config, &world.istiod.leaf_of(account))
}

fn carried() {
    let world = world();
    let envoy = envoy(&world, "gateway", "far");
    let bridge = world.lab.netns("bridge");
    let taps = ["v1", "v3", "v5"].map(|port| Wire::tap(&bridge, port, WORD));
    for _ in 0..CALLS {
        answered(&world, "web");
    }
    // What does not fit into any window at once.
    let sent: Vec<u8> = (0..12_000_000_u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
    let mut call = opened(&world, "web");
    let mut writer = call.try_clone().unwrap();
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        call.read_to_end(&mut received).unwrap();
        received
    });
    assert!(received == sent, "{} bytes came back of {}", received.len(), sent.len());
    let outer = envoy.counts("http.hbone.downstream_rq_total");
    assert_eq!(outer, 1, "tunnels through the gateway");
    answered(&world, "db");
    assert_eq!(envoy.counts("http.hbone.downstream_rq_total"), 2, "of two pods");
    println!("     {outer} tunnel through Envoy for {} calls of a pod", CALLS + 1);
    assert_eq!(taps.map(Wire::saw), [0; 3], "frames in clear text");
    let arrived = world.second.record("the call", |record| {
        record["direction"] == "inbound" && record["src.identity"] == id("web")
    });
    assert_eq!(arrived["dst.identity"], id("far"), "{arrived}");
    let out = world.first.record("the call", |record| {
        record["direction"] == "outbound" && record["src.identity"] == id("web")
    });
    assert_eq!(out["dst.addr"], "10.77.0.5:15008", "{out}");
    assert_eq!(out["dst.identity"], id("far"), "{out}");
}

fn judged() {
    let mut world = world();
    let _envoy = envoy(&world, "gateway", "far");
    let mut call = opened(&world, "db");
    world.istiod.says(vec![allow("far-callers", &["web"]), far(&["far-callers"])]);
    assert_eq!(call.read(&mut [0; 1]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
    answered(&world, "web");
    world.refused("db", SERVICE);
    world.istiod.says(vec![allow("far-callers", &["gateway"])]);
    for pod in ["web", "db"] {
        world.refused(pod, SERVICE);
    }
}

fn impostors() {
    let world = world();
    for (account, behind) in [("gateway", "itself"), ("db", "far")] {
        let envoy = envoy(&world, account, behind);
        for _ in 0..CALLS {
            world.refused("web", SERVICE);
        }
        assert_eq!(envoy.counts("http.itself.downstream_rq_total"), 0, "inner requests");
        if behind == "itself" {
            let record = world.first.record("the call", |record| record["direction"] == "outbound");
            let why = record["error"].as_str().unwrap();
            assert!(why.contains("TLS through 10.77.0.5:15008"), "{why}");
            let dump = world.first.dump(&world.lab);
            assert!(dump["ejectedEndpoints"][0].is_null(), "the gateway did what it was asked for");
        }
    }
    let record = world.first.record("the call", |record| record["direction"] == "outbound");
    assert!(record["error"].as_str().unwrap().contains(&id("gateway")), "{record}");
    println!("     0 of {} calls went to who is not the pod", 2 * CALLS);
}

/// As a load balancer is that has no address of its own.
fn named() {
    const NAME: &str = "lb.cloud.test";
    let world = world_of(NAME, |gateway| {
        gateway.addresses.clear();
        gateway.hostname = NAME.into();
    });
    let hosts = world.lab.file("hosts");
    std::fs::write(&hosts, format!("10.77.0.5 {NAME}\n")).unwrap();
    let _hosts = Mounted::over("/etc/hosts", &hosts);
    let _envoy = envoy(&world, "gateway", "far");
    answered(&world, "web");
    let out = world.first.record("the call", |record| record["dst.addr"] == "10.77.0.5:15008");
    assert_eq!(out["dst.identity"], id("far"), "{out}");
}

fn gone() {
    let world = world();
    world.refused("web", SERVICE);
    let envoy = envoy(&world, "gateway", "far");
    answered(&world, "web");
    let mut open = opened(&world, "web");
    drop(envoy);
    assert_eq!(open.read(&mut [0; 1]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
    world.refused("web", SERVICE);
    let _envoy = self::envoy(&world, "gateway", "far");
    answered(&world, "web");
}

/// A call through the gateway, whose address the application sees.
#[track_caller]
fn answered(world: &World, pod: &str) {
    let mut call = opened(world, pod);
    call.write_all(WORD.as_bytes()).unwrap();
    call.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    call.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, WORD, "{pod}");
}

/// An open call through the gateway, which has answered once.
#[track_caller]
fn opened(world: &World, pod: &str) -> TcpStream {
    let mut call = world.lab.connect(pod, SERVICE).unwrap();
    call.set_read_timeout(Some(LIMIT)).unwrap();
    let mut greeting = [0; 17];
    call.read_exact(&mut greeting).unwrap();
    assert_eq!(str::from_utf8(&greeting), Ok("caller 10.77.0.5\n"), "{pod}");
    call
}

fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
}

//! Services of several endpoints, of which some do not do what they should.

use std::io::ErrorKind;

use adit::rpc::address::{
    LoadBalancing, TunnelProtocol,
    load_balancing::{Mode, Scope},
};

use crate::{
    harness::Test,
    resources::{address_of, allow, backing, service_with, workload},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("endpoints::who_is_not_reached_is_passed_over_and_then_left_out", refused),
    ("endpoints::who_speaks_no_tls_is_passed_over", not_tls),
    ("endpoints::an_application_that_is_away_is_passed_over_and_no_byte_is_lost", away),
    ("endpoints::plain_endpoints_are_passed_over_too", plain),
    ("endpoints::who_has_no_hbone_does_not_stand_in_for_who_has_it", in_clear_text),
    ("endpoints::a_service_of_local_traffic_leads_to_pods_of_the_callers_node_only", local),
    ("endpoints::who_denies_a_caller_is_not_passed_over", denied),
    ("endpoints::none_leads_to_the_loopback_address_of_the_pod_that_calls", loopback),
];

/// Of so many calls each of two endpoints gets some: that it does not is less likely than that this
/// machine breaks.
const MANY: usize = 60;

/// `spy`, where nobody listens for HBONE, is behind the service of `far`.
fn with_spy_behind_far() -> World {
    let mut world = World::running();
    let spy = backing("spy", ("far", 8080), ("n2", "10.77.0.4"), &[]);
    world.istiod.says(vec![address_of(spy)]);
    world
}

/// Calls until it is so. All calls succeed.
#[track_caller]
fn answered_until(world: &World, to: &str, is_so: impl Fn() -> bool) {
    for _ in 0..MANY {
        world.answered("web", to);
        if is_so() {
            return;
        }
    }
    panic!("{MANY} calls");
}

fn retries(world: &World) -> String {
    let metrics = world.first.http(&world.lab, 15020, "GET /metrics");
    let lines = metrics.lines().filter(|line| line.starts_with("adit_endpoint_retries_total{"));
    lines.collect::<Vec<_>>().join("\n")
}

fn refused() {
    let world = with_spy_behind_far();
    let World { first, lab, .. } = &world;
    answered_until(&world, "10.96.0.3:80", || {
        let ejected = &first.dump(lab)["ejectedEndpoints"][0];
        ejected["endpoint"] == "10.77.0.4:8080" && ejected["pod"] == "shop/web"
    });
    first.adit().logs("endpoint ejected for … 10.77.0.4:8080");
    let counted = retries(&world);
    assert!(counted.contains("close_reason=\"connect_failure\""), "{counted}");
    let metrics = first.counts(lab, "adit_endpoint_ejections_total");
    assert!(!metrics.ends_with(" 0"), "{metrics}");
}

fn not_tls() {
    let world = with_spy_behind_far();
    world.lab.echo("spy", 15008);
    answered_until(&world, "10.96.0.3:80", || retries(&world).contains("tls_failure"));
}

fn away() {
    let mut world = World::running();
    let far = backing("far", ("db", 8081), ("n2", "10.77.0.3"), &[]);
    world.istiod.says(vec![address_of(far)]);
    answered_until(&world, "10.96.0.2:80", || retries(&world).contains("peer_refused"));
}

fn plain() {
    let mut world = World::running();
    let [mut near, mut spy] = [("db", "10.77.0.2"), ("spy", "10.77.0.4")].map(|(pod, address)| {
        let port = if pod == "spy" { 9090 } else { 8080 };
        backing(pod, ("db", port), ("n1", address), &[])
    });
    spy.tunnel_protocol = TunnelProtocol::None.into();
    near.tunnel_protocol = TunnelProtocol::Hbone.into();
    world.istiod.says(vec![address_of(near), address_of(spy)]);
    answered_until(&world, "10.96.0.2:80", || retries(&world).contains("connect_failure"));
}

/// `spy` says that it has HBONE and has not, and `db` has it and says that it has not.
fn in_clear_text() {
    let mut world = World::running();
    let mut near = backing("db", ("db", 8080), ("n1", "10.77.0.2"), &[]);
    let spy = backing("spy", ("db", 8080), ("n2", "10.77.0.4"), &[]);
    near.tunnel_protocol = TunnelProtocol::None.into();
    world.istiod.says(vec![address_of(near), address_of(spy)]);
    let (mut answers, mut refusals) = (0, 0);
    for _ in 0..MANY {
        match world.lab.ask("web", "10.96.0.2:80") {
            Ok(_) => answers += 1,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => refusals += 1,
            Err(error) => panic!("{error}"),
        }
    }
    // More than it takes to be left out.
    assert!(answers > 0 && refusals > 4, "{answers} answers, {refusals} refusals");
    assert_eq!(retries(&world), "");
}

/// As a ServiceEntry may have them that anybody writes: `web` listens there.
fn loopback() {
    let mut world = World::running();
    for (address, name) in [("127.0.0.1", ""), ("::1", ""), ("", "localhost")] {
        for tunnel in [TunnelProtocol::None, TunnelProtocol::Hbone] {
            let at = if address.is_empty() { "10.77.0.9" } else { address };
            let mut trap = backing("trap", ("trap", 8080), ("n2", at), &[]);
            (trap.tunnel_protocol, trap.hostname) = (tunnel.into(), name.into());
            if address.is_empty() {
                trap.addresses.clear();
            }
            let seen = world.first.adit().lines();
            world.istiod.says(vec![address_of(trap), service_with("trap", "10.96.0.9", |_| {})]);
            world.refused("web", "10.96.0.9:80");
            world.first.adit().logs_since(seen, "is a loopback address");
        }
    }
}

/// What istiod makes of `internalTrafficPolicy: Local`.
fn local() {
    let mut world = World::running();
    let local = LoadBalancing {
        routing_preference: vec![Scope::Node.into()],
        mode: Mode::Strict.into(),
        ..LoadBalancing::default()
    };
    let far = backing("far", ("db", 8080), ("n2", "10.77.0.3"), &[]);
    world.istiod.says(vec![
        service_with("db", "10.96.0.2", |db| db.load_balancing = Some(local)),
        address_of(far),
    ]);
    let calls = 20;
    for _ in 0..calls {
        world.answered("web", "10.96.0.2:80");
        world.answered("far", "10.96.0.2:80");
    }
    for (node, caller, called) in [(&world.first, "web", "db"), (&world.second, "far", "far")] {
        let [caller, called] =
            [caller, called].map(|pod| format!("spiffe://cluster.local/ns/shop/sa/{pod}"));
        let line = format!(
            "istio_tcp_connections_opened_total{{ … reporter=\"source\" … \
             source_principal=\"{caller}\" … destination_principal=\"{called}\""
        );
        let line = node.counts(&world.lab, &line);
        assert!(line.ends_with(&format!(" {calls}")), "{line}");
    }
    let elsewhere = workload("db", "n3", "10.77.0.2", &[]);
    world.istiod.says(vec![elsewhere]);
    world.refused("web", "10.96.0.2:80");
    world.first.record("the refusal", |record| {
        let error = record["error"].as_str().unwrap_or_default();
        error.contains("service db.shop.svc.cluster.local has no endpoint")
    });
}

fn denied() {
    let mut world = World::running();
    let far = backing("far", ("db", 8080), ("n2", "10.77.0.3"), &["only-db"]);
    world.istiod.says(vec![allow("only-db", &["db"]), address_of(far)]);
    let (mut answers, mut refusals) = (0, 0);
    for _ in 0..MANY {
        match world.lab.ask("web", "10.96.0.2:80") {
            Ok(_) => answers += 1,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => refusals += 1,
            Err(error) => panic!("{error}"),
        }
        if answers > 0 && refusals > 0 {
            assert_eq!(retries(&world), "");
            world.first.record("a denial", |record| {
                let error = record["error"].as_str().unwrap_or_default();
                record["direction"] == "outbound" && error.contains("http status: 401")
            });
            return;
        }
    }
    panic!("{answers} answers, {refusals} refusals");
}

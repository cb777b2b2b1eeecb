//! Other names of the mesh's trust domain (Istio's `trustDomainAliases`), which the operator lists
//! for nodes: istiod tells them of none.

use std::{mem::take, net::TcpListener};

use http::Request;

use crate::{
    corpus::Forged,
    forge::{self, answer_one, uncaptured},
    harness::Test,
    resources::{allow, deny, workload},
    wait::{LIMIT, wait_for},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("aliases::a_peer_of_an_alias_counts_as_of_the_mesh_and_others_are_refused", listed),
    ("aliases::who_answers_may_be_of_an_alias_and_nobody_else", answered),
];

/// `far` is of the node that was told of aliases.
fn told() -> World {
    let mut world = World::new();
    let second = take(&mut world.second);
    world.second = second.with("ADIT_TRUST_DOMAIN_ALIASES", "old.test, older.test");
    world
}

/// `far` lets `web` call it, and nobody else.
fn listed() {
    let mut world = told();
    let far = |policies| workload("far", "n2", "10.77.0.3", policies);
    world.istiod.says(vec![far(&["only-web"]), allow("only-web", &["web"])]);
    world.runs();
    world.answered("web", "10.96.0.3:80");
    let expect = |world: &World, all: &[(&str, Option<u16>)]| {
        for (id, expected) in all {
            let said = asks(world, "10.77.0.3", &format!("spiffe://{id}"));
            assert_eq!(said.ok(), *expected, "{id}");
        }
    };
    expect(
        &world,
        &[
            ("cluster.local/ns/shop/sa/web", Some(200)),
            ("old.test/ns/shop/sa/web", Some(200)),
            ("older.test/ns/shop/sa/web", Some(200)),
            ("old.test/ns/shop/sa/db", Some(401)),
            ("old.test/ns/other/sa/web", Some(401)),
            ("other.test/ns/shop/sa/web", None),
        ],
    );
    // Its own name stays in the log.
    let record = world
        .second
        .record("an alias", |record| record["src.identity"] == "spiffe://old.test/ns/shop/sa/db");
    assert_eq!(record["direction"], "inbound", "{record}");
    let shown = &world.second.dump(&world.lab)["config"]["trustDomainAliases"];
    assert_eq!(*shown, serde_json::json!(["old.test", "older.test"]));
    // Whoever is denied by one of its names is so by all.
    world
        .istiod
        .says(vec![far(&["only-web", "not-web"]), deny("not-web", &["older.test/ns/shop/sa/web"])]);
    expect(
        &world,
        &[
            ("cluster.local/ns/shop/sa/web", Some(401)),
            ("old.test/ns/shop/sa/web", Some(401)),
            ("older.test/ns/shop/sa/web", Some(401)),
        ],
    );
    // The other node was told of none.
    assert!(asks(&world, "10.77.0.2", "spiffe://old.test/ns/shop/sa/web").is_err());
}

/// Asks a pod for its application with a leaf of the mesh's CA: the status, or what went wrong.
fn asks(world: &World, pod: &str, id: &str) -> Result<u16, String> {
    let connect = Request::builder().method(http::Method::CONNECT).uri(format!("{pod}:8080"));
    let socket = uncaptured(&world.lab, &format!("{pod}:15008"));
    forge::request(socket, shows(world, id), connect.body(()).unwrap())
}

fn shows(world: &World, id: &str) -> Forged {
    let leaf = world.istiod.leaf_as(id);
    Forged { key: leaf.key(), chain: leaf.chain }
}

/// Somebody else's proxy stands for a pod: it shows what it likes, and goes.
fn answered() {
    let mut world = told();
    world.istiod.says(vec![workload("proxy", "n3", "10.77.0.5", &[])]);
    world.runs();
    for (port, id, refused) in [
        (81, "spiffe://old.test/ns/shop/sa/proxy", None),
        (82, "spiffe://cluster.local/ns/shop/sa/proxy", None),
        (83, "spiffe://old.test/ns/shop/sa/db", Some("identity_mismatch")),
        (84, "spiffe://other.test/ns/shop/sa/proxy", Some("unknown_trust_domain")),
    ] {
        let bind = || TcpListener::bind("[::]:15008").ok();
        let free = || world.lab.netns("proxy").run(bind).unwrap();
        answer_one(wait_for("the one before has gone", LIMIT, free), shows(&world, id));
        let called = format!("10.77.0.5:{port}");
        assert!(world.lab.ask("far", &called).is_err(), "{id}: nobody is behind it");
        let record = world.second.record(id, |record| record["dst.hbone_addr"] == called.as_str());
        let reason = record["reason"].as_str().unwrap();
        let is_refused = matches!(reason, "identity_mismatch" | "unknown_trust_domain");
        assert_eq!(is_refused.then_some(reason), refused, "{record}");
    }
}

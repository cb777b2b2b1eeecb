//! Pods that leave, come again, and are not who they are said to be.

use crate::{
    fake_cni::del,
    harness::Test,
    wait::{LIMIT, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("pods::one_that_is_deleted_takes_no_connection_and_added_again_does_at_once", again),
    ("pods::a_namespace_without_the_address_of_the_mesh_is_refused_and_named", refuted),
];

fn again() {
    let world = World::running();
    let World { first, second, lab, .. } = &world;
    world.answered("web", "10.96.0.3:80");
    for _ in 0..3 {
        assert_eq!(second.agent().asks(&del("uid-far"), &[]), "");
        wait_until("15008 of far is closed", LIMIT, || lab.connect("far", "[::1]:15008").is_err());
        assert!(lab.ask("web", "10.96.0.3:80").is_err());
        assert!(lab.ask("far", "10.96.0.1:80").is_err(), "nor does it make any");
        assert_eq!(second.adds("far", "far"), "");
        world.answered("web", "10.96.0.3:80");
        world.answered("far", "10.96.0.1:80");
    }
    assert_eq!(first.adds("db", "db"), "", "the same once more");
    world.answered("web", "10.96.0.2:80");
}

fn refuted() {
    let world = World::running();
    let World { first, lab, .. } = &world;
    assert_eq!(first.agent().asks(&del("uid-db"), &[]), "");
    first.adds("db", "spy");
    let said = first.says_of_readiness(lab, "the mesh says 10.77.0.2");
    assert!(said.contains("shop/db") && said.starts_with("HTTP/1.1 500"), "{said}");
    for to in ["10.96.0.2:80", "10.77.0.4:8080"] {
        assert!(lab.ask("web", to).is_err(), "{to}");
    }
    assert!(lab.ask("spy", "10.77.0.4:15008").is_err());
    assert_eq!(first.certificates(lab), ["spiffe://cluster.local/ns/shop/sa/web"]);
    assert_eq!(first.agent().asks(&del("uid-db"), &[]), "");
    assert_eq!(first.adds("db", "db"), "");
    first.says_of_readiness(lab, "200 OK");
    world.answered("web", "10.96.0.2:80");
}

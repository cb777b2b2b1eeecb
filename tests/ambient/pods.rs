//! Pods that leave, come again, and are not who they are said to be.

use std::{io::Read as _, net::TcpListener, thread};

use crate::{
    fake_cni::del,
    harness::Test,
    resources::{uid, workload},
    rules_of_cni::redirect,
    wait::{LIMIT, wait_for, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("pods::one_that_is_deleted_takes_no_connection_and_added_again_does_at_once", again),
    ("pods::a_namespace_without_the_address_of_the_mesh_is_refused_and_named", refuted),
    ("pods::one_that_comes_back_elsewhere_before_the_mesh_knows_is_taken_up_with_it", moved),
    ("pods::a_call_of_a_pod_that_the_mesh_does_not_know_yet_waits_for_it", early),
    ("pods::one_that_cannot_be_attached_keeps_its_node_unready_until_it_is_or_leaves", unattached),
    ("pods::one_that_the_mesh_removes_loses_its_calls_its_key_and_its_place_in_a_service", removed),
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
    first.adit().logs("pod shop/db … has 10.77.0.4 … the mesh says 10.77.0.2");
    wait_until("the dump has it", LIMIT, || {
        let faults = first.dump(lab)["podFaults"].to_string();
        faults.contains("pod shop/db") && faults.contains("the mesh says 10.77.0.2")
    });
    first.says_of_readiness(lab, "200 OK");
    for to in ["10.96.0.2:80", "10.77.0.4:8080"] {
        assert!(lab.ask("web", to).is_err(), "{to}");
    }
    assert!(lab.ask("spy", "10.77.0.4:15008").is_err());
    assert_eq!(first.certificates(lab), ["spiffe://cluster.local/ns/shop/sa/web"]);
    assert_eq!(first.agent().asks(&del("uid-db"), &[]), "");
    assert_eq!(first.adds("db", "db"), "");
    world.answered("web", "10.96.0.2:80");
}

/// A pod of a stateful set: the same name and account, another UID and address.
fn moved() {
    let mut world = World::running();
    world.answered("web", "10.96.0.3:80");
    let World { second, istiod, lab, .. } = &mut world;
    assert_eq!(second.agent().asks(&del("uid-far"), &[]), "");
    lab.remake("far", 5);
    lab.echo("far", 8080);
    redirect(lab, "far");
    assert_eq!(second.adds("far", "far"), "");
    second.adit().logs("pod shop/far … has 10.77.0.5 … the mesh says 10.77.0.3");
    istiod.says(vec![workload("far", "n2", "10.77.0.5", &[])]);
    world.answered("web", "10.96.0.3:80");
    assert_eq!(world.lab.ask("far", "10.96.0.1:80").unwrap(), "caller 10.77.0.5\nhello\n");
    world.second.says_of_readiness(&world.lab, "200 OK");
}

fn early() {
    let mut world = World::new();
    let World { first, istiod, lab, .. } = &mut world;
    istiod.forgets("web");
    istiod.start();
    first.starts_cni(lab);
    first.launch(lab);
    istiod.meets(1);
    first.announces(&["web", "db"]);
    first.says_of_readiness(lab, "200 OK");
    let (first, lab) = (&*first, &*lab);
    thread::scope(|scope| {
        let asked = scope.spawn(|| lab.ask("web", "10.96.0.2:80"));
        wait_until("the call has come to its node", LIMIT, || {
            first.http(lab, 15000, "GET /connections").contains("10.96.0.2:80")
        });
        istiod.says(vec![workload("web", "n1", "10.77.0.1", &[])]);
        assert_eq!(asked.join().unwrap().unwrap(), "caller 10.77.0.1\nhello\n");
    });
}

/// A program in it has a port of ours.
fn unattached() {
    let world = World::running();
    let World { first, lab, .. } = &world;
    let bind = || TcpListener::bind("[::]:15008").ok();
    for leaves in [false, true] {
        let free = || lab.netns("spy").run(bind).unwrap();
        let taken = wait_for("nobody listens in the pod", LIMIT, free);
        assert!(first.adds("spy", "spy").contains("15008"), "istio-cni hears why");
        let said = first.says_of_readiness(lab, "shop/spy");
        assert!(said.starts_with("HTTP/1.1 500"), "{said}");
        assert!(said.contains("not ready, pending: workload proxy manager ("), "{said}");
        world.answered("web", "10.96.0.3:80");
        if leaves {
            assert_eq!(first.agent().asks(&del("uid-spy"), &[]), "");
        }
        drop(taken);
        first.says_of_readiness(lab, "200 OK");
        first.agent().asks(&del("uid-spy"), &[]);
    }
}

fn removed() {
    let mut world = World::running();
    let mut open = world.lab.connect("web", "10.96.0.3:80").unwrap();
    open.read_exact(&mut [0; 17]).unwrap();
    world.istiod.removes(&[&uid("far")]);
    assert!(crate::wait::read_once(&mut open, &mut [0; 1]).is_err(), "cut, not ended");
    assert!(world.lab.ask("web", "10.96.0.3:80").is_err(), "a service without endpoints");
    wait_until("the key is forgotten", LIMIT, || world.second.certificates(&world.lab) == [""; 0]);
    world.istiod.says(vec![workload("far", "n2", "10.77.0.3", &[])]);
    // Its callers' node may hear of it a moment before its own.
    wait_until("it has a key again", LIMIT, || world.second.certificates(&world.lab) != [""; 0]);
    world.answered("web", "10.96.0.3:80");
}

//! What is not TCP, of pods that istio-cni redirects.

use std::{
    io::Write as _,
    process::{Child, Command, Stdio},
};

use adit::mesh::NonTcp;

use super::world::World;
use crate::{
    datagrams::{are_answered, echo},
    fake_cni::{del, snapshot_sent},
    lab::ip,
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("announced::what_is_not_tcp_is_dropped_before_istio_cni_hears_that_a_pod_is_in", dropped),
    ("announced::a_pod_whose_datagrams_cannot_be_dropped_is_refused", refused),
];

/// db has an application at port 9000; somebody outside has one at 10.77.0.200.
fn judging(verdict: NonTcp) -> World {
    let world = World::judging(verdict);
    ip("-n bridge addr add 10.77.0.200/24 dev br0");
    echo(&world.netns("db"), "0.0.0.0:9000");
    echo(&world.netns("bridge"), "10.77.0.200:9000");
    world
}

fn is_reached(world: &World) -> bool {
    are_answered(&world.netns("bridge"), "10.77.0.2:9000")
}

fn dropped() {
    let mut world = judging(NonTcp::Drop);
    // Where the DNS proxy listens, to which istio-cni's rules lead.
    echo(&world.netns("db"), "127.0.0.1:15053");
    let cni = world.cni();
    world.redirects("db");
    assert!(is_reached(&world), "before");
    assert_eq!(world.adds(&cni, "db"), "");
    assert!(!is_reached(&world));
    assert!(!are_answered(&world.netns("db"), "10.77.0.200:9000"));
    assert!(are_answered(&world.netns("db"), "10.77.0.200:53"), "by the DNS proxy");

    // Another program takes the rules out of it.
    world.lab.tool("db", "nft flush table inet adit-non-tcp");
    world.lab.wait("dropped again", || !is_reached(&world));
    world.lab.wait("counted", || {
        world.metrics().contains("rules_restored_total{result=\"restored\"} 1")
    });

    // The end of the process opens nothing, nor does the next one before it knows the pod.
    world.ends();
    drop(cni);
    assert!(!is_reached(&world));
    world.non_tcp = NonTcp::Pass;
    world.restart();
    let cni = world.cni();
    assert!(!is_reached(&world));
    assert_eq!(world.adds(&cni, "db"), "");
    world.lab.wait("it passes", || is_reached(&world));

    // Who leaves the mesh takes nothing along.
    world.ends();
    drop(cni);
    world.non_tcp = NonTcp::Drop;
    world.restart();
    let cni = world.cni();
    assert_eq!(world.adds(&cni, "db"), "");
    assert_eq!(cni.asks(&snapshot_sent(), &[]), "");
    assert!(!is_reached(&world));
    assert_eq!(cni.asks(&del("uid-db"), &[]), "");
    world.lab.wait("it passes", || is_reached(&world));
}

/// A table of this name that is another program's, which nobody else may change while that runs.
fn owned(world: &World) -> Child {
    let mut nft = Command::new("nft");
    nft.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut nft = world.netns("db").run(|| nft.spawn()).unwrap().unwrap();
    let table = b"add table inet adit-non-tcp { flags owner; }\n";
    nft.stdin.as_mut().unwrap().write_all(table).unwrap();
    let is_there = || world.lab.tool("db", "nft list tables").contains("adit-non-tcp");
    world.lab.wait("a table of another program", is_there);
    nft
}

fn refused() {
    let world = judging(NonTcp::Drop);
    let cni = world.cni();
    let mut other = owned(&world);
    let why = world.adds(&cni, "db");
    assert!(
        why.contains("traffic other than TCP cannot be dropped, which nonTcp requires"),
        "{why}"
    );
    assert!(!world.listens("db"));
    drop(other.stdin.take());
    other.wait().unwrap();
    world.lab.wait("attached in the end", || world.pending().is_empty() && world.listens("db"));
    assert!(!is_reached(&world));
}

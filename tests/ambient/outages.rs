//! A control plane and an istio-cni that come late, leave, and come back.

use std::io::{Read as _, Write as _};

use crate::{
    harness::Test,
    resources::{allow, workload},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("outages::without_istiod_calls_go_on_and_its_return_is_followed", istiod_dies),
    ("outages::a_node_that_finds_nobody_names_both_and_is_ready_in_whatever_order_they_come", cold),
    ("outages::cold_boots_beside_peers_that_fail_in_every_order_end_ready_and_carry", faulty),
];

fn istiod_dies() {
    let mut world = World::running();
    world.answered("web", "10.96.0.3:80");
    let mut running = world.lab.connect("web", "10.96.0.3:80").unwrap();
    let mut greeting = [0; 17];
    running.read_exact(&mut greeting).unwrap();
    world.istiod.kill();
    for node in [&world.first, &world.second] {
        node.counts(&world.lab, "istio_xds_connection_terminations_total");
    }
    running.write_all(b"ping").unwrap();
    running.read_exact(&mut [0; 4]).unwrap();
    for to in ["10.96.0.2:80", "10.96.0.3:80"] {
        world.answered("web", to);
    }
    for node in [&world.first, &world.second] {
        node.says_of_readiness(&world.lab, "200 OK");
    }
    world.istiod.start();
    world.istiod.meets(2);
    running.write_all(b"ping").unwrap();
    running.read_exact(&mut [0; 4]).unwrap();
    world.istiod.says(vec![
        allow("far-callers", &["db"]),
        workload("far", "n2", "10.77.0.3", &["far-callers"]),
    ]);
    world.refused("web", "10.96.0.3:80");
    world.answered("db", "10.96.0.3:80");
}

/// What comes in a cold boot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comes {
    Adit,
    Istiod,
    Cni,
}

fn cold() {
    use Comes::{Adit, Cni, Istiod};
    for order in
        [[Adit, Istiod, Cni], [Adit, Cni, Istiod], [Istiod, Adit, Cni], [Cni, Adit, Istiod]]
    {
        let mut world = World::new();
        let World { first, istiod, lab, .. } = &mut world;
        let mut alone = true;
        for comes in order {
            match comes {
                Adit => first.launch(lab),
                Istiod => istiod.start(),
                Cni => first.starts_cni(lab),
            }
            if comes == Adit && alone {
                let said = first.says_of_readiness(lab, "https://10.77.0.250:15012");
                assert!(said.starts_with("HTTP/1.1 500"), "{said}");
                assert!(said.contains("not ready, pending: state manager"), "{said}");
                assert!(said.contains("workload proxy manager"), "{said}");
            }
            alone = false;
        }
        istiod.meets(1);
        if order[2] == Cni {
            // It came after what waits for it.
            let said = first.says_of_readiness(lab, "n1.sock");
            assert!(said.starts_with("HTTP/1.1 500"), "{said}");
        }
        first.announces(&["web", "db"]);
        let said = first.says_of_readiness(lab, "200 OK");
        assert!(said.ends_with("ready\n"), "{said}");
        world.answered("web", "10.96.0.2:80");
    }
}

/// What peers do instead of what they should; a thousand more boots are in `tests/xds`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fails {
    /// Nobody is there for a while.
    IsAway,
    /// It takes the connection, and that is all until it closes.
    IsSilent,
    /// It closes the connection.
    Closes,
    /// istiod is somebody else; istio-cni announces a pod, and closes before it has named all.
    IsWrong,
}

/// The order with this number, of 24.
fn order(number: usize) -> Vec<Fails> {
    let mut left = vec![Fails::IsAway, Fails::IsSilent, Fails::Closes, Fails::IsWrong];
    let digits = [number % 4, number / 4 % 3, number / 12 % 2, 0];
    digits.map(|digit| left.remove(digit)).to_vec()
}

fn faulty() {
    // Four of the 24 orders, or all of them where somebody asks for that.
    let step = if std::env::var_os("ADIT_ALL_BOOTS").is_some() { 1 } else { 7 };
    for boot in (0..24).step_by(step) {
        let (of_istiod, of_cni) = (order(boot), order(boot * 7 + 5));
        println!("boot {boot}: istiod {of_istiod:?}, istio-cni {of_cni:?}");
        let mut world = World::new();
        let World { first, istiod, lab, .. } = &mut world;
        first.launch(lab);
        for fault in of_istiod {
            istiod.fails(fault);
        }
        istiod.start();
        istiod.meets(1);
        for fault in of_cni {
            first.cni_fails(lab, fault);
        }
        first.starts_cni(lab);
        first.announces(&["web", "db"]);
        first.says_of_readiness(lab, "200 OK");
        world.answered("web", "10.96.0.2:80");
    }
}

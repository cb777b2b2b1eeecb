//! A file of CRLs (`CRL_PATH`), which nodes follow: who stands on it is refused and cut.

use std::{io::Read as _, mem::take};

use crate::{
    harness::Test,
    wait::{LIMIT, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("revocation::who_is_on_the_list_is_cut_and_refused_and_nobody_else_is", revoked),
    ("revocation::a_node_whose_own_svid_is_on_the_list_gets_another_at_once", renewed),
    ("revocation::nobody_is_believed_before_the_list_was_read_once", withheld),
];

/// Where both nodes look, or the second alone.
fn world(both: bool) -> World {
    let mut world = World::new();
    let World { first, second, lab, .. } = &mut world;
    let path = lab.file("ca-crl.pem").display().to_string();
    for node in [Some(second), Some(first).filter(|_| both)].into_iter().flatten() {
        *node = take(node).with("CRL_PATH", path.clone());
    }
    world
}

/// Replaces it whole, as Kubernetes does.
fn write(world: &World, list: &str) {
    std::fs::write(world.lab.file("next"), list).unwrap();
    std::fs::rename(world.lab.file("next"), world.lab.file("ca-crl.pem")).unwrap();
}

fn running(both: bool) -> World {
    let mut world = world(both);
    write(&world, &world.istiod.crl(&[]));
    world.begins();
    for node in [&world.first, &world.second] {
        node.says_of_readiness(&world.lab, "200 OK");
    }
    world
}

fn revoked() {
    let world = running(false);
    let World { first, second, istiod, lab } = &world;
    let open = |pod: &str, to: &str| {
        let mut socket = lab.connect(pod, to).unwrap();
        socket.read_exact(&mut [0; 17]).unwrap();
        socket
    };
    let [mut of_web, mut to_web] = [open("web", "10.96.0.3:80"), open("far", "10.96.0.1:80")];
    let of_db = open("db", "10.96.0.3:80");
    let serial = first.serial("web");
    write(&world, &istiod.crl(&[&serial]));
    for (what, socket) in [("of web", &mut of_web), ("to web", &mut to_web)] {
        assert!(socket.read(&mut [0; 1]).is_err(), "the connection {what} is cut, not ended");
    }
    assert!(lab.ask("web", "10.96.0.3:80").is_err());
    assert!(lab.ask("far", "10.96.0.1:80").is_err());
    world.answered("db", "10.96.0.3:80");
    for reporter in ["destination", "source"] {
        let line = second
            .counts(lab, &format!("istio_crl_policy_rejections_total{{ … reporter=\"{reporter}\""));
        assert!(!line.ends_with(" 0"), "{line}");
    }
    second.record("a revoked peer", |record| {
        record["error"].as_str().is_some_and(|why| why.contains(&serial))
    });
    of_db.set_nonblocking(true).unwrap();
    let held = (&of_db).read(&mut [0; 1]).unwrap_err();
    assert_eq!(held.kind(), std::io::ErrorKind::WouldBlock, "whose peer is on no list stays");
    // A list that names nobody any more.
    write(&world, &istiod.crl(&[]));
    wait_until("web is believed again", LIMIT, || lab.ask("web", "10.96.0.3:80").is_ok());
}

fn renewed() {
    let world = running(true);
    world.answered("web", "10.96.0.3:80");
    let before = world.first.serial("web");
    write(&world, &world.istiod.crl(&[&before]));
    wait_until("another SVID", LIMIT, || world.first.serial("web") != before);
    wait_until("web is believed", LIMIT, || world.lab.ask("web", "10.96.0.3:80").is_ok());
}

fn withheld() {
    let mut world = world(false);
    world.begins();
    let said = world.second.says_of_readiness(&world.lab, "ca-crl.pem: No such file");
    assert!(said.contains("500") && said.contains("proxy"), "{said}");
    assert!(world.lab.ask("web", "10.96.0.3:80").is_err());
    assert!(world.lab.ask("far", "10.96.0.1:80").is_err());
    world.second.record("a peer that is not believed yet", |record| {
        record["error"].as_str().is_some_and(|why| why.contains("no peer is trusted: the CRLs of"))
    });
    write(&world, &world.istiod.crl(&[]));
    world.second.says_of_readiness(&world.lab, "200 OK");
    wait_until("web is believed", LIMIT, || world.lab.ask("web", "10.96.0.3:80").is_ok());
    // What cannot be read later changes nothing.
    write(&world, "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    world.second.counts(&world.lab, "adit_crl_file_faults 1");
    world.second.adit().logs("CRLs rejected; keeping the previous ones … ca-crl.pem");
    world.answered("web", "10.96.0.3:80");
    world.second.says_of_readiness(&world.lab, "200 OK");
}

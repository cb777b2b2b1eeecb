//! Connections that applications ask for by SOCKS5, at a port of their pod's loopback address.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, TcpStream},
    process::Command,
};

use crate::{
    fake_cni::del,
    harness::Test,
    resources::{allow, workload},
    wait::{LIMIT, read_once, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("socks::calls_by_address_and_by_name_go_where_captured_ones_do", carried),
    ("socks::a_client_is_told_that_a_connection_stands_only_once_it_does", told),
    ("socks::the_port_is_for_applications_of_a_pod_alone_and_as_long_as_it_is_there", own),
    ("socks::who_says_nothing_takes_places_of_its_own_pod_only", silent),
    ("socks::a_pod_has_one_part_of_the_descriptors_however_it_asks", one_part),
];

const AT: &str = "127.0.0.1:15080";

fn world() -> World {
    let mut world = World::new();
    world.first.said.push(("UNSTABLE_ENABLE_SOCKS5", "true".to_owned()));
    world.runs();
    world
}

fn carried() {
    let world = world();
    world.lab.echo("spy", 9090);
    for (to, port) in [
        ("10.77.0.3", 8080),
        ("10.96.0.3", 80),
        ("far.shop.svc.cluster.local", 80),
        ("FAR.shop", 80),
        ("10.77.0.4", 9090),
        ("fd77::4", 9090),
    ] {
        let (reply, mut call) = asked(&world, to, port);
        assert_eq!(reply, 0, "{to}");
        call.write_all(b"hello\n").unwrap();
        call.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        call.read_to_string(&mut answer).unwrap();
        let caller = if to.contains("::") { "fd77::1" } else { "10.77.0.1" };
        assert_eq!(answer, format!("caller {caller}\nhello\n"), "{to}");
    }
    for address in ["10.77.0.3:8080", "10.77.0.3:15008"] {
        let arrived = world.second.record("a call", |record| {
            record["direction"] == "inbound"
                && (record["dst.addr"] == address || record["dst.hbone_addr"] == address)
        });
        assert_eq!(arrived["src.identity"], "spiffe://cluster.local/ns/shop/sa/web", "{arrived}");
    }
    assert!(world.lab.connect("far", AT).is_err(), "its node does not have it");
}

fn own() {
    let world = world();
    world.refused("db", "10.77.0.1:15080");
    let refused = world.first.record("a call to the port", |record| {
        record["direction"] == "inbound" && record["reason"] == "direct_call"
    });
    assert_eq!(refused["src.workload"], "db", "{refused}");
    world.refused("spy", "10.77.0.1:15080");
    assert_eq!(greeted(&world, &[5, 1, 0]).unwrap().0, [5, 0]);
    assert_eq!(world.first.agent().asks(&del("uid-web"), &[]), "");
    wait_until("it is closed", LIMIT, || world.lab.connect("web", AT).is_err());
    assert_eq!(world.first.adds("web", "web"), "");
    assert_eq!(asked(&world, "10.96.0.3", 80).0, 0);
}

fn told() {
    let mut world = world();
    let reply = |world: &World, to: &str, port| asked(world, to, port).0;
    assert_eq!(reply(&world, "10.77.0.3", 81), 5, "no process is listening there");
    assert_eq!(reply(&world, "10.96.0.3", 81), 4, "the service has no such port");
    assert_eq!(reply(&world, "nobody.shop.svc.cluster.local", 80), 4, "no such name");
    for (to, port) in [("10.77.0.1", 15001), ("127.0.0.1", 15080), ("127.0.0.1", 8080)] {
        assert_eq!(reply(&world, to, port), 2, "a port of adit's own, or of the pod alone");
    }
    assert_eq!(reply(&world, "0.0.0.0", 15080), 4, "which the kernel takes for the loopback");
    world.istiod.says(vec![
        allow("far-callers", &["db"]),
        workload("far", "n2", "10.77.0.3", &["far-callers"]),
    ]);
    assert_eq!(reply(&world, "10.96.0.3", 80), 2, "a policy");
    // BIND, and no method without a password.
    let mut call = greeted(&world, &[5, 1, 0]).unwrap().1;
    call.write_all(&[5, 2, 0, 1, 10, 77, 0, 3, 0, 80]).unwrap();
    let mut answer = [0; 10];
    call.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..2], [5, 7]);
    assert_eq!(greeted(&world, &[5, 1, 2]).unwrap().0, [5, 0xff]);
}

fn silent() {
    let world = world();
    let many: Vec<_> = (0..300).map(|_| world.lab.connect("web", AT).unwrap()).collect();
    world.first.record("one too many", |record| {
        record["error"].as_str().is_some_and(|why| why.contains("have not sent their requests yet"))
    });
    world.answered("web", "10.96.0.3:80");
    drop(many);
    wait_until("there is room again", LIMIT, || {
        greeted(&world, &[5, 1, 0]).is_ok_and(|(answer, _)| answer == [5, 0])
    });
}

/// A pod that has its part by calls that are captured, where descriptors are short.
fn one_part() {
    let world = world();
    let pid = world.first.adit().pid().to_string();
    let done = Command::new("prlimit").args(["--pid", &pid, "--nofile=400:"]).status();
    assert!(done.is_ok_and(|s| s.success()), "`prlimit` of the package util-linux runs");
    let mut held = Vec::new();
    for _ in 0..400 {
        let Ok(mut call) = world.lab.connect("web", "10.96.0.3:80") else { break };
        call.set_read_timeout(Some(LIMIT)).unwrap();
        if !read_once(&mut call, &mut [0; 17]).is_ok_and(|n| n > 0) {
            break;
        }
        held.push(call);
    }
    assert!((100..350).contains(&held.len()), "{} calls", held.len());
    assert!(greeted(&world, &[5, 1, 0]).is_err(), "it has a second part");
    drop(held);
    wait_until("there is room again", LIMIT, || {
        greeted(&world, &[5, 1, 0]).is_ok_and(|(answer, _)| answer == [5, 0])
    });
}

/// What is answered to this greeting.
fn greeted(world: &World, greeting: &[u8]) -> io::Result<([u8; 2], TcpStream)> {
    let mut call = world.lab.connect("web", AT)?;
    call.set_read_timeout(Some(LIMIT))?;
    call.write_all(greeting)?;
    let mut answer = [0; 2];
    call.read_exact(&mut answer)?;
    Ok((answer, call))
}

/// What is answered to a request of `web`, and what follows it.
#[track_caller]
fn asked(world: &World, to: &str, port: u16) -> (u8, TcpStream) {
    let (answer, mut call) = greeted(world, &[5, 2, 2, 0]).unwrap();
    assert_eq!(answer, [5, 0]);
    let address = match to.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => [&[1][..], &v4.octets()].concat(),
        Ok(IpAddr::V6(v6)) => [&[4][..], &v6.octets()].concat(),
        Err(_) => [&[3, u8::try_from(to.len()).unwrap()][..], to.as_bytes()].concat(),
    };
    call.write_all(&[&[5, 1, 0][..], &address, &port.to_be_bytes()].concat()).unwrap();
    let mut answer = [0; 10];
    call.read_exact(&mut answer).unwrap();
    assert_eq!((answer[0], &answer[2..]), (5, &[0, 1, 0, 0, 0, 0, 0, 0][..]));
    (answer[1], call)
}

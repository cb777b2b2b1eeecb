//! Policies that istiod pushes while calls are made.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::Duration,
};

use crate::{
    harness::Test,
    resources::{allow, service, strict_mtls, workload},
    wait::{LIMIT, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("policies::a_policy_that_is_pushed_refuses_and_allows_from_its_answer_on", pushed),
    (
        "policies::callers_wait_for_a_policy_that_is_named_and_not_there_and_none_passes_without",
        awaited,
    ),
    ("policies::a_policy_that_is_pushed_cuts_exactly_the_calls_that_it_forbids", cut),
    ("policies::an_open_call_has_five_seconds_for_a_policy_in_a_busy_mesh_too", patient),
    ("policies::strict_mtls_as_istiod_says_it_keeps_plaintext_out", strict),
    ("policies::a_resource_that_is_refused_takes_no_other_with_it_and_names_itself", refused),
];

fn pushed() {
    let mut world = World::running();
    world.answered("web", "10.96.0.3:80");
    world.istiod.says(vec![
        allow("far-callers", &["db"]),
        workload("far", "n2", "10.77.0.3", &["far-callers"]),
    ]);
    world.refused("web", "10.96.0.3:80");
    world.answered("db", "10.96.0.3:80");
    world.istiod.says(vec![allow("far-callers", &["web"])]);
    world.answered("web", "10.96.0.3:80");
    world.refused("db", "10.96.0.3:80");
    world.istiod.says(vec![workload("far", "n2", "10.77.0.3", &[])]);
    world.istiod.takes_back("far-callers");
    world.answered("db", "10.96.0.3:80");
}

fn awaited() {
    let mut world = World::running();
    world.istiod.says(vec![workload("far", "n2", "10.77.0.3", &["far-callers"])]);
    let World { second, istiod, lab, .. } = &mut world;
    let (second, lab) = (&*second, &*lab);
    thread::scope(|scope| {
        let asked = scope.spawn(|| lab.ask("web", "10.96.0.3:80"));
        wait_until("the call has come to its node", LIMIT, || {
            second.http(lab, 15000, "GET /connections").contains("10.77.0.3:8080")
        });
        istiod.says(vec![allow("far-callers", &["web"])]);
        assert_eq!(asked.join().unwrap().unwrap(), "caller 10.77.0.1\nhello\n");
    });
    world.refused("db", "10.96.0.3:80");
    // This one never comes.
    world.istiod.says(vec![workload("far", "n2", "10.77.0.3", &["far-callers", "lost"])]);
    let mut call = world.lab.connect("web", "10.96.0.3:80").unwrap();
    call.set_read_timeout(Some(LIMIT)).unwrap();
    let heard = crate::wait::read_once(&mut call, &mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(heard, Err(ErrorKind::ConnectionReset));
    world.istiod.says(vec![workload("far", "n2", "10.77.0.3", &["far-callers"])]);
    world.answered("web", "10.96.0.3:80");
}

/// istiod names a policy in the workload first, and says what it is then.
fn cut() {
    let mut world = World::running();
    let mut calls = ["web", "db"].map(|pod| held(&world, pod));
    world.istiod.says(vec![workload("far", "n2", "10.77.0.3", &["far-callers"])]);
    for call in &mut calls {
        goes_on(call);
    }
    world.istiod.says(vec![allow("far-callers", &["web"])]);
    let [web, db] = &mut calls;
    assert_eq!(
        crate::wait::read_once(db, &mut [0; 1]).map_err(|e| e.kind()),
        Err(ErrorKind::ConnectionReset)
    );
    goes_on(web);
    let record = world.second.record("the call that was cut", |record| {
        record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/db"
    });
    assert!(record["error"].as_str().unwrap().contains("polic"), "{record}");
    // One that does not come is not waited for without end.
    world.istiod.says(vec![workload("far", "n2", "10.77.0.3", &["far-callers", "lost"])]);
    goes_on(web);
    web.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(
        crate::wait::read_once(web, &mut [0; 1]).map_err(|e| e.kind()),
        Err(ErrorKind::ConnectionReset)
    );
}

/// What else is told of the mesh takes nothing from the time that a policy has to come.
fn patient() {
    let mut world = World::running();
    let mut call = held(&world, "web");
    world.istiod.says(vec![service("db", "10.96.0.22")]);
    thread::sleep(Duration::from_millis(4500));
    world.istiod.says(vec![workload("far", "n2", "10.77.0.3", &["far-callers"])]);
    thread::sleep(Duration::from_millis(1500));
    world.istiod.says(vec![allow("far-callers", &["web"])]);
    goes_on(&mut call);
}

/// Asserts that an open call carries bytes both ways.
#[track_caller]
fn goes_on(call: &mut TcpStream) {
    call.write_all(b"ping").unwrap();
    call.read_exact(&mut [0; 4]).unwrap();
}

/// An open call to `far` that has already answered once.
fn held(world: &World, pod: &str) -> TcpStream {
    let mut call = world.lab.connect(pod, "10.96.0.3:80").unwrap();
    call.read_exact(&mut [0; 17]).unwrap();
    call
}

fn strict() {
    let mut world = World::running();
    world.answered("spy", "10.77.0.3:8080");
    world
        .istiod
        .says(vec![strict_mtls("far-strict"), workload("far", "n2", "10.77.0.3", &["far-strict"])]);
    world.refused("spy", "10.77.0.3:8080");
    world.answered("web", "10.96.0.3:80");
    world.answered("spy", "10.77.0.2:8080");
}

fn refused() {
    let mut world = World::running();
    let mut bad = workload("bad", "n2", "10.77.0.9", &[]);
    bad.resource.as_mut().unwrap().value = b"\x0a\xff".as_slice().into();
    let why = world.istiod.says_wrongly(vec![bad, workload("far", "n2", "10.77.0.3", &["lost"])]);
    assert!(why.iter().all(|why| why.contains("Kubernetes//Pod/shop/bad")), "{why:?}");
    world.istiod.says(vec![allow("lost", &["db"])]);
    world.refused("web", "10.96.0.3:80");
    world.answered("db", "10.96.0.3:80");
}

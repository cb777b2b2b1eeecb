//! Policies that istiod pushes while calls are made.

use std::{
    io::{ErrorKind, Read as _},
    thread,
};

use crate::{
    harness::Test,
    resources::{allow, workload},
    wait::{LIMIT, wait_until},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("policies::a_policy_that_is_pushed_refuses_and_allows_from_its_answer_on", pushed),
    (
        "policies::callers_wait_for_a_policy_that_is_named_and_not_there_and_none_passes_without",
        awaited,
    ),
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
    let heard = call.read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(heard, Err(ErrorKind::ConnectionReset));
    world.istiod.says(vec![workload("far", "n2", "10.77.0.3", &["far-callers"])]);
    world.answered("web", "10.96.0.3:80");
}

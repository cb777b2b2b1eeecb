//! Policies that istiod pushes while calls are made.

use crate::{
    harness::Test,
    resources::{allow, workload},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("policies::a_policy_that_is_pushed_refuses_and_allows_from_its_answer_on", pushed),
    ("policies::a_pod_is_closed_until_each_policy_that_it_names_is_there", awaited),
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
    world.refused("web", "10.96.0.3:80");
    world.istiod.says(vec![allow("far-callers", &["web"])]);
    world.answered("web", "10.96.0.3:80");
    world.refused("db", "10.96.0.3:80");
}

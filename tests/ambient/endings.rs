//! How a node ends.

use nix::sys::signal::Signal;

use crate::{
    harness::Test,
    process::{command_of, ended},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("endings::quitquitquit_and_sigterm_end_it_with_exit_code_0", ends),
    ("endings::an_environment_with_a_fault_ends_it_with_exit_code_3_and_all_are_named", faulty),
];

fn faulty() {
    for (variables, named) in [
        (&[("XDS_ADDRESS", ""), ("CA_ADDRESS", "")][..], &["XDS_ADDRESS", "CA_ADDRESS"][..]),
        (&[("XDS_ADDRESS", "istiod:1"), ("CA_ADDRESS", "")], &["CA_ADDRESS"]),
        (&[("PROXY_CONFIG", "discoveryAddress: ''"), ("CA_ADDRESS", "ca:1")], &["PROXY_CONFIG"]),
        (&[("ENABLE_PROXY", "yes"), ("CA_ADDRESS", "")], &["ENABLE_PROXY", "CA_ADDRESS"]),
    ] {
        let mut adit = command_of(["proxy", "ztunnel"]);
        adit.env_clear().envs(variables.iter().copied());
        let (code, said) = ended(adit);
        assert_eq!(code, 3, "{variables:?}: {said}");
        for name in named {
            let told = said.lines().any(|line| line.starts_with(&format!("{name}:")));
            assert!(told, "{name}: {said}");
        }
        let faults = adit::identity::counted(named.len(), "error");
        assert!(said.contains(&format!("{faults} in the environment")), "{said}");
    }
}

fn ends() {
    let mut world = World::running();
    world.answered("web", "10.96.0.3:80");
    let said = world.first.http(&world.lab, 15000, "GET /quitquitquit");
    assert!(said.starts_with("HTTP/1.1 405"), "{said}");
    world.answered("web", "10.96.0.3:80");
    let said = world.first.http(&world.lab, 15000, "POST /quitquitquit");
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("shutdown now\n"), "{said}");
    world.second.adit().signal(Signal::SIGTERM);
    for node in [&mut world.first, &mut world.second] {
        assert_eq!(node.ends().code(), Some(0));
    }
    assert!(world.lab.connect("far", "[::1]:15008").is_err());
}

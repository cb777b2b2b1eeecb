//! How a node ends.

use nix::sys::signal::Signal;

use crate::{harness::Test, world::World};

pub(crate) const TESTS: &[Test] =
    &[("endings::quitquitquit_and_sigterm_end_it_with_exit_code_0", ends)];

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

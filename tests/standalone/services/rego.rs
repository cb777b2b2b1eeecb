//! Rego policies of several services in one process.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, thread};

use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};

use super::world::{Backend, Proxy, World, free_port};
use crate::wait::{LIMIT, wait_until};

fn world() -> World {
    let world = World::new();
    for name in ["web", "job", "slow"] {
        world.sign(name, name, None);
    }
    world
}

fn allows(name: &str) -> String {
    format!("package p\nok {{ input.certificate.Subject.CommonName == \"{name}\" }}\n")
}

/// An edit of the services that takes its time to be opened, and a policy that is written
/// meanwhile.
#[test]
fn a_policy_that_changes_while_services_are_exchanged_is_not_lost() {
    let (world, db) = (world(), Backend::start("db"));
    let (port, later) = (free_port(), free_port());
    let file = world.write("p.rego", &allows("job"));
    let allow = format!("allow: {{ rego: {{ file: {}, query: data.p.ok }} }}", file.display());
    let first = world.server("s", port, db.addr, &allow);
    let mut adit = Proxy::start(&world, &first);
    assert_eq!(world.call("job", port).unwrap().name, "db");

    let certificate = std::fs::read(world.file("server.crt")).unwrap();
    let pipe = world.file("pipe.crt");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let second = world.server("t", later, db.addr, "allow: { all: true }");
    let second = second.replace("server.crt", "pipe.crt");
    world.write("services.yaml", &format!("services:\n{first}{second}"));
    // It can be opened once adit reads it, and adit waits for what it says.
    let open = || OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&pipe);
    let mut written = None;
    wait_until("adit opens the new service", LIMIT, || {
        written = open().ok();
        written.is_some()
    });
    world.write("p.rego", &allows("web"));
    written.take().unwrap().write_all(&certificate).unwrap();
    adit.wait("configuration reloaded");
    wait_until("the new policy is in force", LIMIT, || world.call("job", port).is_err());
    assert_eq!(world.call("web", port).unwrap().name, "db");
}

/// More callers than there are threads for such things. A connection has longer for all of it than
/// a busy machine takes to serve the other service.
#[test]
fn a_slow_policy_does_not_hold_up_that_of_another_service() {
    let (world, db) = (world(), Backend::start("db"));
    let (slow, quick) = (free_port(), free_port());
    let burn = "package p\nok {\n  a := numbers.range(1, 9000)[_]\n  b := numbers.range(1, \
                9000)[_]\n  a * b == -1\n}\n";
    let rego = |name: &str, text: &str| {
        let file = world.write(name, text);
        let limit = "timeouts: { connect: 2m }";
        format!("allow: {{ rego: {{ file: {}, query: data.p.ok }} }}, {limit}", file.display())
    };
    let services = world.server("slow", slow, db.addr, &rego("slow.rego", burn))
        + &world.server("quick", quick, db.addr, &rego("quick.rego", &allows("web")));
    let adit = Proxy::start(&world, &services);
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..80).map(|_| scope.spawn(|| world.call("slow", slow).is_ok())).collect();
        wait_until("all that may be decided at once are", LIMIT, || adit.threads("blocking") >= 16);
        let answered = world.call("web", quick).map(|call| call.name);
        let waiting = callers.iter().filter(|caller| !caller.is_finished()).count();
        drop(adit);
        assert_eq!(answered.as_deref(), Ok("db"));
        assert!(waiting > 0, "the policy is not slow");
        assert!(callers.into_iter().all(|caller| !caller.join().unwrap()));
    });
}

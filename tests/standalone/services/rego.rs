//! Rego policies of several services in one process.

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use super::world::{Backend, Proxy, World, free_port};
use crate::{
    pipe,
    wait::{LIMIT, wait_until},
};

fn world() -> World {
    let world = World::new();
    for name in ["web", "job", "slow"] {
        world.sign(name, name, None);
    }
    world
}

/// Takes all the time that it is given.
const BURN: &str = "package p\nok {\n  a := numbers.range(1, 9000)[_]\n  b := numbers.range(1, 9000)[_]\n  a * b == -1\n}\n";

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
    let at = world.file("pipe.crt");
    pipe::put(&at);
    let second = world.server("t", later, db.addr, "allow: { all: true }");
    let second = second.replace("server.crt", "pipe.crt");
    world.write("services.yaml", &format!("services:\n{first}{second}"));
    // adit opens the new service, and waits for what the pipe says.
    let mut written = pipe::read_by_adit(&at);
    world.write("p.rego", &allows("web"));
    written.write_all(&certificate).unwrap();
    drop(written);
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
    let rego = |name: &str, text: &str| {
        let file = world.write(name, text);
        let limit = "timeouts: { connect: 2m }";
        format!("allow: {{ rego: {{ file: {}, query: data.p.ok }} }}, {limit}", file.display())
    };
    let services = world.server("slow", slow, db.addr, &rego("slow.rego", BURN))
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

/// Bans of the service in the place of one that drains do not wait for its policy: neither those
/// that come with it, nor those that come while the policy is being asked.
#[test]
fn a_slow_policy_of_an_edited_service_does_not_hold_up_its_bans() {
    let (world, db) = (World::new(), Backend::start("db"));
    let id = |name: &str| format!("spiffe://td/ns/prod/sa/{name}");
    for name in ["job", "first", "second"] {
        world.sign(name, name, Some(&id(name)));
    }
    let port = free_port();
    let before = world.server("s", port, db.addr, "allow: { all: true }");
    let mut adit = Proxy::start(&world, &before);
    // More than are asked about at once; those who are to be banned come last.
    let names = ["job"; 30].into_iter().chain(["first", "second"]);
    let mut open: Vec<_> = names.map(|name| world.call(name, port).unwrap()).collect();
    let (rego, bans) = (world.write("p.rego", BURN), world.write("bans", &id("first")));
    let allow = format!(
        "allow: {{ rego: {{ file: {}, query: data.p.ok }} }}, bans: {}, timeouts: {{ connect: 20s }}",
        rego.display(),
        bans.display()
    );
    adit.edit(&world.server("s", port, db.addr, &allow));
    let begun = Instant::now();
    adit.wait("identity_banned");
    world.write("bans", &format!("{}\n{}\n", id("first"), id("second")));
    adit.wait("identity_banned");
    // None of the others has been judged by then.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let (second, first, job) = (open.pop().unwrap(), open.pop().unwrap(), open.pop().unwrap());
    for (mut call, stays) in [(first, false), (second, false), (job, true)] {
        assert_eq!(call.echo("still").is_ok(), stays);
    }
    adit.wait("policy_changed");
}

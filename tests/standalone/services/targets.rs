//! Several targets: one that fails, one that is unhealthy, one that is somebody else.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use super::world::{Backend, Proxy, World, call_plain, free_port, http};

const ALL: &str = "allow: { all: true }";

fn several(world: &World, port: u16, targets: &[std::net::SocketAddr], more: &str) -> String {
    let list: Vec<_> = targets.iter().map(|target| format!("'{target}'")).collect();
    let one = world.server("s", port, targets[0], &format!("{more}, {ALL}"));
    let was = format!("target: '{}'", targets[0]);
    one.replace(&was, &format!("targets: [{}]", list.join(", ")))
}

#[test]
fn the_next_target_is_taken_when_one_fails_and_the_first_when_it_is_back() {
    let world = World::new();
    world.sign("a", "a", None);
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    let port = free_port();
    let health = "health: { interval: 200ms, timeout: 1s }";
    let yaml = several(&world, port, &[first.addr, second.addr], health);
    let mut adit = Proxy::start(&world, &yaml);
    assert_eq!(world.call("a", port).unwrap().name, "first");
    let addr = first.addr;
    drop(first);
    assert_eq!(world.call("a", port).unwrap().name, "second", "without a word of the caller");
    adit.wait("target is unhealthy");
    let first = Backend::at("first", addr);
    adit.wait("target is healthy");
    assert_eq!(world.call("a", port).unwrap().name, "first");
    drop(first);
}

#[test]
fn in_turn() {
    let world = World::new();
    world.sign("a", "a", None);
    let backends = ["x", "y", "z"].map(Backend::start);
    let port = free_port();
    let addrs = backends.each_ref().map(|b| b.addr);
    let more = "balance: roundRobin, health: { interval: 1h }";
    let adit = Proxy::start(&world, &several(&world, port, &addrs, more));
    let names: Vec<_> = (0..6).map(|_| world.call("a", port).unwrap().name).collect();
    assert_eq!(names, ["x", "y", "z", "x", "y", "z"]);
    assert_eq!(adit.stop(), 0);
}

#[test]
fn one_that_answers_no_200_is_left_out_and_all_are_tried_when_all_are() {
    let world = World::new();
    world.sign("a", "a", None);
    let (well, port) = (Arc::new(AtomicBool::new(true)), free_port());
    let asked = http(Arc::clone(&well));
    let db = Backend::start("db");
    let more = format!(
        "health: {{ interval: 100ms, timeout: 1s, http: 'http://{asked}/healthz' }}, {ALL}"
    );
    let mut adit = Proxy::start(&world, &world.server("s", port, db.addr, &more));
    well.store(false, SeqCst);
    let line = adit.wait("target is unhealthy");
    assert!(line.contains("GET /healthz answered 503"), "{line}");
    assert_eq!(world.call("a", port).unwrap().name, "db", "there is no other");
    well.store(true, SeqCst);
    adit.wait("target is healthy");
    assert_eq!(db.calls.load(SeqCst), 1, "it is not asked itself");
}

#[test]
fn a_client_goes_on_to_the_target_that_is_whom_it_wants() {
    let world = World::new();
    world.sign("a", "a", None);
    world.sign("impostor", "impostor", Some("spiffe://td/ns/prod/sa/other"));
    let [wrong, right, plain] = [free_port(), free_port(), free_port()];
    let (bad, good) = (Backend::start("bad"), Backend::start("good"));
    let server = world.server("right", right, good.addr, ALL);
    let impostor = world.server("wrong", wrong, bad.addr, ALL).replace("server.", "impostor.");
    let client = format!(
        "- {{ name: out, mode: client, listen: 'localhost:{plain}', targets: ['localhost:{wrong}', \
         'localhost:{right}'], {}, verify: {{ ids: ['spiffe://td/ns/prod/sa/server'] }} }}\n",
        world.credential("a")
    );
    let mut adit = Proxy::start(&world, &(impostor + &server + &client));
    let mut call = call_plain(plain).unwrap();
    call.echo("x").unwrap();
    assert_eq!(call.name, "good");
    let line = adit.wait("target failed");
    assert!(line.contains("matches no rule"), "{line}");
    assert_eq!(call_plain(plain).unwrap().name, "good", "the other is left out");
}

#[test]
fn flags_take_several_targets_too() {
    let world = World::new();
    world.sign("a", "a", None);
    let db = Backend::start("db");
    let (port, nobody) = (free_port(), free_port());
    let [crt, key, ca] = ["server.crt", "server.key", "ca.crt"].map(|f| world.file(f));
    let [listen, dead, live] =
        [format!("127.0.0.1:{port}"), format!("127.0.0.1:{nobody}"), db.addr.to_string()];
    let args = [
        "server",
        "--listen",
        &listen,
        "--target",
        &dead,
        "--target",
        &live,
        "--allow-all",
        "--cert",
        crt.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
        "--cacert",
        ca.to_str().unwrap(),
    ];
    let mut adit = Proxy::with(&args, &crt);
    adit.wait("listening");
    assert_eq!(world.call("a", port).unwrap().name, "db");
    adit.says("target is unhealthy");
    assert_eq!(adit.stop(), 0);
}

#[test]
fn each_target_must_have_its_own_name() {
    let world = World::new();
    world.sign("a", "a", None);
    world.sign("named", "named", None);
    let [tls, plain, dead] = [free_port(), free_port(), free_port()];
    let db = Backend::start("db");
    let server = world.server("in", tls, db.addr, ALL).replace("server.", "named.");
    let client = |targets: &str| {
        format!(
            "- {{ name: out, mode: client, listen: 'localhost:{plain}', targets: [{targets}], {} \
             }}\n",
            world.credential("a")
        )
    };
    let right = format!("'127.0.0.1:{dead}', 'localhost:{tls}'");
    let mut adit = Proxy::start(&world, &(server.clone() + &client(&right)));
    assert_eq!(call_plain(plain).unwrap().name, "db");
    let wrong = format!("'localhost:{dead}', '127.0.0.1:{tls}'");
    adit.edit(&(server + &client(&wrong)));
    assert!(call_plain(plain).is_err(), "the certificate is not for 127.0.0.1");
}

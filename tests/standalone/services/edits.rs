//! The file is edited while connections are open.

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant, SystemTime},
};

use nix::sys::signal::Signal;

use super::world::{Backend, Proxy, World, call_plain, free_port};
use crate::{
    pipe,
    wait::{LIMIT, wait_until},
};

const ALL: &str = "allow: { all: true }";
const DRAIN: &str = "drain: { deadline: 500ms }\n";

#[test]
fn a_server_and_a_client_of_one_file_carry_to_each_other() {
    let world = World::new();
    let db = Backend::start("db");
    let (tls, plain) = (free_port(), free_port());
    world.sign("app", "app", None);
    let client = format!(
        "- {{ name: out, mode: client, listen: 'localhost:{plain}', target: 'localhost:{tls}', {}, \
         verify: {{ ids: ['spiffe://td/ns/prod/sa/server'] }} }}\n",
        world.credential("app")
    );
    let server = world.server("in", tls, db.addr, "allow: { commonNames: [app] }");
    let adit = Proxy::start(&world, &(server + &client));
    let mut call = call_plain(plain).unwrap();
    assert_eq!(call.name, "db");
    call.echo("through both").unwrap();
    drop(call);
    assert_eq!(adit.stop(), 0);
}

#[test]
fn services_come_change_and_go_while_others_carry_on() {
    let world = World::new();
    world.sign("a", "a", None);
    world.sign("b", "b", None);
    let (one, two) = (Backend::start("one"), Backend::start("two"));
    let [kept, edited, added] = [free_port(), free_port(), free_port()];
    let kept_yaml = world.server("kept", kept, one.addr, ALL);
    let only_a = world.server("edited", edited, one.addr, "allow: { commonNames: [a] }");
    let mut adit = Proxy::start(&world, &format!("{kept_yaml}{only_a}{DRAIN}"));
    let mut long = world.call("a", kept).unwrap();
    let mut old = world.call("a", edited).unwrap();

    // Another target and another caller; a service more. One listener is kept, so nobody who
    // calls in between is refused by the kernel.
    let only_b = world.server("edited", edited, two.addr, "allow: { commonNames: [b] }");
    let more = world.server("added", added, two.addr, ALL);
    let line = adit.edit(&format!("{kept_yaml}{only_b}{more}{DRAIN}"));
    assert!(line.contains("added=\"added\"") && line.contains("changed=\"edited\""), "{line}");
    assert_eq!(world.call("b", edited).unwrap().name, "two");
    assert!(world.call("a", edited).is_err(), "a is no longer named");
    assert_eq!(world.call("a", added).unwrap().name, "two");
    wait_until("who is no longer named is closed", LIMIT, || old.echo("x").is_err());

    let line = adit.edit(&format!("{kept_yaml}{DRAIN}"));
    assert!(line.contains("removed=\"edited, added\""), "{line}");
    wait_until("nobody listens", LIMIT, || {
        let refused = |port| world.call("a", port).is_err_and(|e| e.contains("refused"));
        refused(edited) && refused(added)
    });
    long.echo("still here").unwrap();
    drop(long);
    assert_eq!(adit.stop(), 0);
}

/// The sockets that listen at a port, as the kernel numbers them.
fn listeners(port: u16) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listens = |row: &Vec<&str>| row[1].ends_with(&format!(":{port:04X}")) && row[3] == "0A";
    rows.skip(1).filter(listens).map(|row| row[9].to_owned()).collect()
}

#[test]
#[cfg_attr(not(feature = "rego"), ignore = "needs the cargo feature rego")]
fn a_service_stays_untouched_while_only_a_comment_or_another_service_is_edited() {
    let world = World::new();
    world.sign("a", "a", None);
    let db = Backend::start("db");
    let [kept, other] = [free_port(), free_port()];
    let rego = world.write("p.rego", "package p\nok { true }");
    let rego = format!("allow: {{ rego: {{ file: {}, query: data.p.ok }} }}", rego.display());
    let kept_yaml = world.server("kept", kept, db.addr, &rego);
    let other_yaml = |more: &str| world.server("other", other, db.addr, &format!("{ALL}{more}"));
    let mut adit = Proxy::start(&world, &format!("{kept_yaml}{}{DRAIN}", other_yaml("")));
    let mut long = world.call("a", kept).unwrap();
    let sockets = listeners(kept);
    assert_eq!(sockets.len(), 1);

    let commented = format!("# About this service.\n{kept_yaml}");
    for (file, changed) in [
        (format!("{commented}{}{DRAIN}", other_yaml("")), ""),
        (format!("\n\n{commented}{}# The end.\n{DRAIN}", other_yaml("")), ""),
        (format!("{commented}{}{DRAIN}", other_yaml(", maxConnections: 7")), "other"),
        (format!("{}{commented}{DRAIN}", other_yaml(", maxConnections: 7")), ""),
    ] {
        let line = adit.edit(&file);
        let says = format!("added=\"\" changed=\"{changed}\" removed=\"\"");
        assert!(line.contains(&says), "{file}: {line}");
        long.echo("still here").unwrap();
        assert_eq!(listeners(kept), sockets, "the same socket listens");
    }
    let made = |line: &&String| line.contains("listening") && line.contains("service=\"kept\"");
    assert_eq!(adit.seen().iter().filter(made).count(), 1, "{:#?}", adit.seen());
    drop(long);
    assert_eq!(adit.stop(), 0);
}

/// What no log shows is compared like anything else.
#[test]
fn a_new_password_of_a_forward_proxy_is_a_change() {
    let world = World::new();
    let (proxy, plain) = (free_port(), free_port());
    let out = |password: &str| {
        format!(
            "- {{ name: out, mode: client, listen: 'localhost:{plain}', target: \
             'db.example.org:5432', {}, proxy: 'http://me:{password}@127.0.0.1:{proxy}' }}\n",
            world.credential("server")
        )
    };
    let mut adit = Proxy::start(&world, &out("one"));
    let line = adit.edit(&out("two"));
    assert!(line.contains("changed=\"out\""), "{line}");
    let line = adit.edit(&format!("{}#\n", out("two")));
    assert!(line.contains("changed=\"\""), "{line}");
    assert!(!adit.seen().concat().contains("me:"), "a password is in the log");
}

/// What waits for a restart is named with its key and its line.
#[test]
fn each_setting_that_waits_for_a_restart_is_named_with_its_line() {
    let world = World::new();
    let db = Backend::start("db");
    let server = world.server("s", free_port(), db.addr, ALL);
    let mut adit = Proxy::start(&world, &format!("{server}workers: 2\n"));
    adit.edit(&format!("{server}workers: 2\n\naccessLog:\n  format: json\n"));
    let line = 1 + server.lines().count() + 3;
    adit.says(&format!("services.yaml:{line}): takes effect after a restart"));
    let said = |line: &&String| line.contains("after a restart");
    let seen = adit.seen();
    let said: Vec<_> = seen.iter().filter(said).collect();
    assert!(said.len() == 1 && said[0].contains("accessLog (/"), "{said:?}");
}

/// Dashboards show since when the configuration is in use.
#[test]
fn a_start_and_each_accepted_edit_set_the_time_of_the_configuration() {
    let world = World::new();
    let db = Backend::start("db");
    let [first, second, status] = [free_port(), free_port(), free_port()];
    let loaded = || -> u64 {
        let text = scrape(status);
        let line = text.lines().find(|l| l.starts_with("adit_config_loaded_timestamp_seconds "));
        line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    };
    let at = format!("status: {{ listen: 'http://127.0.0.1:{status}' }}\n");
    let first = world.server("first", first, db.addr, ALL);
    let second = world.server("second", second, db.addr, ALL);
    let mut adit = Proxy::start(&world, &format!("{first}{at}"));
    wait_until("it is set", LIMIT, || loaded() > 0);
    let before = loaded();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    wait_until("the clock shows another second", LIMIT, || now() > before);
    adit.edit(&format!("{first}{second}{at}"));
    wait_until("it is that of the edit", LIMIT, || loaded() > before);
    assert_eq!(adit.stop(), 0);
}

/// The metrics of the process whose status is at this port.
fn scrape(status: u16) -> String {
    let mut text = String::new();
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", status)) else { return text };
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let get = "GET /_metrics/prometheus HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(get.as_bytes()).unwrap();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Series that stayed would look like a certificate that nobody renews.
#[test]
fn the_certificate_of_a_removed_service_is_not_in_the_metrics() {
    let world = World::new();
    world.sign("old", "old", Some("spiffe://td/ns/prod/sa/old"));
    let db = Backend::start("db");
    let [kept, removed, status] = [free_port(), free_port(), free_port()];
    let scraped = || -> Vec<String> {
        let ours = |line: &&str| line.starts_with("adit_svid_not_after_seconds{");
        scrape(status).lines().filter(ours).map(str::to_owned).collect()
    };
    let at = format!("status: {{ listen: 'http://127.0.0.1:{status}' }}\n");
    let kept = world.server("kept", kept, db.addr, ALL);
    let old = world.server("old", removed, db.addr, ALL);
    let old = old.replace("server.crt", "old.crt").replace("server.key", "old.key");
    let mut adit = Proxy::start(&world, &format!("{kept}{old}{at}"));
    wait_until("both certificates are there", LIMIT, || scraped().len() == 2);
    adit.edit(&format!("{kept}{at}"));
    wait_until("one is left", LIMIT, || scraped().len() == 1);
    let left = scraped();
    assert!(left[0].contains("sa/server"), "{left:?}");
    assert_eq!(adit.stop(), 0);
}

#[test]
fn a_changed_listener_never_refuses() {
    let world = World::new();
    world.sign("a", "a", None);
    let db = Backend::start("db");
    let port = free_port();
    let file = |n: u32| {
        let server = world.server("s", port, db.addr, &format!("maxConnections: {n}, {ALL}"));
        // Longer than a call takes on a busy machine.
        format!("{server}drain: {{ deadline: 30s }}\n")
    };
    let mut adit = Proxy::start(&world, &file(100));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut calls = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) && calls < 10_000 {
                let mut call = world.call("a", port).expect("never refused");
                call.echo("x").expect("never cut before its deadline");
                calls += 1;
            }
            calls
        });
        for n in 101..104 {
            let line = adit.edit(&file(n));
            assert!(line.contains("changed=\"s\""), "{line}");
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(caller.join().unwrap() > 0);
    });
}

/// The median of three edits is asked for: a busy machine may be late with one.
#[test]
fn an_edit_is_in_use_within_a_second() {
    let world = World::new();
    world.sign("a", "a", None);
    let db = Backend::start("db");
    let [port, next] = [free_port(), free_port()];
    let one = world.server("s", port, db.addr, ALL);
    let two = one.clone() + &world.server("t", next, db.addr, ALL);
    let mut adit = Proxy::start(&world, &one);
    let mut took = [&two, &one, &two].map(|services| {
        let began = Instant::now();
        let line = adit.edit(services);
        assert!(line.contains("reloaded"), "{line}");
        began.elapsed()
    });
    took.sort();
    assert!(took[1] < Duration::from_secs(1), "{took:?}");
    assert_eq!(world.call("a", next).unwrap().name, "db");
}

#[test]
fn a_bad_file_changes_nothing() {
    let world = World::new();
    world.sign("a", "a", None);
    let db = Backend::start("db");
    let port = free_port();
    let good = world.server("s", port, db.addr, ALL);
    let mut adit = Proxy::start(&world, &good);
    let mut open = world.call("a", port).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().port();
    for (bad, says) in [
        (good.replace("allow", "alow"), "did you mean allow?"),
        (good.replace("127.0.0.1:", "127.0.0.1:x"), "port"),
        (format!("{good}- ["), "not YAML"),
        (
            good.clone() + &world.server("t", taken, db.addr, ALL),
            "another process is listening there",
        ),
        (good.replace("server.crt", "no.crt"), "no.crt"),
        (good.replace(&db.addr.to_string(), "192.0.2.1:1"), "plaintext would leave this host"),
    ] {
        let line = adit.edit(&bad);
        assert!(line.contains("rejected") && line.contains(says), "{says}: {line}");
        open.echo("carried on").unwrap();
        assert_eq!(world.call("a", port).unwrap().name, "db");
    }
    // Two services exchange their places: each takes the listener that the other had.
    let other = free_port();
    let two = |a, b| world.server("s", a, db.addr, ALL) + &world.server("t", b, db.addr, ALL);
    adit.edit(&two(port, other));
    let line = adit.edit(&two(other, port));
    assert!(line.contains("changed=\"s, t\""), "{line}");
    assert_eq!(world.call("a", other).unwrap().name, "db");
}

#[test]
fn sighup_reads_the_file_and_the_certificates() {
    let world = World::new();
    world.sign("a", "a", None);
    let db = Backend::start("db");
    let [port, next] = [free_port(), free_port()];
    let first = world.server("s", port, db.addr, ALL);
    let mut adit = Proxy::start(&world, &first);
    let mut open = world.call("a", port).unwrap();
    world.sign("server", "server-2", None);
    let both = first + &world.server("t", next, db.addr, ALL);
    world.write("services.yaml", &format!("services:\n{both}"));
    adit.signal(Signal::SIGHUP);
    adit.wait("configuration reloaded");
    adit.wait("reloaded");
    assert_eq!(world.call("a", next).unwrap().name, "db");
    open.echo("kept").unwrap();
    // A key that is not that of the certificate is not taken.
    let other = std::fs::read(world.file("a.key")).unwrap();
    std::fs::write(world.file("server.key"), other).unwrap();
    adit.signal(Signal::SIGHUP);
    adit.wait("keeping the previous ones");
    assert_eq!(world.call("a", port).unwrap().name, "db");
}

#[test]
fn a_unix_socket_goes_with_its_service() {
    let world = World::new();
    let db = Backend::start("db");
    let socket = world.file("s.sock");
    let yaml = world.server("s", 1, db.addr, ALL);
    let yaml = yaml.replace("'127.0.0.1:1'", &format!("'unix:{}'", socket.display()));
    let mut adit = Proxy::start(&world, &yaml);
    assert!(socket.exists());
    adit.edit(&yaml.replace("all: true", "commonNames: [x]"));
    assert!(socket.exists(), "kept for the changed service");
    adit.edit("  []\n");
    wait_until("it is removed", LIMIT, || !socket.exists());
}

/// Somebody has put a pipe there, or its mount hangs.
#[test]
fn a_file_that_cannot_be_read_keeps_no_signal_waiting() {
    let world = World::new();
    let db = Backend::start("db");
    let bans = pipe::by_proc(&world.file("bans"));
    let more = format!("{ALL}, bans: {}", bans.display());
    let service = || world.server("s", free_port(), db.addr, &more);
    let start = |services: &str| {
        let file = world.write("services.yaml", &format!("services:\n{services}"));
        let by_proc = pipe::by_proc(&file);
        let mut adit = Proxy::with(&["proxy", "-c", by_proc.to_str().unwrap()], &file);
        adit.wait("listening");
        adit
    };
    world.write("bans", "");
    for name in ["services.yaml", "bans"] {
        let adit = start(&service());
        pipe::put(&world.file(name));
        let _held = pipe::read_by_adit(&world.file(name));
        let begun = Instant::now();
        assert_eq!(adit.stop(), 0);
        assert!(begun.elapsed() < Duration::from_secs(3), "{name}: {:?}", begun.elapsed());
        std::fs::remove_file(world.file(name)).unwrap();
    }
    // It is given up, and what comes in its place is read.
    world.write("bans", "");
    let good = service();
    let mut adit = start(&good);
    pipe::put(&world.file("services.yaml"));
    let line = adit.wait("configuration rejected");
    assert!(line.contains("could not be read within 15s"), "{line}");
    std::fs::remove_file(world.file("services.yaml")).unwrap();
    let line = adit.edit(&good.replace("all: true", "commonNames: [x]"));
    assert!(line.contains("reloaded"), "{line}");
}

/// The process that made a path is the one that may remove it: what the next process does not
/// listen on goes with the one before it.
#[test]
fn a_unix_socket_that_the_next_process_does_not_have_goes_at_the_takeover() {
    let world = World::new();
    let db = Backend::start("db");
    let service = |name: &str| {
        let yaml = world.server(name, 1, db.addr, ALL);
        let at = world.file(&format!("{name}.sock"));
        yaml.replace("'127.0.0.1:1'", &format!("'unix:{}'", at.display()))
    };
    let start = |services: &str| {
        let meet = world.file("takeover.sock");
        let file = format!("takeover: 'unix:{}'\nservices:\n{services}", meet.display());
        let file = world.write("services.yaml", &file);
        Proxy::with(&["proxy", "-c", file.to_str().unwrap()], &file)
    };
    let mut old = start(&(service("stays") + &service("goes")));
    old.wait("listening");
    old.wait("listening");
    let (stays, goes) = (world.file("stays.sock"), world.file("goes.sock"));
    assert!(stays.exists() && goes.exists());
    let mut new = start(&service("stays"));
    new.wait("took over from the previous process");
    old.wait("another process has taken over");
    assert_eq!(old.ends().code(), Some(0));
    assert!(stays.exists(), "it is the next process's");
    assert!(!goes.exists(), "no process is listening there");
    assert_eq!(new.stop(), 0);
    assert!(!stays.exists());
}

/// They have no more time than the edit left them, and the process ends after that.
#[test]
fn connections_of_a_removed_service_that_are_cut_after_sigterm_are_in_the_exit_code() {
    let world = World::new();
    world.sign("a", "a", None);
    let db = Backend::start("db");
    let [port, next] = [free_port(), free_port()];
    let [first, second] = [("s", port), ("t", next)].map(|(n, p)| world.server(n, p, db.addr, ALL));
    let mut adit = Proxy::start(&world, &first);
    let text = |services: &str| format!("services:\n{services}drain: {{ deadline: 3s }}\n");
    world.write("services.yaml", &text(&first));
    adit.wait("configuration reloaded");
    let mut open = world.call("a", port).unwrap();
    world.write("services.yaml", &text(&second));
    adit.wait("configuration reloaded");
    open.echo("still").unwrap();
    assert_eq!(adit.stop(), 1);
}

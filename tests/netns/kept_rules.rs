//! Rules of a pod that leaves while another of its namespace comes: they stay for that one, also
//! when the process ends or another takes over, and go once nobody is to have them.

use std::time::Duration;

use crate::{
    lab::Lab,
    mesh::{PODS, allow, held},
    strict::outsider_is_answered,
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("kept_rules::a_stop_leaves_those_of_a_pod_whose_predecessor_still_drains", stop),
    ("kept_rules::who_interrupts_a_drain_finds_those_removed_that_are_not_to_stay", interrupted),
    ("kept_rules::a_process_that_is_succeeded_removes_none_of_its_successors", takeover),
    ("kept_rules::those_kept_for_a_pod_that_goes_elsewhere_are_removed", elsewhere),
    ("kept_rules::an_edit_that_changes_them_is_no_fault", edits),
];

const TABLES: [&str; 3] = ["adit-nat", "adit-mangle", "adit-filter"];

/// Another name of the pod in the same namespace.
fn renamed() -> String {
    allow(&["web"])
        .replace("name: db, namespace", "name: db2, namespace")
        .replace("[shop/db]", "[shop/db2]")
}

fn stand(lab: &Lab) -> bool {
    let tables = lab.tool("db", "nft list tables");
    TABLES.iter().all(|table| tables.contains(table))
}

/// A mesh in which db has been renamed, and has a connection that keeps the one before draining.
fn renamed_while_it_drains(lab: &mut Lab) -> std::net::TcpStream {
    lab.drain = "60s";
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    let open = held(lab, "web");
    lab.write_mesh(&renamed());
    lab.wait("renamed", || {
        lab.log().lines().any(|l| l.contains("pod attached") && l.contains("shop/db2"))
    });
    assert!(!lab.log().contains("pod detached"), "the one before drains: {}", lab.log());
    open
}

fn stop() {
    let mut lab = Lab::new(PODS);
    let _open = renamed_while_it_drains(&mut lab);
    lab.signal(nix::sys::signal::Signal::SIGTERM);
    lab.wait("stopping", || lab.log().contains("shutting down: draining"));
    lab.signal(nix::sys::signal::Signal::SIGINT);
    assert!(lab.stop_dead().success());
    assert!(stand(&lab), "{}", lab.tool("db", "nft list tables"));
    assert!(!outsider_is_answered(&lab), "plaintext is refused until adit runs again");
}

fn interrupted() {
    let mut lab = Lab::new(PODS);
    lab.capture = "rules: nft, onStop: remove";
    lab.drain = "60s";
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    let _open = held(&lab, "web");
    lab.signal(nix::sys::signal::Signal::SIGTERM);
    lab.wait("stopping", || lab.log().contains("shutting down: draining"));
    assert!(stand(&lab), "while it drains");
    lab.signal(nix::sys::signal::Signal::SIGINT);
    assert!(lab.stop_dead().success());
    for (pod, _) in PODS {
        assert_eq!(lab.tool(pod, "nft list tables"), "", "{pod}: {}", lab.log());
        assert_eq!(lab.tool(pod, "ip rule show priority 32764"), "", "{pod}");
    }
}

fn takeover() {
    let mut lab = Lab::new(PODS);
    lab.hands_over();
    let open = renamed_while_it_drains(&mut lab);
    let mut old = lab.take_over("mesh.yaml");
    lab.wait("taken over", || lab.log().contains("took over from the previous process"));
    assert!(old.runs(), "it drains: {}", old.log());
    drop(open);
    assert_eq!(old.ends().code(), Some(0), "{}", old.log());
    assert!(stand(&lab), "{}", lab.tool("db", "nft list tables"));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!lab.log().contains("another program changed"), "{}", lab.log());
}

/// The successor has an address that the namespace does not have; then it is said to be elsewhere.
fn elsewhere() {
    let mut lab = Lab::new(PODS);
    lab.drain = "1s";
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    let waits = renamed().replace("10.77.0.2, 'fd77::2'", "10.77.0.22");
    lab.write_mesh(&waits);
    lab.wait("it has left", || lab.log().contains("pod detached"));
    lab.wait("it waits", || lab.log().contains("10.77.0.22"));
    assert!(stand(&lab), "{}", lab.log());
    assert!(!outsider_is_answered(&lab), "{}", lab.log());
    let gone = waits.replace("netns: db,", "netns: nowhere,");
    assert_ne!(gone, waits);
    lab.write_mesh(&gone);
    lab.wait("removed", || !lab.tool("db", "nft list tables").contains("adit-"));
}

fn edits() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    let strict = allow(&["web"]);
    lab.start(&strict);
    for turn in 1..=6 {
        let permissive = turn % 2 == 1;
        let mode = if permissive { "mtls: permissive\n" } else { "mtls: strict\n" };
        lab.write_mesh(&format!("{mode}{strict}"));
        lab.wait("in use", || {
            PODS.iter().all(|(pod, _)| {
                let tables = lab.tool(pod, "nft list tables");
                tables.contains("adit-nat") && tables.contains("adit-filter") != permissive
            })
        });
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(!lab.log().contains("cannot be restored"), "{}", lab.log());
    let metrics = lab.shows("127.0.0.1:15020", "GET /metrics", "adit_");
    let failed = "adit_capture_rules_restored_total{result=\"failed\"}";
    let count = metrics.lines().find_map(|line| line.strip_prefix(failed));
    assert!(count.is_none_or(|count| count.trim() == "0"), "{count:?}");
}

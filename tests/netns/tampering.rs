//! Capture rules that somebody else takes away are back before anybody can make use of it; those
//! that adit removes stay away.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    lab::{Lab, ip},
    mesh::{MESH, allow, held, lab, still_answers},
    strict::outsider_is_answered,
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("tampering::rules_that_somebody_takes_away_are_restored_at_once", restored),
    ("tampering::rules_that_cannot_be_restored_are_said_and_the_pod_is_closed", not_restored),
    ("tampering::rules_that_adit_removes_stay_away", removed),
    ("tampering::the_rules_of_a_pod_that_drains_are_restored_too", draining),
];

fn redirect_remove(pod: &str) {
    let mut redirect = Command::new(env!("CARGO_BIN_EXE_adit"));
    assert!(redirect.args(["redirect", "remove", "--netns", pod]).status().unwrap().success());
}

fn stands(lab: &Lab, pod: &str) -> bool {
    let tables = lab.tool(pod, "nft list tables");
    let routed = |family| {
        lab.tool(pod, &format!("ip {family} rule show priority 32764")).contains("0x111")
            && lab.tool(pod, &format!("ip {family} route show table 100")).contains("local")
    };
    ["adit-nat", "adit-mangle", "adit-filter"].iter().all(|table| tables.contains(table))
        && routed("-4")
        && routed("-6")
}

/// How long a restoration may take that is seen by such looks: three seconds, less than the time
/// between two looks at all rules, or more where a busy machine is slow with the tools already.
fn at_once(lab: &Lab) -> Duration {
    let began = Instant::now();
    stands(lab, "db");
    Duration::from_secs(3).max(8 * began.elapsed())
}

/// What an operator reads of it.
fn restorations(lab: &Lab) -> u64 {
    let metrics = lab.admin("127.0.0.1:15020", "GET /metrics");
    let line = "\nadit_capture_rules_restored_total{result=\"restored\"} ";
    let count = metrics.split_once(line).and_then(|(_, rest)| rest.lines().next());
    count.map_or(0, |count| count.parse().unwrap())
}

/// The same of the log.
fn logged(lab: &Lab) -> u64 {
    let log = lab.log();
    let said = log.lines().filter(|line| line.contains("changed this pod's capture rules"));
    let lines = said.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| line["times"].as_u64().unwrap()).sum()
}

fn restored() {
    let lab = lab(&["web"]);
    let mut open = held(&lab, "web");
    type Tamper = fn(&Lab);
    let kinds: [(&str, Tamper); 9] = [
        ("all of nft", |lab| drop(lab.tool("db", "nft flush ruleset"))),
        ("the command", |_| redirect_remove("db")),
        ("the rule of routing", |_| ip("-n db rule del priority 32764")),
        ("the route", |_| ip("-n db route flush table 100")),
        ("one table", |lab| drop(lab.tool("db", "nft delete table inet adit-filter"))),
        ("the rules, and not their tables", |lab| {
            let file = lab.file("flush.nft");
            fs::write(&file, "flush table inet adit-nat\nflush table inet adit-filter\n").unwrap();
            lab.tool("db", &format!("nft -f {}", file.display()));
        }),
        ("one table beside a list that fills a pipe", |lab| {
            let blocked =
                (0..8_000).map(|n| format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255));
            let blocked = blocked.collect::<Vec<_>>().join(", ");
            let file = lab.file("list.nft");
            let set = format!("set s {{ type ipv4_addr; elements = {{ {blocked} }} }}");
            fs::write(&file, format!("table inet others {{ {set} }}")).unwrap();
            lab.tool("db", &format!("nft -f {}", file.display()));
            lab.tool("db", "nft delete table inet adit-nat");
        }),
        ("tables whose names stand in the comments of another", |lab| {
            let named = |name| format!("chain c-{name} {{ comment \"table inet {name} {{\"; }}");
            let chains = ["adit-nat", "adit-mangle", "adit-filter"].map(named).join(" ");
            let file = lab.file("comments.nft");
            fs::write(&file, format!("table inet another {{ {chains} }}")).unwrap();
            lab.tool("db", &format!("nft -f {}", file.display()));
            for name in ["adit-nat", "adit-mangle", "adit-filter"] {
                lab.tool("db", &format!("nft delete table inet {name}"));
            }
        }),
        ("a rule before ours", |lab| {
            lab.tool("db", "nft insert rule inet adit-filter adit-input accept");
        }),
    ];
    for (what, change) in kinds {
        let (before, most) = (restorations(&lab), at_once(&lab));
        let began = Instant::now();
        change(&lab);
        lab.wait("restored", || restorations(&lab) > before);
        lab.wait("standing", || stands(&lab, "db"));
        let took = began.elapsed();
        assert!(took < most, "{what}: {took:?}");
        assert!(!outsider_is_answered(&lab), "{what}");
        assert!(still_answers(&mut open), "{what}: the connection goes on");
        assert!(lab.ask("web", "10.96.0.10:80").is_ok(), "{what}");
        let rules = lab.tool("db", "nft list chain inet adit-filter adit-input");
        assert!(rules.matches("accept\n").count() < 5 && !rules.contains("{\n\t\taccept"));
    }
    let log = lab.log();
    let said: Vec<_> =
        log.lines().filter(|line| line.contains("changed this pod's capture rules")).collect();
    assert!(!said.is_empty() && said.len() < 4, "{said:#?}");
    let line: serde_json::Value = serde_json::from_str(said[0]).unwrap();
    assert_eq!((&line["level"], &line["workload"]), (&"WARN".into(), &"shop/db".into()), "{line}");
    assert!(line["what"].as_str().unwrap().contains("nft tables were removed"), "{line}");

    // What adit itself does is no reason to do it again.
    std::thread::sleep(Duration::from_secs(2));
    let settled = restorations(&lab);
    lab.wait("the log has as many", || logged(&lab) == settled);
    lab.tool("db", "nft add table inet other");
    ip("-n db route add 10.99.0.0/16 via 10.77.0.254");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(restorations(&lab), settled);
    assert!(lab.readiness().contains("200 OK"), "{}", lab.readiness());
}

fn not_restored() {
    let lab = lab(&["web"]);
    ip("-n db link set lo down");
    lab.tool("db", "nft flush ruleset");
    lab.wait("said", || {
        let readiness = lab.readiness();
        readiness.contains("500") && readiness.contains("pod shop/db: its capture rules")
    });
    assert!(!outsider_is_answered(&lab), "closed, though not carried");
    assert!(lab.tool("db", "nft list tables").contains("adit-filter"));
    let log = lab.log();
    let said: Vec<_> = log.lines().filter(|line| line.contains("cannot be restored")).collect();
    assert!(said.iter().all(|line| line.contains("shop/db") && line.contains("lo is down")));
    assert_eq!(said.len(), 1, "{said:#?}");
    assert_eq!(restorations(&lab), 0);
    ip("-n db link set lo up");
    lab.wait("ready again", || lab.readiness().contains("200 OK"));
    assert_eq!((restorations(&lab), logged(&lab)), (1, 1), "after all failures");
    assert!(stands(&lab, "db"));
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    assert!(!outsider_is_answered(&lab));
}

fn removed() {
    let mut lab = lab(&["web"]);
    let without_spy: String = allow(&["web"])
        .lines()
        .filter(|line| !line.contains("name: spy,"))
        .map(|line| format!("{line}\n"))
        .collect();
    lab.write_mesh(&without_spy);
    lab.wait("removed", || lab.tool("spy", "nft list tables").is_empty());

    // Redirected by other means from here on, whatever those are.
    lab.capture = "rules: none";
    lab.write_mesh(&without_spy);
    lab.wait("carried anew", || lab.log().matches("pod attached").count() == 5);
    lab.wait("released", || lab.log().matches("pod detached").count() == 3);
    for pod in ["web", "db"] {
        redirect_remove(pod);
    }
    std::thread::sleep(Duration::from_secs(2));
    for pod in ["web", "db", "spy"] {
        assert_eq!(lab.tool(pod, "nft list tables"), "", "{pod}");
        assert_eq!(lab.tool(pod, "ip rule show priority 32764"), "", "{pod}");
    }
    assert_eq!(restorations(&lab), 0);

    // And back.
    lab.capture = "rules: nft, onStop: remove";
    lab.write_mesh(MESH);
    lab.wait("captured", || ["web", "db", "spy"].iter().all(|pod| stands(&lab, pod)));
    lab.tool("db", "nft flush ruleset");
    lab.wait("restored", || stands(&lab, "db"));
    assert!(lab.stop().success());
    for pod in ["web", "db", "spy"] {
        assert_eq!(lab.tool(pod, "nft list tables"), "", "{pod}");
    }
}

fn draining() {
    let mut lab = Lab::new(crate::mesh::PODS);
    lab.drain = "20s";
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    let mut open = held(&lab, "web");
    lab.signal(nix::sys::signal::Signal::SIGTERM);
    lab.wait("stopping", || lab.log().contains("shutting down: draining"));
    let most = at_once(&lab);
    lab.tool("db", "nft flush ruleset");
    let began = Instant::now();
    lab.wait("restored", || stands(&lab, "db"));
    assert!(began.elapsed() < most, "{:?}", began.elapsed());
    assert!(!outsider_is_answered(&lab));
    assert!(still_answers(&mut open));
    drop(open);
    assert!(lab.stop_dead().success());
    assert!(!outsider_is_answered(&lab));
}

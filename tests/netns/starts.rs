//! What an operator sees of a start, a reload and a stop.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    lab::{Lab, ip},
    mesh::{PODS, allow, held},
    process::Adit,
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("starts::without_the_right_to_enter_namespaces_it_fails_at_once_and_makes_nothing", rights),
    ("starts::a_pod_whose_namespace_is_missing_or_not_its_own_is_carried_when_it_is_there", absent),
    ("starts::a_misspelt_namespace_is_said_with_the_one_that_was_meant", misnamed),
    ("starts::what_begins_what_waits_for_a_restart_and_what_cuts_is_said", said),
    ("starts::a_reload_says_what_is_probably_not_meant_once", warned),
];

fn rights() {
    let lab = Lab::new(PODS);
    lab.write_mesh(&allow(&["web"]));
    for (right, name) in [("sys_admin", "CAP_SYS_ADMIN"), ("net_admin", "CAP_NET_ADMIN")] {
        let without = format!("-{right}");
        let began = Instant::now();
        let mut adit = Command::new("setpriv");
        adit.args(["--inh-caps", &without, "--bounding-set", &without])
            .arg(env!("CARGO_BIN_EXE_adit"))
            .args(["run", "-c"])
            .arg(lab.file("mesh.yaml"));
        let (code, stderr) = Adit::launch(adit).exit_code_and_log();
        assert_eq!(code, 1, "{stderr}");
        assert!(began.elapsed() < Duration::from_secs(10), "after {:?}", began.elapsed());
        assert!(stderr.contains(name), "{stderr}");
        assert!(!lab.file("ca").exists(), "no CA is made");
    }
}

/// Taken away also where the test fails.
struct Late;

impl Drop for Late {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", "late"]).output();
    }
}

fn absent() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    let late = "- { name: late, namespace: shop, addresses: [10.77.0.9], netns: late }\nservices:";
    lab.start(&allow(&["web"]).replacen("services:", late, 1));
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    std::thread::sleep(Duration::from_secs(6));
    assert!(lab.readiness().contains("200 OK"), "{}", lab.readiness());
    let log = lab.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("shop/late")).collect();
    assert!(lines.len() == 1 && lines[0].contains("WARN"), "said once: {lines:#?}");
    let _late = Late;
    ip("netns add late");
    ip("-n late link set lo up");
    // Whose it is shows in its address: another pod's would get this one's identity.
    ip("-n late addr add 10.99.0.1/32 dev lo");
    lab.wait("named", || {
        let readiness = lab.readiness();
        ["500", "pod shop/late", "/run/netns/late", "10.99.0.1", "(10.77.0.9)"]
            .iter()
            .all(|word| readiness.contains(word))
    });
    assert_eq!(lab.tool("late", "nft list tables"), "");
    assert_eq!(lab.tool("late", "ip rule show priority 32764"), "");
    assert!(lab.connect("late", "127.0.0.1:15008").is_err(), "nobody listens in it");
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    ip("-n late addr add 10.77.0.9/32 dev lo");
    let carried =
        || lab.log().lines().any(|l| l.contains("pod attached") && l.contains("shop/late"));
    lab.wait("carried when it is there", carried);
    lab.wait("ready", || lab.readiness().contains("200 OK"));
}

fn misnamed() {
    let _late = Late;
    ip("netns add late");
    ip("-n late link set lo up");
    ip("-n late addr add 10.77.0.9/32 dev lo");
    let mesh = |netns: &str| {
        let pod = "- { name: late, namespace: shop, addresses: [10.77.0.9], netns:";
        allow(&["web"]).replacen("services:", &format!("{pod} {netns} }}\nservices:"), 1)
    };
    let mut lab = Lab::new(PODS);
    lab.start(&mesh("laet"));
    let is_said = |lab: &Lab| {
        let readiness = lab.readiness();
        let words = ["200 OK", "ready\nnot attached: pod shop/late", "did you mean late?"];
        words.iter().all(|word| readiness.contains(word))
    };
    let warned = |lab: &Lab| lab.log().matches("did you mean late?").count();
    lab.wait("said at the start", || is_said(&lab) && warned(&lab) == 1);
    lab.write_mesh(&mesh("late"));
    lab.wait("mended", || lab.readiness().ends_with("\r\n\r\nready\n"));
    lab.write_mesh(&mesh("ltae"));
    lab.wait("said of an edit", || is_said(&lab) && warned(&lab) == 2);
    // The namespace of another pod is not what was meant.
    lab.write_mesh(&mesh("dbx"));
    lab.wait("said without a guess", || lab.readiness().contains("/run/netns/dbx"));
    assert!(!lab.readiness().contains("did you mean"), "{}", lab.readiness());
}

/// As the start and `adit check` do.
fn warned() {
    let mut lab = Lab::new(PODS);
    lab.start(&allow(&["web"]));
    let doubtful = allow(&["web"]) + "      to: [{ operation: { ports: ['80'] } }]\n";
    lab.write_mesh(&doubtful);
    lab.logs("names port 80 of service db.shop.svc.cluster.local, but … listen on 8080");
    // The same is there after another edit.
    lab.write_mesh(&(doubtful + "limits: { streams: 77 }\n"));
    lab.logs("limits.streams … takes effect after a restart");
    assert_eq!(lab.log().matches("names port 80").count(), 1);
}

fn said() {
    let mut lab = Lab::new(PODS);
    lab.drain = "60s";
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    let start: serde_json::Value = serde_json::from_str(&lab.logs("adit starts")).unwrap();
    assert_eq!(start["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&start["admin"], &start["pods"]), (&"127.0.0.1:15000".into(), &3.into()));

    let changed = "limits: { streams: 77 }\ntimeouts: { connect: 7s }\n";
    lab.write_mesh(&(allow(&["web"]) + changed));
    lab.logs("configuration reloaded");
    lab.wait("both are said", || lab.log().matches("takes effect after a restart").count() >= 2);
    let log = lab.log();
    let told = log.lines().filter(|l| l.contains("takes effect after a restart"));
    let told: Vec<serde_json::Value> = told.map(|l| serde_json::from_str(l).unwrap()).collect();
    let file = std::fs::read_to_string(lab.file("mesh.yaml")).unwrap();
    let line = |key: &str| 1 + file.lines().position(|line| line.starts_with(key)).unwrap();
    for (key, line) in
        [("timeouts.connect", line("timeouts:")), ("limits.streams", line("limits:"))]
    {
        let says = |t: &&serde_json::Value| {
            let message = t["message"].as_str().unwrap_or_default();
            message.starts_with(&format!("{key} ("))
                && message.contains(&format!("mesh.yaml:{line})"))
        };
        assert_eq!(told.iter().filter(says).count(), 1, "{key}:{line}: {told:?}");
    }

    // What was refused is said until it is mended, and the node stays ready.
    lab.write_mesh(&allow(&["web"]).replacen("services:", "sevices:", 1));
    lab.logs("configuration rejected");
    let refused = lab.shows("127.0.0.1:15021", "GET /healthz/ready", "the mesh file was rejected");
    assert!(refused.contains("200 OK") && refused.contains("sevices"), "{refused}");
    let dump = lab.shows("127.0.0.1:15000", "GET /config_dump", "\"state\": \"refused\"");
    assert!(dump.contains("\"cipher\": \"AES-256-GCM\""), "{dump}");
    lab.counts("\nadit_reload_refused 1\n");
    lab.write_mesh(&(allow(&["web"]) + changed));
    lab.wait("mended", || lab.readiness().ends_with("\r\n\r\nready\n"));
    lab.counts("\nadit_reload_refused 0\n");

    let _open = held(&lab, "web");
    lab.signal(Signal::SIGINT);
    lab.wait("told", || lab.log().contains("SIGINT again closes them now"));
    let began = Instant::now();
    lab.signal(Signal::SIGINT);
    assert!(lab.stop_dead().success());
    assert!(began.elapsed() < Duration::from_secs(5), "it cut after {:?}", began.elapsed());
}

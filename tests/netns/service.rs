//! `adit run` as a service of its host: what the service manager hears.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command},
};

use nix::sys::signal::Signal;

use crate::{
    lab::Lab,
    manager::Manager,
    mesh::{PODS, allow, held},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("service::the_manager_hears_what_is_waited_for_and_ready_when_readiness_says_so", ready),
    ("service::what_stops_adit_does_not_stop_the_tools_that_it_starts", undisturbed),
    ("service::adit_and_the_tools_that_it_starts_are_confined", confined),
    (
        "service::a_pod_named_by_a_process_needs_proc_which_is_said_and_refused_where_required",
        by_pid,
    ),
    ("service::the_manager_hears_reloading_ready_stopping_and_the_watchdog_until_the_end", stops),
];

/// No rules can be applied until `go` is there.
const NFT: &str = "#!/bin/sh\n[ -e \"$(dirname \"$0\")/go\" ] || { echo not yet >&2; exit 1; }\n\
                   PATH=${PATH#*:} exec nft \"$@\"\n";

fn write_nft(tools: &Path, script: &str) {
    fs::create_dir(tools).unwrap();
    fs::write(tools.join("nft"), script).unwrap();
    fs::set_permissions(tools.join("nft"), fs::Permissions::from_mode(0o755)).unwrap();
}

fn ready() {
    let mut lab = Lab::new(PODS);
    let (manager, tools) = (Manager::new(), lab.file("tools"));
    write_nft(&tools, NFT);
    (lab.tools, lab.env) = (Some(tools.clone()), vec![manager.env()]);
    lab.launch(&allow(&["web"]));
    let told = loop {
        let told = manager.next();
        assert!(!told.contains("READY=1"), "{told}");
        if told.contains("not yet") {
            break told;
        }
    };
    assert!(told.starts_with("STATUS=proxying 3 pods of cluster.local; waiting for "), "{told}");
    assert!(told.contains("shop/web") && told.trim_end().lines().count() == 1, "{told}");
    // Who is not ready is not made so by a reload either.
    lab.signal(Signal::SIGHUP);
    lab.wait("reloaded", || lab.log().contains("configuration reloaded"));
    assert!(!lab.readiness().contains("200 OK"));
    fs::write(tools.join("go"), "").unwrap();
    let told = loop {
        let told = manager.next();
        assert!(!told.contains("RELOADING"), "{told}");
        if told.starts_with("READY=1\n") {
            break told;
        }
    };
    assert_eq!(told.trim_end(), "READY=1\nSTATUS=proxying 3 pods of cluster.local");
    assert!(lab.readiness().contains("200 OK"), "{}", lab.readiness());
}

fn stops() {
    let mut lab = Lab::new(PODS);
    let manager = Manager::new();
    lab.drain = "60s";
    lab.env = vec![manager.env(), ("WATCHDOG_USEC", "500000".into())];
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    manager.hears("READY=1\n");
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    lab.signal(Signal::SIGHUP);
    manager.hears("RELOADING=1\nMONOTONIC_USEC=");
    manager.hears("READY=1\nSTATUS=proxying 3 pods");
    let open = held(&lab, "web");
    lab.signal(Signal::SIGTERM);
    let told = manager.hears("STOPPING=1\n");
    assert!(told.contains("EXTEND_TIMEOUT_USEC=75000000\nSTATUS=draining: "), "{told}");
    // Also while it drains.
    manager.hears("WATCHDOG=1");
    manager.hears("STATUS=draining: 2 connections");
    drop(open);
    assert!(lab.stop_dead().success());
}

/// A service manager ends all processes of a service at once.
const ENDED: &str = "#!/bin/sh\nkill -TERM $$\nkill -INT $$\nPATH=${PATH#*:} exec nft \"$@\"\n";

fn undisturbed() {
    let mut lab = Lab::new(PODS);
    let tools = lab.file("tools");
    write_nft(&tools, ENDED);
    lab.tools = Some(tools);
    lab.capture = "rules: nft, onStop: remove";
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    lab.signal(Signal::SIGTERM);
    assert!(lab.stop_dead().success());
    assert_eq!(lab.tool("db", "nft list tables"), "", "{}", lab.log());
}

/// A field of each thread's status.
fn of_threads(lab: &Lab, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", lab.pid())).unwrap();
    let status = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    let found = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().to_owned()
    };
    status.map(found).collect()
}

/// What it is refused is what adit is: it has the rules of the process that starts it. The folder
/// of the CA is written, so it says there what it could do.
const CURIOUS: &str = "#!/bin/sh\nhere=$(dirname \"$0\")/..\n\
    { unshare --net true && echo unshared; touch \"$here/elsewhere\" && echo written; \
    readlink /proc/1/ns/net && echo seen; echo tried; } > \"$here/ca/tried\" 2>&1\n\
    PATH=${PATH#*:} exec nft \"$@\"\n";

fn confined() {
    let mut lab = Lab::new(PODS);
    let tools = lab.file("tools");
    write_nft(&tools, CURIOUS);
    lab.tools = Some(tools);
    lab.echo("db", 8080);
    lab.start(&(allow(&["web"]) + "sandbox: required\n"));
    for (field, value) in [("Seccomp:", "2"), ("NoNewPrivs:", "1")] {
        let all = of_threads(&lab, field);
        assert!(all.len() > 2 && all.iter().all(|is| is == value), "{field} {all:?}");
    }
    let log = lab.log();
    assert!(log.contains("\"landlock\":\"on\",\"seccomp\":\"on\""), "{log}");
    let tried = fs::read_to_string(lab.file("ca/tried")).unwrap();
    let could = ["unshared", "written", "seen"].iter().any(|could| tried.contains(could));
    assert!(!could && tried.trim_end().ends_with("tried"), "{tried}");
    assert!(!lab.file("elsewhere").exists());
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    // Rules are changed, a pod is made anew and the CA's files are written as before.
    lab.remake("web", 1);
    lab.wait("carried anew", || lab.log().matches("pod attached").count() == PODS.len() + 1);
    lab.wait("reached", || lab.ask("web", "10.96.0.10:80").is_ok());
    lab.write_mesh(&(allow(&["web"]) + "sandbox: disabled\n"));
    lab.logs("sandbox ( … takes effect after a restart");
    assert!(lab.stop().success(), "{}", lab.log());
    lab.launch(&(allow(&["web"]) + "sandbox: disabled\n"));
    lab.wait("ready", || lab.readiness().contains("200 OK"));
    assert!(of_threads(&lab, "Seccomp:").iter().all(|is| is == "0"));
}

/// Ends with the scenario.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn by_pid() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    let sleeps = || Command::new("sleep").arg("600").spawn();
    let process = Process(lab.netns("web").run(sleeps).unwrap().unwrap());
    let by_pid = format!("netns: 'pid:{}'", process.0.id());
    let mesh = allow(&["web"]).replace("netns: web", &by_pid);
    lab.start(&mesh);
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    let says = "off: pods are named by process IDs";
    lab.logs(says);
    assert!(of_threads(&lab, "Seccomp:").iter().all(|is| is == "2"));
    assert!(lab.stop().success());
    lab.launch(&(mesh.clone() + "sandbox: required\n"));
    assert_eq!(lab.stop_dead().code(), Some(1));
    let log = lab.log();
    assert!(log.contains("the sandbox is required") && log.contains(says), "{log}");
    // One that comes later is out of reach, and nobody else suffers.
    lab.start(&allow(&["web"]));
    lab.write_mesh(&mesh);
    lab.wait("said", || lab.log().contains("a pod is named by a process ID: that takes effect"));
}

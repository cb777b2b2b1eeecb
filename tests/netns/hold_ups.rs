//! What takes long keeps the node from nothing else: a pod that drains, a tool that hangs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    lab::Lab,
    mesh::{MESH, PODS, allow, held, still_answers},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("hold_ups::an_nft_that_hangs_keeps_no_edit_and_no_signal_waiting", hanging_tool),
    ("hold_ups::a_pod_that_drains_keeps_no_edit_and_no_signal_waiting", draining_pod),
    ("hold_ups::a_pod_that_leaves_takes_nobody_elses_connections_along", leaving_pod),
];

/// An `nft` that hangs, and says so where adit may write, while there is a file of the name `hang`
/// beside it.
fn nft_that_may_hang(tools: &Path) {
    let script = "#!/bin/sh
here=$(dirname \"$0\")
if [ -e \"$here/hang\" ]; then : > \"$here/../ca/hangs\"; exec sleep 60; fi
PATH=\"${PATH#*:}\" exec nft \"$@\"
";
    fs::create_dir(tools).unwrap();
    fs::write(tools.join("nft"), script).unwrap();
    fs::set_permissions(tools.join("nft"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Less than a tool is waited for, more than a change of the file needs to be seen.
const AT_ONCE: Duration = Duration::from_secs(4);

fn hanging_tool() {
    let mut lab = Lab::new(PODS);
    let tools = lab.file("tools");
    nft_that_may_hang(&tools);
    lab.tools = Some(tools.clone());
    lab.echo("db", 8080);
    lab.start(&allow(&["web", "spy"]));
    let of_web = held(&lab, "web");

    fs::write(tools.join("hang"), "").unwrap();
    lab.capture = "rules: nft, onStop: remove, probes: kubelet";
    lab.write_mesh(&allow(&["web", "spy"]));
    let hangs = |lab: &Lab| lab.wait("hanging", || lab.file("ca/hangs").exists());
    hangs(&lab);
    let began = Instant::now();
    lab.write_mesh(&allow(&["spy"]));
    lab.record("inbound", "policy_changed");
    assert!(began.elapsed() < AT_ONCE, "an edit waited for {:?}", began.elapsed());
    drop(of_web);

    // It is tried again, until a signal comes.
    lab.wait("given up", || lab.log().contains("nft did not end within 5 s"));
    fs::remove_file(lab.file("ca/hangs")).unwrap();
    hangs(&lab);
    let began = Instant::now();
    lab.signal(Signal::SIGTERM);
    lab.wait("stopping", || lab.log().contains("stopping: no new connections"));
    assert!(began.elapsed() < Duration::from_secs(1), "seen after {:?}", began.elapsed());
    lab.signal(Signal::SIGINT);
    assert!(lab.stop_dead().success());
    assert!(began.elapsed() < AT_ONCE, "it stopped after {:?}", began.elapsed());
}

fn draining_pod() {
    let mut lab = Lab::new(PODS);
    lab.drain = "60s";
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    let open = held(&lab, "web");
    let without_web: String = MESH
        .lines()
        .filter(|line| !line.contains("name: web,"))
        .map(|l| format!("{l}\n"))
        .collect();
    lab.write_mesh(&without_web);
    lab.wait("reloaded", || lab.log().contains("configuration reloaded"));

    let began = Instant::now();
    lab.write_mesh(
        &(without_web + "policies:\n- { metadata: { name: nobody, namespace: shop }, spec: {} }\n"),
    );
    lab.record("inbound", "policy_changed");
    assert!(began.elapsed() < AT_ONCE, "an edit waited for {:?}", began.elapsed());
    drop(open);

    lab.write_mesh(&allow(&["web"]));
    lab.wait("carried again", || lab.log().matches("pod carried").count() == 4);
    lab.wait("answering", || lab.ask("web", "10.96.0.10:80").is_ok());
    let _open = held(&lab, "web");
    let began = Instant::now();
    lab.signal(Signal::SIGTERM);
    lab.wait("stopping", || lab.log().contains("stopping: no new connections"));
    assert!(began.elapsed() < Duration::from_secs(1), "seen after {:?}", began.elapsed());
    lab.signal(Signal::SIGINT);
    assert!(lab.stop_dead().success());
    assert!(began.elapsed() < AT_ONCE, "it stopped after {:?}", began.elapsed());
}

/// What it has open is cut after its grace, and says so; what others have open is theirs.
fn leaving_pod() {
    let mut lab = Lab::new(PODS);
    lab.drain = "1s";
    lab.echo("db", 8080);
    lab.start(&allow(&["web", "spy"]));
    let (_web, mut spy) = (held(&lab, "web"), held(&lab, "spy"));
    let kept = allow(&["web", "spy"]);
    let kept = kept.lines().filter(|line| !line.contains("name: web,"));
    lab.write_mesh(&kept.map(|line| format!("{line}\n")).collect::<String>());
    let cut = lab.record("outbound", "drained");
    assert_eq!(cut["src.identity"], "spiffe://cluster.local/ns/shop/sa/web");
    assert!(still_answers(&mut spy));
    let all = |direction| lab.records(direction, "drained").len();
    assert_eq!((all("outbound"), all("inbound")), (1, 0));
}

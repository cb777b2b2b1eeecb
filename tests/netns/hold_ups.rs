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
    pipe,
    strict::outsider_is_answered,
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("hold_ups::an_nft_that_hangs_keeps_no_edit_and_no_signal_waiting", hanging_tool),
    ("hold_ups::a_pod_that_drains_keeps_no_edit_and_no_signal_waiting", draining_pod),
    ("hold_ups::a_file_that_cannot_be_read_keeps_no_signal_waiting", hanging_file),
    ("hold_ups::a_pod_whose_nft_hangs_keeps_no_other_from_being_captured", hanging_in_one),
    ("hold_ups::a_pod_made_anew_is_captured_at_once_while_its_predecessor_drains", made_anew),
    ("hold_ups::a_pod_that_follows_another_has_no_moment_without_rules", successor),
    ("hold_ups::a_pod_whose_first_try_fails_finds_its_namespace_closed", late_successor),
    ("hold_ups::a_pod_that_leaves_takes_nobody_elses_connections_along", leaving_pod),
];

/// An `nft` that hangs, and says so where adit may write, while there is a file of the name `hang`
/// beside it: where that names a namespace, in that one only. It does not hang again where there is
/// one of the name `once` too.
fn nft_that_may_hang(tools: &Path) {
    let script = "#!/bin/sh
here=$(dirname \"$0\")
if [ -e \"$here/hang\" ] && ! { [ -e \"$here/once\" ] && [ -e \"$here/../ca/hangs\" ]; }; then
    only=$(cat \"$here/hang\")
    case \"$only\" in '' | \"$(readlink /proc/self/ns/net)\") : > \"$here/../ca/hangs\"; exec sleep 60 ;; esac
fi
PATH=\"${PATH#*:}\" exec nft \"$@\"
";
    fs::create_dir(tools).unwrap();
    fs::write(tools.join("nft"), script).unwrap();
    fs::set_permissions(tools.join("nft"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Less than a tool is waited for, more than a change of the file needs to be seen.
const AT_ONCE: Duration = Duration::from_secs(4);

/// An edit is in use so soon after it was written.
const LANDS: Duration = Duration::from_secs(1);

/// The median of three edits is asked for: a busy machine may be late with one.
fn edits_land(lab: &Lab, edits: [&str; 3]) {
    let reloads = || lab.log().matches("configuration reloaded").count();
    let mut took = edits.map(|body| {
        let before = reloads();
        lab.write_mesh(body);
        let began = Instant::now();
        lab.wait("reloaded", || reloads() > before);
        began.elapsed()
    });
    took.sort();
    assert!(took[1] < LANDS, "edits waited for {took:?}");
}

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
    edits_land(&lab, [&allow(&["spy"]), &allow(&["spy", "web"]), &allow(&["spy"])]);
    lab.record("inbound", "policy_changed");
    drop(of_web);

    // It is tried again, until a signal comes.
    lab.wait("given up", || lab.log().contains("nft did not end within 5 s"));
    fs::remove_file(lab.file("ca/hangs")).unwrap();
    hangs(&lab);
    let began = Instant::now();
    lab.signal(Signal::SIGTERM);
    lab.wait("stopping", || lab.log().contains("shutting down: draining"));
    assert!(began.elapsed() < Duration::from_secs(2), "seen after {:?}", began.elapsed());
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

    let nobody = "policies:\n- { metadata: { name: nobody, namespace: shop }, spec: {} }\n";
    let nobody = without_web.clone() + nobody;
    edits_land(&lab, [&nobody, &without_web, &nobody]);
    lab.record("inbound", "policy_changed");
    drop(open);

    lab.write_mesh(&allow(&["web"]));
    lab.wait("carried again", || lab.log().matches("pod attached").count() == 4);
    lab.wait("answering", || lab.ask("web", "10.96.0.10:80").is_ok());
    let _open = held(&lab, "web");
    let began = Instant::now();
    lab.signal(Signal::SIGTERM);
    lab.wait("stopping", || lab.log().contains("shutting down: draining"));
    assert!(began.elapsed() < Duration::from_secs(2), "seen after {:?}", began.elapsed());
    lab.signal(Signal::SIGINT);
    assert!(lab.stop_dead().success());
    assert!(began.elapsed() < AT_ONCE, "it stopped after {:?}", began.elapsed());
}

/// Somebody has put a pipe there, or its mount hangs.
fn hanging_file() {
    let mut lab = Lab::new(PODS);
    lab.hands_over();
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    let by_proc = pipe::by_proc(&lab.file("mesh.yaml"));
    let mut old = lab.take_over(by_proc.to_str().unwrap());
    assert_eq!(old.ends().code(), Some(0), "{}", old.log());
    pipe::put(&lab.file("mesh.yaml"));
    let _held = pipe::read_by_adit(&lab.file("mesh.yaml"));
    let began = Instant::now();
    lab.signal(Signal::SIGTERM);
    lab.wait("stopping", || lab.log().contains("shutting down: draining"));
    assert!(began.elapsed() < Duration::from_secs(2), "seen after {:?}", began.elapsed());
    assert!(lab.stop_dead().success());
}

fn captured(lab: &Lab, pod: &str) -> bool {
    lab.tool(pod, "nft list tables").contains("adit-filter")
}

/// How long it takes until a pod that is made anew is captured.
fn captured_anew(lab: &Lab, pod: &str, n: u8) -> Duration {
    lab.remake(pod, n);
    let began = Instant::now();
    lab.wait("captured anew", || captured(lab, pod));
    began.elapsed()
}

fn hanging_in_one() {
    let mut lab = Lab::new(PODS);
    let tools = lab.file("tools");
    nft_that_may_hang(&tools);
    let of_db = lab.netns("db").run(|| fs::read_link("/proc/thread-self/ns/net"));
    fs::write(tools.join("hang"), of_db.unwrap().unwrap().to_str().unwrap()).unwrap();
    lab.tools = Some(tools.clone());
    lab.echo("db", 8080);
    let began = Instant::now();
    lab.launch(&allow(&["web"]));
    lab.wait("hanging", || lab.file("ca/hangs").exists());
    lab.wait("others are captured", || captured(&lab, "web") && captured(&lab, "spy"));
    let mut took = vec![began.elapsed()];
    // It is tried again and again, and nobody else ever waits for it.
    for _ in 0..3 {
        took.push(captured_anew(&lab, "spy", 3));
        std::thread::sleep(Duration::from_secs(1));
    }
    lab.wait("said", || lab.readiness().contains("pod shop/db: nft did not end within 5 s"));
    fs::remove_file(tools.join("hang")).unwrap();
    lab.wait("captured", || captured(&lab, "db"));
    lab.wait("ready", || lab.readiness().contains("200 OK"));
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    // A busy machine is slow with all of them.
    let usual = captured_anew(&lab, "spy", 3);
    assert!(took.iter().all(|took| *took < AT_ONCE.max(4 * usual)), "{took:?}, usual {usual:?}");
}

fn made_anew() {
    let mut lab = Lab::new(PODS);
    lab.drain = "10m";
    lab.echo("db", 8080);
    lab.start(&allow(&["web", "spy"]));
    let usual = captured_anew(&lab, "spy", 3);
    lab.wait("answering", || lab.ask("spy", "10.96.0.10:80").is_ok());
    let _open = held(&lab, "web");
    for _ in 0..2 {
        let took = captured_anew(&lab, "web", 1);
        let most = Duration::from_secs(2).max(4 * usual);
        assert!(took < most, "after {took:?}, usual {usual:?}");
        lab.wait("answering", || lab.ask("web", "10.96.0.10:80").is_ok());
    }
    assert!(lab.readiness().contains("200 OK"), "{}", lab.readiness());
    let of_spy = held(&lab, "spy");
    edits_land(&lab, [&allow(&["web"]), &allow(&["web", "spy"]), &allow(&["web"])]);
    lab.record("inbound", "policy_changed");
    drop(of_spy);
    let released = || {
        let log = lab.log();
        log.lines().filter(|l| l.contains("pod detached") && l.contains("cut\":1")).count()
    };
    assert_eq!(released(), 0, "the first one drains");
    let began = Instant::now();
    lab.signal(Signal::SIGTERM);
    lab.wait("stopping", || lab.log().contains("shutting down: draining"));
    assert!(began.elapsed() < Duration::from_secs(2), "seen after {:?}", began.elapsed());
    lab.signal(Signal::SIGINT);
    assert!(lab.stop_dead().success());
    assert!(began.elapsed() < AT_ONCE, "it stopped after {:?}", began.elapsed());
}

/// Another identity, then another name, in the same namespace; with and without connections that
/// hold up who was there before, and where the new address comes a moment later.
fn successor() {
    let mut lab = Lab::new(PODS);
    lab.drain = "1s";
    lab.echo("db", 8080);
    let first = allow(&["web"]);
    lab.start(&first);
    let other_identity = first.replace("serviceAccount: db,", "serviceAccount: other,");
    let other_name = other_identity
        .replace("name: db, namespace", "name: db2, namespace")
        .replace("[shop/db]", "[shop/db2]");
    let other_address = other_name.replace("10.77.0.2, 'fd77::2'", "10.77.0.12");
    let mut carried = PODS.len();
    for (busy, mesh) in [
        (false, &other_identity),
        (false, &other_name),
        (false, &first),
        (false, &other_address),
        (true, &first),
        (true, &other_name),
    ] {
        let open = busy.then(|| held(&lab, "web"));
        carried += 1;
        let count = |what: &str| lab.log().matches(what).count();
        let loads = count("configuration reloaded");
        lab.write_mesh(mesh);
        let (mut loaded, mut after): (Option<Instant>, Option<Instant>) = (None, None);
        while after.is_none_or(|at| at.elapsed() < Duration::from_millis(2500)) {
            let tables = lab.tool("db", "nft list tables");
            for table in ["adit-nat", "adit-mangle", "adit-filter"] {
                assert!(tables.contains(table), "{table} is missing: {tables}\n{}", lab.log());
            }
            if after.is_none() && count("pod attached") == carried {
                after = Some(Instant::now());
            }
            if loaded.is_none() && count("configuration reloaded") > loads {
                loaded = Some(Instant::now());
            }
            let is_due = loaded.is_some_and(|at| at.elapsed() > Duration::from_millis(300));
            if is_due && mesh == &other_address && after.is_none() {
                lab.tool("db", "ip addr add 10.77.0.12/24 dev eth0");
            }
            assert!(after.is_none() || !outsider_is_answered(&lab), "{}", lab.log());
        }
        drop(open);
        lab.wait("answering", || lab.ask("web", "10.96.0.10:80").is_ok());
    }
}

/// The one before it waits for it, and removes no rules when its first try has failed.
fn late_successor() {
    let mut lab = Lab::new(PODS);
    let tools = lab.file("tools");
    nft_that_may_hang(&tools);
    lab.tools = Some(tools.clone());
    lab.drain = "1s";
    lab.echo("db", 8080);
    let first = allow(&["web"]);
    lab.start(&first);
    fs::write(tools.join("once"), "").unwrap();
    fs::write(tools.join("hang"), "").unwrap();
    let other = first.replace("name: db, namespace", "name: db2, namespace");
    lab.write_mesh(&other.replace("[shop/db]", "[shop/db2]"));
    let closed = |lab: &Lab| {
        let tables = lab.tool("db", "nft list tables");
        for table in ["adit-nat", "adit-mangle", "adit-filter"] {
            assert!(tables.contains(table), "{table} is missing: {tables}\n{}", lab.log());
        }
        assert!(!outsider_is_answered(lab), "{}", lab.log());
    };
    let attached = |lab: &Lab| lab.log().matches("pod attached").count() > PODS.len();
    lab.wait("the one before is gone", || {
        closed(&lab);
        lab.log().contains("pod detached")
    });
    assert!(!attached(&lab), "its first try has failed");
    assert!(lab.log().contains("nft did not end within 5 s"), "{}", lab.log());
    lab.wait("attached", || {
        closed(&lab);
        attached(&lab)
    });
    lab.wait("answering", || lab.ask("web", "10.96.0.10:80").is_ok());
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

//! `adit run` as a service of its host: what the service manager hears.

use std::{fs, os::unix::fs::PermissionsExt};

use nix::sys::signal::Signal;

use crate::{
    lab::Lab,
    manager::Manager,
    mesh::{PODS, allow, held},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("service::the_manager_hears_what_is_waited_for_and_ready_when_readiness_says_so", ready),
    ("service::the_manager_hears_reloading_ready_stopping_and_the_watchdog_until_the_end", stops),
];

/// No rules can be applied until `go` is there.
const NFT: &str = "#!/bin/sh\n[ -e \"$(dirname \"$0\")/go\" ] || { echo not yet >&2; exit 1; }\n\
                   PATH=${PATH#*:} exec nft \"$@\"\n";

fn ready() {
    let mut lab = Lab::new(PODS);
    let (manager, tools) = (Manager::new(), lab.file("tools"));
    fs::create_dir(&tools).unwrap();
    fs::write(tools.join("nft"), NFT).unwrap();
    fs::set_permissions(tools.join("nft"), fs::Permissions::from_mode(0o755)).unwrap();
    (lab.tools, lab.env) = (Some(tools.clone()), vec![manager.env()]);
    lab.launch(&allow(&["web"]));
    let told = loop {
        let told = manager.next();
        assert!(!told.contains("READY=1"), "{told}");
        if told.contains("not yet") {
            break told;
        }
    };
    assert!(told.starts_with("STATUS=carries 3 pods of cluster.local; waits for "), "{told}");
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
    assert_eq!(told.trim_end(), "READY=1\nSTATUS=carries 3 pods of cluster.local");
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
    manager.hears("READY=1\nSTATUS=carries 3 pods");
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

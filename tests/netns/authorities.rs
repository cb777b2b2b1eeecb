//! The embedded CA's authorities while connections run: a new root, and an identity that is banned.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    lab::Lab,
    mesh::{PODS, allow},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("authorities::a_new_root_fails_no_connection", rotate),
    ("authorities::a_rotation_says_how_long_it_takes_and_goes_on_after_an_interruption", resumed),
    ("authorities::a_banned_identity_is_cut_off_within_a_second", ban),
];

fn lab() -> Lab {
    let mut lab = Lab::new(PODS);
    lab.lifetime = "10s";
    lab.echo("db", 8080);
    lab.start(&allow(&["web", "spy"]));
    lab
}

/// `adit ca …` on the lab's directory: what it prints.
fn ca(lab: &Lab, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    let done = command.arg("ca").args(arguments).arg("--dir").arg(lab.file("ca")).output().unwrap();
    let (out, err) = (String::from_utf8(done.stdout), String::from_utf8(done.stderr));
    assert!(done.status.success(), "adit ca {arguments:?}: {}{}", out.unwrap(), err.unwrap());
    out.unwrap()
}

fn rotate() {
    let lab = lab();
    let (made, failed, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let mut held = lab.connect("web", "10.96.0.10:80").unwrap();
    held.read_exact(&mut [0; 17]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut is_held = true;
            while !over.load(Relaxed) {
                let answer = lab.ask("web", "10.96.0.10:80");
                made.fetch_add(1, Relaxed);
                if answer.is_err() {
                    failed.fetch_add(1, Relaxed);
                }
                // What was made before is trusted until the old root is revoked, and no longer.
                let echoed =
                    held.write_all(b"still here").and_then(|()| held.read_exact(&mut [0; 10]));
                if is_held && echoed.is_err() {
                    assert_eq!(
                        roots(&lab),
                        1,
                        "closed before the old root was revoked: {echoed:?}"
                    );
                    is_held = false;
                }
            }
        });
        let said = ca(&lab, &["rotate", "--overlap", "3s"]);
        over.store(true, Relaxed);
        assert!(said.contains("activated") && said.contains("revoked"), "{said}");
    });
    println!(
        "{} connections during the rotation, {} failed",
        made.load(Relaxed),
        failed.load(Relaxed)
    );
    assert_eq!(failed.load(Relaxed), 0);
    assert!(made.load(Relaxed) > 200);
    assert_eq!(roots(&lab), 1);
}

fn roots(lab: &Lab) -> usize {
    let shown: serde_json::Value = serde_json::from_str(&ca(lab, &["show", "--json"])).unwrap();
    shown["x509"].as_array().unwrap().len()
}

fn resumed() {
    let lab = lab();
    let mut begun = Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["ca", "rotate", "--overlap", "60s", "--dir"])
        .arg(lab.file("ca"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(begun.stderr.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
    assert!(
        first.starts_with("this takes 2m,") && first.contains("interrupt it at any time"),
        "{first}"
    );
    assert_eq!(said.next().unwrap().unwrap().trim(), "1m to go");
    begun.kill().unwrap();
    begun.wait().unwrap();
    let shown =
        || -> serde_json::Value { serde_json::from_str(&ca(&lab, &["show", "--json"])).unwrap() };
    let before = shown();
    let prepared = before["x509"].as_array().unwrap().iter().find(|a| a["status"] == "prepared");
    let prepared = prepared.unwrap()["id"].clone();
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    ca(&lab, &["rotate", "--overlap", "3s"]);
    let after = shown();
    assert_eq!(after["x509"].as_array().unwrap().len(), 1, "{after}");
    assert_eq!(after["x509"][0]["id"], prepared);
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
}

fn ban() {
    let lab = lab();
    let hold = |pod: &str| {
        let mut socket = lab.connect(pod, "10.96.0.10:80").unwrap();
        socket.read_exact(&mut [0; 17]).unwrap();
        socket
    };
    let (mut spy, mut web) = (hold("spy"), hold("web"));
    ca(&lab, &["ban", "spiffe://cluster.local/ns/shop/sa/spy"]);
    let start = std::time::Instant::now();
    assert!(
        crate::wait::read_once(&mut spy, &mut [0]).map_or(true, |n| n == 0),
        "the banned one's connection ends"
    );
    println!("closed {:?} after the ban", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
    // Both ends are closed; the one may hear of the other's first.
    lab.wait("recorded", || {
        ["inbound", "outbound"].iter().any(|way| !lab.records(way, "identity_banned").is_empty())
    });
    assert!(lab.ask("spy", "10.96.0.10:80").is_err());
    web.write_all(b"fine").unwrap();
    web.read_exact(&mut [0; 4]).unwrap();
}

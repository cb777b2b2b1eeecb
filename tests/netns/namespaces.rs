//! A pod's key is used in the namespace that holds the pod's address, and in no other.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use adit::sys::netns::Netns;

use crate::{
    lab::Lab,
    mesh::{MESH, PODS, allow, held, still_answers},
    process::Adit,
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("namespaces::a_process_that_enters_another_namespace_is_followed_there", followed),
    ("namespaces::a_pod_whose_addresses_are_edited_is_checked_again_in_both_families", edited),
    ("namespaces::a_path_that_may_not_be_read_is_refused_with_what_to_do", denied),
];

/// A task of this process that names a namespace, as an owner process does.
struct Owner {
    path: String,
    enter: mpsc::Sender<Netns>,
}

impl Owner {
    fn new(begins_in: Netns) -> Self {
        let (enter, next) = mpsc::channel::<Netns>();
        let (tell, told) = mpsc::channel();
        enter.send(begins_in).unwrap();
        thread::spawn(move || {
            let mut entered = next.recv();
            while let Ok(netns) = entered {
                let _ = tell.send(nix::unistd::gettid());
                entered = netns.run(|| next.recv()).unwrap();
            }
        });
        let task = told.recv().unwrap();
        let path = format!("/proc/{}/task/{task}/ns/net", std::process::id());
        let there = || Netns::key_of(path.as_ref()).unwrap() != Netns::current().unwrap().key();
        crate::wait::wait_until("entered", crate::wait::LIMIT, there);
        Self { path, enter }
    }

    fn enters(&self, netns: Netns) {
        self.enter.send(netns).unwrap();
    }
}

fn is_captured(lab: &Lab, pod: &str) -> bool {
    lab.tool(pod, "nft list tables").contains("adit-filter")
}

fn listens(lab: &Lab, pod: &str) -> bool {
    lab.connect(pod, "127.0.0.1:15008").is_ok()
}

fn followed() {
    let all: Vec<_> = PODS.iter().copied().chain([("other", 8), ("owned", 9)]).collect();
    let mut lab = Lab::new(&all);
    lab.echo("db", 8080);
    let owner = Owner::new(lab.netns("other"));
    let pod = format!(
        "- {{ name: owned, namespace: shop, addresses: [10.77.0.9], netns: {} }}\nservices:",
        owner.path
    );
    lab.launch(&allow(&["web", "owned"]).replacen("services:", &pod, 1));
    let refused = "none of the pod's addresses (10.77.0.9)";
    let refusals = |lab: &Lab| lab.log().matches(refused).count();
    lab.wait("refused, and tried again", || refusals(&lab) >= 2);
    // The next try is under way, and has found the namespace that the process is about to leave.
    thread::sleep(Duration::from_secs(1));
    owner.enters(lab.netns("owned"));
    let began = Instant::now();
    lab.wait("captured where its address is", || is_captured(&lab, "owned"));
    assert!(began.elapsed() < Duration::from_secs(3), "after {:?}", began.elapsed());
    lab.wait("ready", || lab.readiness().contains("200 OK"));
    assert!(!is_captured(&lab, "other") && !listens(&lab, "other"));

    // The name stands for another pod's namespace now.
    owner.enters(lab.netns("other"));
    lab.wait("refused again", || lab.readiness().contains(refused));
    assert!(!is_captured(&lab, "other") && !listens(&lab, "other"), "{}", lab.log());
    assert!(is_captured(&lab, "owned") && !listens(&lab, "owned"), "closed to plaintext");
    owner.enters(lab.netns("owned"));
    lab.wait("attached again", || listens(&lab, "owned"));
    lab.wait("ready again", || lab.readiness().contains("200 OK"));
}

fn edited() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    lab.start(&allow(&["web", "spy"]));
    let mut open = held(&lab, "spy");
    let with = |addresses: &str| {
        let spy = "serviceAccount: spy, addresses: [10.77.0.3, 'fd77::3']";
        assert!(MESH.contains(spy));
        allow(&["web", "spy"]).replacen(
            spy,
            &format!("serviceAccount: spy, addresses: [{addresses}]"),
            1,
        )
    };
    let loads = |lab: &Lab| lab.log().matches("configuration reloaded").count();
    lab.write_mesh(&with("'fd77::3'"));
    lab.wait("reloaded", || loads(&lab) == 1);
    assert!(still_answers(&mut open), "one of its addresses is still there");
    for (address, prefix) in [("fd77::33", 64), ("10.77.0.33", 24)] {
        lab.write_mesh(&with(&format!("'{address}'")));
        let refused = format!("none of the pod's addresses ({address})");
        lab.wait("refused", || lab.readiness().contains(&refused));
        assert!(is_captured(&lab, "spy"), "closed to plaintext");
        lab.wait("detached", || !listens(&lab, "spy"));
        let nodad = if prefix == 64 { "nodad" } else { "" };
        lab.tool("spy", &format!("ip addr add {address}/{prefix} dev eth0 {nodad}"));
        lab.wait("attached", || listens(&lab, "spy"));
        lab.wait("ready", || lab.readiness().contains("200 OK"));
    }
}

fn denied() {
    let lab = Lab::new(PODS);
    let locked = lab.file("locked");
    fs::create_dir(&locked).unwrap();
    fs::write(locked.join("web"), "").unwrap();
    let named = format!("netns: {}/web }}", locked.display());
    lab.write_mesh(&allow(&["web"]).replacen("netns: web }", &named, 1));
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    // Root may not look either, as on a file system of others.
    let without = "-dac_override,-dac_read_search";
    let mut adit = Command::new("setpriv");
    adit.args(["--inh-caps", without, "--bounding-set", without])
        .arg(env!("CARGO_BIN_EXE_adit"))
        .args(["run", "-c"])
        .arg(lab.file("mesh.yaml"));
    let (code, stderr) = Adit::launch(adit).exit_code_and_log();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(code, 1, "{stderr}");
    for part in
        ["pod shop/web", "locked/web", "Permission denied", "a path that this user may read"]
    {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

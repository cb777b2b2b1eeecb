//! Pods that come while one `adit run` takes over from another.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use adit::sys::netns::Netns;

use crate::{
    lab::Lab,
    mesh::{PODS, allow, held, still_answers},
};

pub(crate) const TESTS: &[(&str, fn())] = &[(
    "takeover_pods::a_pod_attached_meanwhile_has_rules_at_any_moment_and_one_process_that_listens",
    attached_meanwhile,
)];

/// The process before has attached this pod after it gave its sockets away.
fn attached_meanwhile() {
    let all: Vec<_> = PODS.iter().copied().chain([("late", 9)]).collect();
    let mut lab = Lab::new(&all);
    lab.drain = "60s";
    lab.hands_over();
    lab.echo("db", 8080);
    lab.echo("late", 8080);
    lab.start(&allow(&["web"]));
    let mut open = held(&lab, "web");

    let late = "- { name: late, namespace: shop, addresses: [10.77.0.9], netns: late }\nservices:";
    let with_late = allow(&["web"]).replacen("services:", late, 1);
    // It is not ready to take over while one of its pods is not attached.
    let waits = with_late.replacen("[10.77.0.3, 'fd77::3']", "[10.77.0.33]", 1);
    assert_ne!(waits, with_late);
    std::fs::write(lab.file("next.yaml"), lab.mesh_text(&waits)).unwrap();
    let mut old = lab.take_over("next.yaml");
    lab.wait("handed", || old.log().contains("passed the sockets to a new process"));
    lab.wait("it waits", || lab.log().contains("none of the pod's addresses (10.77.0.33)"));
    lab.write_mesh(&with_late);
    lab.wait("attached by the one before", || {
        old.log().lines().any(|l| l.contains("pod attached") && l.contains("shop/late"))
    });
    assert!(!lab.log().contains("took over"), "{}", lab.log());
    lab.wait("called", || called(&lab.netns("web")));

    let watch = Watch::start(&lab);
    lab.tool("spy", "ip addr add 10.77.0.33/24 dev eth0");
    lab.wait("taken over", || lab.log().contains("took over from the previous process"));
    lab.wait("attached", || {
        lab.log().lines().any(|l| l.contains("pod attached") && l.contains("shop/late"))
    });
    lab.wait("called", || called(&lab.netns("web")));
    thread::sleep(Duration::from_secs(1));
    let gap = watch.ends();
    assert!(old.runs(), "it drains: {}", old.log());
    let listens = lab.tool("late", "ss -Hltnp");
    let of = |pid: u32| listens.matches(&format!("pid={pid},")).count();
    assert!(of(lab.pid()) > 0 && of(old.id()) == 0, "{} and {}: {listens}", lab.pid(), old.id());
    println!("no call of the pod succeeded for {gap:?}");
    assert!(gap < Duration::from_secs(3), "{gap:?}: {}", lab.log());
    assert!(still_answers(&mut open));
    drop(open);
    assert_eq!(old.ends().code(), Some(0), "{}", old.log());
    assert!(called(&lab.netns("web")));
    let tables = lab.tool("late", "nft list tables");
    assert!(tables.contains("adit-nat") && tables.contains("adit-filter"), "{tables}");
}

/// Whether the late pod answers through the mesh.
fn called(web: &Netns) -> bool {
    let call = || -> std::io::Result<String> {
        let (to, limit) = ("10.77.0.9:8080".parse().unwrap(), Duration::from_secs(5));
        let mut socket = web.run(|| TcpStream::connect_timeout(&to, limit))??;
        socket.set_read_timeout(Some(limit))?;
        socket.write_all(b"hello\n")?;
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    call().is_ok_and(|answer| answer == "caller 10.77.0.1\nhello\n")
}

/// Looks at the late pod again and again.
struct Watch {
    stop: Arc<AtomicBool>,
    rules: thread::JoinHandle<Vec<String>>,
    calls: thread::JoinHandle<Duration>,
}

impl Watch {
    fn start(lab: &Lab) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (late, ends) = (lab.netns("late"), Arc::clone(&stop));
        let rules = thread::spawn(move || {
            let list = || std::process::Command::new("nft").args(["list", "tables"]).output();
            let mut missing = Vec::new();
            while !ends.load(SeqCst) {
                let listed = late.run(list).unwrap().unwrap();
                let tables = String::from_utf8_lossy(&listed.stdout).into_owned();
                let all = ["adit-nat", "adit-mangle", "adit-filter"];
                if !all.iter().all(|table| tables.contains(table)) {
                    missing.push(tables);
                }
            }
            missing
        });
        let (web, ends) = (lab.netns("web"), Arc::clone(&stop));
        let calls = thread::spawn(move || {
            let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
            while !ends.load(SeqCst) {
                if called(&web) {
                    last = Instant::now();
                }
                gap = gap.max(last.elapsed());
                thread::sleep(Duration::from_millis(5));
            }
            gap
        });
        Self { stop, rules, calls }
    }

    /// For how long no call succeeded.
    fn ends(self) -> Duration {
        self.stop.store(true, SeqCst);
        assert_eq!(self.rules.join().unwrap(), Vec::<String>::new(), "a moment without rules");
        self.calls.join().unwrap()
    }
}

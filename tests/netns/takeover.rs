//! One `adit run` takes over from another: nobody who connects meanwhile notices, and no plaintext
//! passes.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    lab::Lab,
    manager::Manager,
    mesh::{MESH, PODS, allow, held},
    strict::{outsider_in, outsider_is_answered},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("takeover::nobody_is_refused_and_no_plaintext_passes_while_another_takes_over", replaced),
    ("takeover::a_successor_that_fails_leaves_all_as_it_was", fails),
    ("takeover::sigusr2_starts_a_successor_of_which_the_manager_hears", signalled),
    ("takeover::a_process_that_stops_while_its_successor_waits_leaves_the_rules_to_it", gone),
    ("takeover::more_workers_or_fewer_lose_no_connection", workers),
    ("takeover::pods_and_rules_are_those_of_the_successors_file", other_file),
];

/// Does something again and again until it is told to stop; what went wrong.
struct Load {
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(works: Vec<Box<dyn Fn() -> Result<(), String> + Send>>) -> Self {
        let (done, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let one = |work: Box<dyn Fn() -> Result<(), String> + Send>| {
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            thread::spawn(move || {
                let mut failed = Vec::new();
                while !stop.load(SeqCst) {
                    failed.extend(work().err());
                    done.fetch_add(1, SeqCst);
                }
                failed
            })
        };
        let threads = works.into_iter().map(one).collect();
        Self { done, stop, threads }
    }

    /// New connections of web through its capture, and plaintext of an outsider.
    fn on(lab: &Lab) -> Self {
        let calls = |_| {
            let web = lab.netns("web");
            Box::new(move || match called(&web) {
                Ok(answer) if answer == "caller 10.77.0.1\nhello\n" => Ok(()),
                other => Err(format!("a call: {other:?}")),
            }) as Box<dyn Fn() -> Result<(), String> + Send>
        };
        let mut works: Vec<_> = (0..2).map(calls).collect();
        let spy = lab.netns("spy");
        works.push(Box::new(move || match outsider_in(&spy) {
            true => Err("an outsider's plaintext is answered".to_owned()),
            false => Ok(()),
        }));
        Self::start(works)
    }

    /// Lets some more come.
    fn goes_on(&self, lab: &Lab) {
        let from = self.done.load(SeqCst);
        lab.wait("more calls", || self.done.load(SeqCst) > from + 20);
    }

    fn ends(self) -> usize {
        self.stop.store(true, SeqCst);
        let failed: Vec<_> = self.threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        let done = self.done.load(SeqCst);
        assert_eq!(failed, Vec::<String>::new(), "of {done}");
        done
    }
}

fn called(from: &adit::sys::netns::Netns) -> std::io::Result<String> {
    let (to, limit) = ("10.96.0.10:80".parse().unwrap(), Duration::from_secs(5));
    let mut socket = from.run(|| TcpStream::connect_timeout(&to, limit))??;
    socket.set_read_timeout(Some(limit))?;
    socket.write_all(b"hello\n")?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What the admin endpoint answers at its Unix socket.
fn admin(lab: &Lab) -> String {
    let mut socket = UnixStream::connect(lab.file("admin.sock")).expect("it is served");
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let request = "GET /certs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

fn lab(body: &str) -> Lab {
    let mut lab = Lab::new(PODS);
    lab.drain = "30s";
    lab.hands_over();
    lab.echo("db", 8080);
    lab.start(body);
    lab
}

/// With their handles: rules that are applied again get new ones.
fn rules(lab: &Lab) -> String {
    lab.tool("db", "nft -a -s list ruleset")
}

fn still(open: &mut TcpStream) {
    let mut echo = [0; 6];
    open.write_all(b"still\n").unwrap();
    open.read_exact(&mut echo).expect("the connection goes on");
    assert_eq!(&echo, b"still\n");
}

fn replaced() {
    let mut lab = Lab::new(PODS);
    lab.drain = "30s";
    lab.hands_over();
    lab.echo("db", 8080);
    let at = lab.file("admin.sock");
    lab.start(&format!("{}admin: {{ address: \"unix:{}\" }}\n", allow(&["web"]), at.display()));
    let before = rules(&lab);
    let mut open = held(&lab, "web");
    let load = Load::on(&lab);
    load.goes_on(&lab);
    let mut old = lab.take_over("mesh.yaml");
    lab.wait("taken over", || lab.log().contains("took over from the previous process"));
    lab.wait("draining", || old.log().contains("another process has taken over"));
    load.goes_on(&lab);
    assert!(lab.readiness().contains("200 OK"), "{}", lab.readiness());
    lab.record("inbound", "completed");
    assert_eq!(rules(&lab), before);
    assert!(admin(&lab).contains("200 OK"));
    still(&mut open);
    assert!(old.runs(), "{}", old.log());
    drop(open);
    assert_eq!(old.ends().code(), Some(0), "{}", old.log());
    load.goes_on(&lab);
    assert!(admin(&lab).contains("200 OK"), "its path is the successor's");
    println!("{} calls while another process took over", load.ends());
    assert_eq!(rules(&lab), before);
    // The new one sees to the rules now.
    lab.tool("db", "nft delete table inet adit-nat");
    lab.wait("restored", || lab.tool("db", "nft list tables").contains("adit-nat"));
    assert!(lab.stop().success());
    assert!(!lab.file("takeover.sock").exists());
    assert!(!outsider_is_answered(&lab), "after a stop");
}

fn fails() {
    let mut lab = lab(&allow(&["web"]));
    let mut open = held(&lab, "web");
    let load = Load::on(&lab);
    std::fs::write(lab.file("bad.yaml"), "nonsense: true\n").unwrap();
    assert_eq!(lab.fails_to_take_over("bad.yaml").code(), Some(3));
    // It has the sockets already when it fails.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = std::fs::read_to_string(lab.file("mesh.yaml")).unwrap();
    let text = format!("{text}admin: {{ address: \"{}\" }}\n", taken.local_addr().unwrap());
    std::fs::write(lab.file("late.yaml"), text).unwrap();
    assert_eq!(lab.fails_to_take_over("late.yaml").code(), Some(1));
    lab.wait("told", || lab.log().contains("a process asked to take over, but did not"));
    load.goes_on(&lab);
    still(&mut open);
    assert!(lab.readiness().contains("200 OK"), "{}", lab.readiness());
    assert!(!lab.log().contains("draining"), "{}", lab.log());
    // And the next one may.
    let mut old = lab.take_over("mesh.yaml");
    lab.wait("taken over", || lab.log().contains("took over from the previous process"));
    drop(open);
    assert_eq!(old.ends().code(), Some(0), "{}", old.log());
    load.goes_on(&lab);
    // One that waits for its SVIDs in vain, and is told to stop, takes no rules with it.
    lab.capture = "rules: nft, onStop: remove";
    write_waiting(&mut lab);
    let mut old = lab.take_over("waits.yaml");
    lab.wait("starting", || old.log().contains("passed the sockets to a new process"));
    lab.wait("ready to stop", || lab.log().contains("adit starts"));
    assert!(lab.stop().success());
    load.goes_on(&lab);
    assert!(old.runs() && lab.tool("db", "nft list tables").contains("adit-filter"));
    load.ends();
}

/// A file with which nobody gets an SVID.
fn write_waiting(lab: &mut Lab) {
    lab.ca = Some("{ workloadApi: { socket: \"unix:///nowhere/agent.sock\" } }".to_owned());
    std::fs::write(lab.file("waits.yaml"), lab.mesh_text(&allow(&["web"]))).unwrap();
}

fn gone() {
    let mut lab = Lab::new(PODS);
    lab.capture = "rules: nft, onStop: remove";
    lab.hands_over();
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    let before = rules(&lab);
    write_waiting(&mut lab);
    let mut old = lab.take_over("waits.yaml");
    lab.wait("starting", || old.log().contains("passed the sockets to a new process"));
    assert!(lab.ask("web", "10.96.0.10:80").is_ok(), "{}", old.log());
    assert!(old.runs());
    old.signal(Signal::SIGTERM);
    assert_eq!(old.ends().code(), Some(0), "{}", old.log());
    lab.wait("taken over", || lab.log().contains("took over from the previous process"));
    assert_eq!(rules(&lab), before);
    assert!(lab.connect("db", "127.0.0.1:15008").is_ok(), "{}", lab.log());
    assert!(!outsider_is_answered(&lab));
}

fn workers() {
    let mut lab = lab(&allow(&["web"]));
    let load = Load::on(&lab);
    let text = std::fs::read_to_string(lab.file("mesh.yaml")).unwrap();
    for workers in [4, 1] {
        load.goes_on(&lab);
        std::fs::write(lab.file("next.yaml"), format!("{text}workers: {workers}\n")).unwrap();
        let mut old = lab.take_over("next.yaml");
        assert_eq!(old.ends().code(), Some(0), "{}", old.log());
        load.goes_on(&lab);
    }
    load.ends();
}

/// A process that no test has started itself, and that ends with the test all the same.
struct Grandchild(Pid);

impl Drop for Grandchild {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

fn signalled() {
    let mut lab = Lab::new(PODS);
    let manager = Manager::new();
    lab.env = vec![manager.env()];
    lab.hands_over();
    lab.echo("db", 8080);
    lab.start(&allow(&["web"]));
    manager.hears("READY=1");
    lab.signal(Signal::SIGUSR2);
    let told = manager.hears("MAINPID=");
    let pid: i32 = told.trim().trim_start_matches("MAINPID=").parse().unwrap();
    let next = Grandchild(Pid::from_raw(pid));
    assert_eq!(lab.stop_dead().code(), Some(0), "{}", lab.log());
    manager.hears("READY=1");
    assert!(lab.ask("web", "10.96.0.10:80").is_ok(), "{}", lab.log());
    assert!(lab.readiness().contains("200 OK"), "{}", lab.readiness());
    kill(next.0, Signal::SIGTERM).unwrap();
    manager.hears("STOPPING=1");
}

/// Without the pod of this name.
fn without(pod: &str) -> String {
    let text = allow(&["web"]);
    let lines = text.lines().filter(|line| !line.starts_with(&format!("- {{ name: {pod},")));
    let text: Vec<_> = lines.collect();
    assert_eq!(text.len() + 1, allow(&["web"]).lines().count(), "{MESH}");
    text.join("\n") + "\n"
}

fn other_file() {
    let mut lab = Lab::new(PODS);
    lab.drain = "30s";
    lab.hands_over();
    lab.echo("db", 8080);
    let admin = lab.file("admin.sock");
    let at = admin.display();
    lab.start(&format!("{}admin: {{ address: \"unix:{at}\" }}\n", without("web")));
    assert!(admin.exists());
    lab.drain = "1s";
    assert!(lab.tool("spy", "nft list tables").contains("adit-filter"));
    assert_eq!(lab.tool("web", "nft list tables"), "");
    let next = lab.mesh_text(&format!("{}mtls: permissive\n", without("spy")));
    std::fs::write(lab.file("next.yaml"), next).unwrap();
    let mut old = lab.take_over("next.yaml");
    assert_eq!(old.ends().code(), Some(0), "{}", old.log());
    assert!(!admin.exists(), "no process is listening there");
    lab.wait("the new pod is carried", || lab.ask("web", "10.96.0.10:80").is_ok());
    assert_eq!(lab.tool("spy", "nft list tables"), "", "it is no longer in the file");
    lab.wait("permissive as the file says", || {
        let tables = lab.tool("db", "nft list tables");
        tables.contains("adit-nat") && !tables.contains("adit-filter")
    });
}

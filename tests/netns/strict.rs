//! Strict mTLS fails closed: at a stop, at a start, when the node cannot look, and for whoever has
//! the address of the kubelet's probes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use adit::sys::netns::Netns;

use crate::{
    forge::{forge, hold, request, uncaptured},
    lab::{Lab, ip},
    mesh::{allow, held, lab},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("strict::a_stop_and_a_crash_leave_the_pods_closed_to_plaintext", stopped),
    ("strict::a_namespace_that_cannot_be_looked_at_has_not_moved", cannot_look),
    ("strict::silent_callers_lock_nobody_out", silent),
    ("strict::one_pod_has_its_places_and_no_more", places),
    ("strict::plaintext_that_nat_never_saw_is_dropped", not_redirected),
    ("strict::connections_from_before_the_rules_carry_no_more_plaintext", from_before),
    ("strict::the_address_of_probes_passes_only_where_the_file_says_so", probes),
];

/// Whether an outsider's plaintext is answered by the application of db.
fn answered(mut socket: TcpStream) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let _ = socket.write_all(b"hello\n");
    crate::wait::read_once(&mut socket, &mut [0; 64]).is_ok_and(|n| n > 0)
}

pub(crate) fn outsider_is_answered(lab: &Lab) -> bool {
    outsider_in(&lab.netns("spy"))
}

pub(crate) fn outsider_in(spy: &Netns) -> bool {
    outsider_reaches(spy, "10.77.0.2:8080".parse().unwrap())
}

pub(crate) fn outsider_reaches(spy: &Netns, to: SocketAddr) -> bool {
    let dial = || {
        let domain = socket2::Domain::for_address(to);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        // Past the capture of its own pod, as from another node.
        socket.set_mark(0x539)?;
        socket.connect_timeout(&to.into(), Duration::from_millis(500))?;
        Ok::<TcpStream, std::io::Error>(socket.into())
    };
    spy.run(dial).unwrap().is_ok_and(answered)
}

fn stopped() {
    let mut lab = lab(&["web"]);
    assert!(!outsider_is_answered(&lab));
    assert!(lab.stop().success());
    assert!(!outsider_is_answered(&lab), "after a stop");
    assert!(lab.tool("db", "nft list tables").contains("adit-nat"));
    // A start replaces what the last one left, and carries on.
    for _ in 0..2 {
        lab.start(&allow(&["web"]));
        assert!(!outsider_is_answered(&lab), "after a start over old rules");
        assert!(lab.ask("web", "10.96.0.10:80").is_ok());
        let pid = nix::unistd::Pid::from_raw(i32::try_from(lab.pid()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        lab.stop_dead();
        assert!(!outsider_is_answered(&lab), "after a crash");
    }
    let rules = lab.tool("db", "ip rule show priority 32764");
    assert_eq!(rules.lines().count(), 1, "once, however often it starts: {rules}");
    let mut redirect = Command::new(env!("CARGO_BIN_EXE_adit"));
    assert!(redirect.args(["redirect", "remove", "--netns", "db"]).status().unwrap().success());
    assert_eq!(lab.tool("db", "nft list tables"), "");
}

/// No descriptor is left to open a namespace with, for longer than several looks at it.
fn cannot_look() {
    let lab = lab(&["web"]);
    let mut open = held(&lab, "web");
    let pid = lab.pid().to_string();
    let limit = |most: usize| {
        let done =
            Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={most}:")]).status();
        assert!(done.is_ok_and(|s| s.success()), "`prlimit` of the package util-linux runs");
    };
    limit(3);
    std::thread::sleep(Duration::from_secs(3));
    let mut echo = [0; 6];
    open.write_all(b"still\n").unwrap();
    open.read_exact(&mut echo).expect("the connection goes on");
    assert_eq!(&echo, b"still\n");
    assert!(!outsider_is_answered(&lab));
    limit(4096);
    assert!(!lab.log().contains("pod detached"), "{}", lab.log());
    lab.wait("new connections", || lab.ask("web", "10.96.0.10:80").is_ok());
}

/// More of them than the pod has places for tunnels.
fn silent() {
    let mut lab = Lab::new(crate::mesh::PODS);
    lab.echo("db", 8080);
    lab.start(&format!("{}limits: {{ tunnels: 4 }}\n", allow(&["web"])));
    let to: SocketAddr = "10.77.0.2:15008".parse().unwrap();
    let dial = || TcpStream::connect_timeout(&to, Duration::from_secs(5));
    let spy = lab.netns("bridge");
    ip("-n bridge addr add 10.77.0.200/24 dev br0");
    let _held: Vec<_> = (0..8).map(|_| spy.run(dial).unwrap().unwrap()).collect();
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
}

/// A pod that is full takes nobody else, and the pods beside it are none the worse.
fn places() {
    let mut lab = Lab::new(crate::mesh::PODS);
    lab.echo("db", 8080);
    lab.echo("spy", 8080);
    lab.start(&format!("{}limits: {{ tunnels: 3 }}\n", allow(&["web"])));
    let web = || forge(&lab, &["spiffe://cluster.local/ns/shop/sa/web"], |_| ());
    let dial = |to: &str| uncaptured(&lab, to);
    let sockets: Vec<TcpStream> = (0..3).map(|_| dial("10.77.0.2:15008")).collect();
    let held = sockets.iter().map(|socket| hold(socket.try_clone().unwrap(), web(), None));
    let held: Vec<_> = held.collect();
    let connect = |authority: &str| {
        http::Request::builder().method(http::Method::CONNECT).uri(authority).body(()).unwrap()
    };
    assert!(request(dial("10.77.0.2:15008"), web(), connect("10.77.0.2:8080")).is_err());
    let record = lab.record("inbound", "overloaded");
    assert!(record["error"].as_str().unwrap().contains("3 tunnels to this pod"), "{record}");
    let beside = request(dial("10.77.0.3:15008"), web(), connect("10.77.0.3:8080"));
    assert_eq!(beside, Ok(200));
    assert!(held.iter().all(|tunnel| !tunnel.is_finished()));
    sockets.iter().for_each(|socket| socket.shutdown(std::net::Shutdown::Both).unwrap());
    for tunnel in held {
        tunnel.join().unwrap();
    }
    lab.wait("a place is free again", || {
        request(dial("10.77.0.2:15008"), web(), connect("10.77.0.2:8080")) == Ok(200)
    });
}

fn not_redirected() {
    let lab = lab(&["web"]);
    lab.tool("db", "nft delete table inet adit-nat");
    assert!(!outsider_is_answered(&lab));
}

/// A connection of each family and direction that is older than the rules, of which conntrack may
/// or may not know: the side that sends, and the side that must not hear it.
fn older(lab: &Lab) -> Vec<(&'static str, TcpStream, TcpStream)> {
    let to = |address: &str| address.parse::<SocketAddr>().unwrap();
    let mut all = Vec::new();
    for (what, from, at, address) in [
        ("in", "bridge", "db", "10.77.0.2:9000"),
        ("in", "bridge", "db", "[fd77::2]:9000"),
        ("out", "db", "bridge", "10.77.0.200:9000"),
        ("out", "db", "bridge", "[fd77::c8]:9000"),
    ] {
        let listener = lab.netns(at).run(|| TcpListener::bind(to(address))).unwrap().unwrap();
        let near = lab.connect(from, address).unwrap();
        let (far, _) = listener.accept().unwrap();
        all.push((what, near, far));
        let near = lab.connect(from, address).unwrap();
        let (far, _) = listener.accept().unwrap();
        all.push((if what == "in" { "answer of in" } else { "answer of out" }, far, near));
    }
    all
}

/// What is read in half a second.
fn heard(socket: &mut TcpStream) -> Vec<u8> {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 64];
    let n = crate::wait::read_once(socket, &mut buffer).unwrap_or(0);
    buffer[..n].to_vec()
}

fn from_before() {
    for tracked in [false, true] {
        let mut lab = Lab::new(crate::mesh::PODS);
        ip("-n bridge addr add 10.77.0.200/24 dev br0");
        ip("-n bridge addr add fd77::c8/64 dev br0 nodad");
        if tracked {
            lab.tool("db", "nft add table inet other");
            lab.tool("db", "nft add chain inet other c { type filter hook input priority 0; }");
            lab.tool("db", "nft add rule inet other c ct state new counter");
        }
        let older = older(&lab);
        lab.echo("db", 8080);
        lab.echo("bridge", 8080);
        lab.start(&allow(&["web"]));
        let mut leaks = Vec::new();
        for (what, mut from, mut to) in older {
            // What the pod has asked for itself is heard out: not a byte of it is acknowledged.
            if tracked && what == "answer of out" {
                continue;
            }
            // One segment with the data and FIN, for which conntrack makes no entry.
            socket2::SockRef::from(&from).set_tcp_cork(true).unwrap();
            from.write_all(b"in the clear").unwrap();
            from.shutdown(std::net::Shutdown::Write).unwrap();
            let at = to.local_addr();
            if !heard(&mut to).is_empty() {
                leaks.push((what, at));
            }
        }
        assert!(leaks.is_empty(), "tracked: {tracked}: {leaks:?}");
        // What is new goes its way, in both families and directions.
        for to in ["10.77.0.2:8080", "[fd77::2]:8080"] {
            assert!(lab.ask("web", to).is_ok(), "{to}");
        }
        for to in ["10.77.0.200:8080", "[fd77::c8]:8080"] {
            let answer = lab.ask("db", to).unwrap();
            assert!(answer.ends_with("hello\n"), "{to}: {answer}");
        }
    }
}

/// The addresses of probes, and where db is in the same family.
const PROBES: [(&str, &str); 2] = [
    ("169.254.7.127", "10.77.0.2:8080"),
    ("fd16:9254:7127:1337:ffff:ffff:ffff:ffff", "[fd77::2]:8080"),
];

fn dial_as_probe(from: &str, to: &str) -> std::io::Result<TcpStream> {
    let (from, to): (std::net::IpAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let domain = socket2::Domain::for_address(to);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_mark(0x539)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), Duration::from_millis(500))?;
    Ok(socket.into())
}

/// The node, which is where adit runs, and somebody beside it, who reaches the pods over a bridge
/// of the node and through the node.
struct NodeAndStray;

impl NodeAndStray {
    fn new() -> Self {
        // Else what is bridged is seen by the rules of what is routed too.
        for family in ["ip", "ip6"] {
            let _ =
                std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables"), "0");
        }
        ip("link add br9 type bridge");
        ip("link add n0 type veth peer name v9 netns bridge");
        ip("-n bridge link set v9 master br0 up");
        ip("link set n0 master br9 up");
        ip("addr add 10.77.0.250/24 dev br9");
        ip("addr add fd77::fa/64 dev br9 nodad");
        ip("link set br9 up");
        ip("netns add stray");
        for (name, near) in [("bridged", "master br9"), ("routed", "")] {
            ip(&format!("link add {name} type veth peer name {name} netns stray"));
            ip(&format!("link set {name} {near} up"));
            ip(&format!("-n stray link set {name} up"));
        }
        Self
    }

    fn stray_is_answered(&self, lab: &Lab, (from, to): (&str, &str)) -> bool {
        lab.netns("stray").run(|| dial_as_probe(from, to)).unwrap().is_ok_and(answered)
    }
}

impl Drop for NodeAndStray {
    fn drop(&mut self) {
        for rest in ["netns del stray", "link del n0", "link del br9"] {
            let _ = Command::new("ip").args(rest.split(' ')).output();
        }
        let _ = Command::new("nft").args(["delete", "table", "inet", "adit-probes"]).output();
        let _ = Command::new("nft").args(["delete", "table", "bridge", "adit-probes"]).output();
    }
}

fn nft(line: &str) {
    assert!(Command::new("nft").args(line.split(' ')).status().unwrap().success(), "{line}");
}

fn probes() {
    let mut lab = lab(&["web"]);
    let world = NodeAndStray::new();
    for (address, _) in PROBES {
        let bits = if address.contains(':') { "128 nodad" } else { "32" };
        ip(&format!("addr add {address}/{bits} dev br9"));
        ip(&format!("-n db route add {address} dev eth0"));
    }
    let node_is_answered = |(from, to)| dial_as_probe(from, to).is_ok_and(answered);
    for probe in PROBES {
        assert!(!node_is_answered(probe), "nobody said that there are probes: {probe:?}");
    }
    lab.stop();
    lab.capture = "rules: nft, probes: kubelet";
    lab.start(&allow(&["web"]));
    for (n, probe) in PROBES.into_iter().enumerate() {
        assert!(node_is_answered(probe), "{probe:?}");
        let counted = lab.tool("db", "nft list counter inet adit-nat adit-probes");
        assert!(counted.contains(&format!("packets {} ", n + 1)), "{probe:?}: {counted}");
    }
    assert!(!outsider_is_answered(&lab), "any other address is refused");
    let said = "plaintext from the address of the kubelet's probes was allowed";
    lab.wait("said", || lab.log().contains(said));
    let line = lab.log().lines().find(|line| line.contains(said)).unwrap().to_owned();
    assert!(line.contains("shop/db"), "{line}");

    // Whoever else has the address is dropped at the node.
    ip("-n stray addr add 10.77.0.201/24 dev bridged");
    ip("-n stray addr add fd77::c9/64 dev bridged nodad");
    for (address, _) in PROBES {
        let (bits, nodad) = if address.contains(':') { ("128", "nodad") } else { ("32", "") };
        ip(&format!("addr del {address}/{bits} dev br9"));
        ip(&format!("-n stray addr add {address}/{bits} dev bridged {nodad}"));
        ip("-n db neigh flush all");
    }
    for probe in PROBES {
        assert!(!world.stray_is_answered(&lab, probe), "bridged: {probe:?}");
    }
    nft("insert rule bridge adit-probes adit-prerouting accept");
    for probe in PROBES {
        // Neighbours are asked for again after a second.
        lab.wait("answered without the node's rules", || world.stray_is_answered(&lab, probe));
    }
    // A firewall that is loaded anew takes all with it.
    nft("delete table bridge adit-probes");
    lab.wait("said", || lab.log().contains("adit has restored them"));
    for probe in PROBES {
        assert!(!world.stray_is_answered(&lab, probe), "{probe:?}");
    }
    ip("-n stray link set bridged down");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    ip("addr add 10.78.0.1/24 dev routed");
    ip("-n stray addr add 10.78.0.2/24 dev routed");
    ip("-n stray route add 10.77.0.0/24 via 10.78.0.1");
    ip("route add 169.254.7.127 via 10.78.0.2");
    ip("-n db route replace 169.254.7.127 via 10.77.0.250");
    assert!(!world.stray_is_answered(&lab, PROBES[0]), "routed");
    nft("insert rule inet adit-probes adit-prerouting accept");
    lab.wait("answered without the node's rules", || world.stray_is_answered(&lab, PROBES[0]));
}

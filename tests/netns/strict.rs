//! Strict mTLS fails closed: at a stop, at a start, when the node cannot look, and for whoever has
//! the address of the kubelet's probes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

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
    ("strict::the_address_of_probes_passes_only_where_the_file_says_so", probes),
];

/// Whether an outsider's plaintext is answered by the application of db.
fn answered(mut socket: TcpStream) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let _ = socket.write_all(b"hello\n");
    socket.read(&mut [0; 64]).is_ok_and(|n| n > 0)
}

fn outsider_is_answered(lab: &Lab) -> bool {
    let to: SocketAddr = "10.77.0.2:8080".parse().unwrap();
    let dial = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        // Past the capture of its own pod, as from another node.
        socket.set_mark(0x539)?;
        socket.connect_timeout(&to.into(), Duration::from_millis(500))?;
        Ok::<TcpStream, std::io::Error>(socket.into())
    };
    lab.netns("spy").run(dial).unwrap().is_ok_and(answered)
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
    assert!(!lab.log().contains("pod released"), "{}", lab.log());
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
    let held: Vec<_> = (0..3).map(|_| hold(dial("10.77.0.2:15008"), web(), None)).collect();
    let connect = |authority: &str| {
        http::Request::builder().method(http::Method::CONNECT).uri(authority).body(()).unwrap()
    };
    assert!(request(dial("10.77.0.2:15008"), web(), connect("10.77.0.2:8080")).is_err());
    let record = lab.record("inbound", "overloaded");
    assert!(record["error"].as_str().unwrap().contains("3 tunnels to this pod"), "{record}");
    let beside = request(dial("10.77.0.3:15008"), web(), connect("10.77.0.3:8080"));
    assert_eq!(beside, Ok(200));
    assert!(held.iter().all(|tunnel| !tunnel.is_finished()));
    // Those held end by themselves after ten seconds.
    held.into_iter().for_each(|tunnel| drop(tunnel.join()));
    lab.wait("a place is free again", || {
        request(dial("10.77.0.2:15008"), web(), connect("10.77.0.2:8080")) == Ok(200)
    });
}

fn not_redirected() {
    let lab = lab(&["web"]);
    lab.tool("db", "nft delete table inet adit-nat");
    assert!(!outsider_is_answered(&lab));
}

fn probes() {
    let mut lab = lab(&["web"]);
    ip("-n spy addr add 169.254.7.127/32 dev eth0");
    ip("-n db route add 169.254.7.127/32 dev eth0");
    let from_probes = |lab: &Lab| {
        let dial = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.set_mark(0x539)?;
            socket.bind(&"169.254.7.127:0".parse::<SocketAddr>().unwrap().into())?;
            let to: SocketAddr = "10.77.0.2:8080".parse().unwrap();
            socket.connect_timeout(&to.into(), Duration::from_millis(500))?;
            Ok::<TcpStream, std::io::Error>(socket.into())
        };
        lab.netns("spy").run(dial).unwrap().is_ok_and(answered)
    };
    assert!(!from_probes(&lab), "nobody said that there are probes");
    lab.stop();
    lab.capture = "rules: nft, probes: kubelet";
    lab.start(&allow(&["web"]));
    assert!(from_probes(&lab));
    let counted = lab.tool("db", "nft list counter inet adit-nat adit-probes");
    assert!(!counted.contains("packets 0 "), "{counted}");
    assert!(!outsider_is_answered(&lab), "any other address is refused");
}

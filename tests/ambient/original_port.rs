//! `ADIT_ORIGINAL_PORT_HBONE`: tunnels at the ports of applications, which a NetworkPolicy can tell.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    mem::take,
    net::TcpStream,
    time::Duration,
};

use adit::tls::TunnelPort;
use http::{Method, Request};

use crate::{
    corpus::Forged,
    fake_cni::del,
    forge::{answer_one, block_on, handshake, request, request_for, uncaptured, uncaptured_of},
    harness::Test,
    lab::Lab,
    pki::Leaf,
    resources::{allow, strict_mtls, workload},
    wait::{LIMIT, read_once},
    wire::Wire,
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    (
        "original_port::a_pod_is_called_where_a_network_policy_opens_its_applications_port_only",
        sent,
    ),
    ("original_port::what_is_open_at_an_applications_port_is_held_to_policies_and_pods", held),
    ("original_port::a_tunnel_leads_to_the_application_at_whose_port_it_arrived", elsewhere),
    ("original_port::plaintext_and_tls_of_applications_arrive_beside_tunnels_as_ever", plain),
    ("original_port::a_hello_that_does_not_go_on_is_closed_at_the_deadline", half),
    ("original_port::a_node_that_takes_no_tunnels_there_is_told_nothing_in_clear_text", refused),
];

const SEND: &[(&str, &str)] = &[("ADIT_ORIGINAL_PORT_HBONE", "send")];
const ACCEPT: &[(&str, &str)] = &[("ADIT_ORIGINAL_PORT_HBONE", "accept")];

/// A NetworkPolicy for port 8080 of a pod: it is asked before anything is redirected.
fn network_policy(lab: &Lab, pod: &str) {
    for line in [
        "add table inet network-policy",
        "add chain inet network-policy ingress { type filter hook prerouting priority raw; }",
        "add rule inet network-policy ingress iifname eth0 tcp flags & (syn|ack) == syn tcp dport != 8080 \
         drop",
    ] {
        lab.tool(pod, &format!("nft {line}"));
    }
}

fn sent() {
    let world = World::running_with(SEND);
    let World { first, second, lab, .. } = &world;
    network_policy(lab, "far");
    let spied = lab.connect("spy", "10.77.0.3:15008").map_err(|error| error.kind());
    assert_eq!(spied.map(drop), Err(ErrorKind::TimedOut), "the policy is in force");
    let words = ["hello", "caller"].map(|word| Wire::tap(&lab.netns("far"), "eth0", word));
    for to in ["10.77.0.3:8080", "10.96.0.3:80", "10.96.0.2:80", "10.77.0.1:8080"] {
        world.answered("web", to);
    }
    world.answered("far", "10.96.0.1:80");
    assert_eq!(words.map(Wire::saw), [0, 0]);
    let id = |pod: &str| format!("spiffe://cluster.local/ns/shop/sa/{pod}");
    for (direction, node) in [("outbound", first), ("inbound", second)] {
        let record = node.record(direction, |record| {
            record["direction"] == direction && record["dst.identity"] == id("far")
        });
        assert_eq!(record["src.identity"], id("web"), "{record}");
        assert_eq!(record["dst.addr"], "10.77.0.3:8080", "{record}");
        assert_eq!(record["dst.hbone_addr"], "10.77.0.3:8080", "{record}");
    }
    assert_eq!(first.dump(lab)["config"]["originalPortHbone"], "send");
}

fn held() {
    let mut world = World::running_with(SEND);
    network_policy(&world.lab, "far");
    let mut calls = ["web", "db"].map(|pod| open(&world.lab, pod));
    world.istiod.says(vec![
        allow("far-callers", &["web"]),
        workload("far", "n2", "10.77.0.3", &["far-callers"]),
    ]);
    let [web, db] = &mut calls;
    assert_eq!(read_once(db, &mut [0; 1]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
    world.refused("db", "10.96.0.3:80");
    web.write_all(b"ping").unwrap();
    web.read_exact(&mut [0; 4]).unwrap();
    assert_eq!(world.second.agent().asks(&del("uid-far"), &[]), "");
    assert!(read_once(web, &mut [0; 1]).is_err(), "cut with its pod, not ended");
    assert_eq!(world.second.adds("far", "far"), "");
    world.answered("web", "10.96.0.3:80");
}

/// An open call to `far` that has answered once.
fn open(lab: &Lab, pod: &str) -> TcpStream {
    let mut call = lab.connect(pod, "10.96.0.3:80").unwrap();
    call.set_read_timeout(Some(LIMIT)).unwrap();
    call.read_exact(&mut [0; 17]).unwrap();
    call
}

fn elsewhere() {
    let world = World::running_with(ACCEPT);
    let World { second, istiod, lab, .. } = &world;
    lab.echo("far", 9090);
    let asks = |to: &str, authority: &str| {
        let (alpn, socket) = (TunnelPort::Original.alpn(), uncaptured(lab, to));
        request_for(alpn, socket, forged(istiod.leaf_of("web")), connect(authority))
    };
    let far = "10.77.0.3:8080";
    for (authority, status) in [
        (far, 200),
        ("far.shop.svc.cluster.local:80", 200),
        ("10.77.0.3:9090", 403),
        ("10.77.0.3:15006", 503),
        ("10.77.0.2:8080", 400),
    ] {
        assert_eq!(asks(far, authority), Ok(status), "{authority}");
    }
    assert_eq!(asks("10.77.0.3:9090", "10.77.0.3:9090"), Ok(200));
    // One whose hello is late, of a workload that has HBONE.
    let late = uncaptured_of("web", lab, far);
    std::thread::sleep(Duration::from_millis(300));
    let (alpn, leaf) = (TunnelPort::Original.alpn(), istiod.leaf_of("web"));
    assert_eq!(request_for(alpn, late, forged(leaf), connect(far)), Ok(200), "late");
    let record = second.record("the one to another port", |record| {
        record["dst.hbone_addr"] == "10.77.0.3:9090" && record["dst.addr"] == far
    });
    let why = record["error"].as_str().unwrap();
    assert!(why.contains("is not the one at which the tunnel arrived"), "{record}");
    let hbone = || uncaptured(lab, "10.77.0.3:15008");
    let by_hbone = request(hbone(), forged(istiod.leaf_of("web")), connect("10.77.0.3:9090"));
    assert_eq!(by_hbone, Ok(200), "port 15008 leads to each");
    let other = request_for(alpn, hbone(), forged(istiod.leaf_of("web")), connect(far));
    assert!(other.is_err(), "and is as ever: {other:?}");
    // What far would have to forward is not for far.
    lab.tool("spy", "ip route add 10.77.0.34 via 10.77.0.3");
    assert!(asks("10.77.0.34:8080", "far.shop.svc.cluster.local:80").is_err());
    second.record("the one to nobody", |record| {
        record["error"].as_str().is_some_and(|why| why.contains("not an address of this pod"))
    });
}

fn forged(leaf: Leaf) -> Forged {
    Forged { key: leaf.key(), chain: leaf.chain }
}

fn connect(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap()
}

fn plain() {
    let mut world = World::running_with(ACCEPT);
    let World { istiod, lab, .. } = &world;
    world.answered("web", "10.96.0.3:80");
    world.answered("spy", "10.77.0.3:8080");
    // Of an application that speaks first.
    let mut silent = lab.connect("spy", "10.77.0.3:8080").unwrap();
    silent.read_exact(&mut [0; 17]).unwrap();
    silent.write_all(b"ping").unwrap();
    silent.read_exact(&mut [0; 4]).unwrap();
    // Whatever begins so is not TLS.
    let mut odd = lab.connect("spy", "10.77.0.3:8080").unwrap();
    odd.write_all(b"\x16\x03\x01\x00").unwrap();
    odd.write_all(b"\x05\x02junk").unwrap();
    let mut answer = [0; 27];
    odd.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[17..], b"\x16\x03\x01\x00\x05\x02junk");
    let own = istiod.leaf_of("another");
    let chain = own.chain.clone();
    answer_one(lab.listen("far", 8443), forged(own));
    let (socket, leaf) = (uncaptured(lab, "10.77.0.3:8443"), istiod.leaf_of("web"));
    block_on(async {
        let tls = handshake(socket, forged(leaf)).await.expect("a handshake with the application");
        let (_, tls) = tls.get_ref();
        assert_eq!(tls.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(tls.peer_certificates(), Some(&*chain), "it is the application that answers");
    });
    let strict = workload("far", "n2", "10.77.0.3", &["far-strict"]);
    world.istiod.says(vec![strict_mtls("far-strict"), strict]);
    world.refused("spy", "10.77.0.3:8080");
    world.answered("web", "10.96.0.3:80");
}

fn half() {
    let world = World::running_with(ACCEPT);
    let mut call = world.lab.connect("spy", "10.77.0.3:8080").unwrap();
    call.set_read_timeout(Some(LIMIT)).unwrap();
    call.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap();
    let began = std::time::Instant::now();
    let heard = read_once(&mut call, &mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(heard, Err(ErrorKind::ConnectionReset), "the application hears nothing of it");
    assert!(began.elapsed() > Duration::from_secs(5), "it has the time of a handshake");
    let record = world.second.record("it", |record| {
        record["error"].as_str().is_some_and(|why| why.contains("the ClientHello was not complete"))
    });
    assert_eq!(record["dst.addr"], "10.77.0.3:8080", "{record}");
}

fn refused() {
    let mut world = World::new();
    let (name, value) = SEND[0];
    world.first = take(&mut world.first).with(name, value);
    world.runs();
    let said = Wire::tap(&world.lab.netns("far"), "eth0", "hello");
    world.refused("web", "10.96.0.3:80");
    assert_eq!(said.saw(), 0);
    let record = world.first.record("the call", |record| {
        record["direction"] == "outbound" && record["dst.addr"] == "10.77.0.3:8080"
    });
    let why = record["error"].as_str().unwrap();
    assert!(why.contains("needs ADIT_ORIGINAL_PORT_HBONE=accept on that node"), "{record}");
    world.answered("far", "10.96.0.1:80");
    world.answered("web", "10.96.0.2:80");
}

//! Pods that istio-cni announces over its socket, and that the mesh names when it does.

#[path = "announced/non_tcp.rs"]
pub(crate) mod non_tcp;
#[path = "announced/watchdog.rs"]
pub(crate) mod watchdog;
#[path = "announced/world.rs"]
mod world;

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd as _,
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use self::world::World;
use crate::{
    fake_cni::{add, del, keep, snapshot_sent},
    strict::outsider_is_answered,
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("announced::a_pod_listens_at_once_and_its_connections_wait_for_the_mesh", waiting),
    ("announced::a_namespace_of_another_pod_gets_no_key", refuted),
    ("announced::a_namesake_of_another_account_is_somebody_else", account),
    ("announced::a_connection_waits_for_the_mesh_no_longer_than_a_moment", in_vain),
    ("announced::a_pod_that_becomes_another_begins_anew_with_another_key", swapped),
    ("announced::a_pod_that_leaves_closes_at_once_and_may_come_back_elsewhere", leaving),
    ("announced::an_add_that_fails_is_refused_and_tried_on", refused),
    ("announced::a_lost_connection_leaves_pods_alone_and_the_next_snapshot_ends_others", reconnect),
    ("announced::another_proxy_of_the_same_user_may_listen_beside", beside),
    ("announced::a_pod_whose_redirection_is_gone_is_named_and_refuses_plaintext", watchdog),
    ("announced::what_refuses_plaintext_goes_with_the_pod_and_outlives_the_process", unmeshed),
    ("announced::a_process_that_drains_refuses_nothing_to_pods_that_leave", draining),
    ("announced::a_pod_that_takes_plaintext_by_takes_it_again_with_its_rules", bypass),
    ("announced::a_pod_that_leaves_uncarried_is_refused_nothing", uncarried),
    ("announced::what_was_opened_while_no_rules_stood_does_not_go_on", gap),
];

fn waiting() {
    let world = World::new();
    let cni = world.cni();
    assert_eq!(world.adds(&cni, "web"), "");
    assert_eq!(world.adds(&cni, "db"), "");
    assert_eq!(cni.asks(&snapshot_sent(), &[]), "");
    assert!(world.listens("web") && world.listens("db"), "before anybody knows who they are");
    assert_eq!(world.node.svids.statuses().len(), 0, "no key is asked for");
    world.redirects("web");
    world.redirects("db");
    thread::scope(|scope| {
        let asked = scope.spawn(|| world.lab.ask("web", "10.77.0.2:8080"));
        world.lab.wait("a connection that waits", || world.carries("10.77.0.2:8080"));
        world.names(&[("web", "web", "10.77.0.1"), ("db", "db", "10.77.0.2")]);
        assert_eq!(asked.join().unwrap().unwrap(), "caller 10.77.0.1\nhello\n");
    });
    assert_eq!(world.node.svids.statuses().len(), 2, "each has its own");
    let text = world.metrics();
    for line in [
        "workload_manager_active_proxy_count 2",
        "workload_manager_proxies_started_total 2",
        "workload_manager_proxies_stopped_total 0",
    ] {
        assert!(text.contains(line), "{line}");
    }
    assert!(cni.hears_nothing());
}

fn refuted() {
    let world = World::new();
    let cni = world.cni();
    let spy = world.open("spy");
    assert_eq!(cni.asks(&add("uid-db", "shop", "db", "db"), &[spy.as_fd()]), "");
    world.names(&[("db", "db", "10.77.0.2")]);
    world.lab.wait("named", || {
        world.pods.refuted().iter().any(|why| {
            why.contains("pod shop/db: its network namespace has 10.77.0.3")
                && why.contains("the mesh says 10.77.0.2")
        })
    });
    assert_eq!(world.node.svids.statuses().len(), 0, "no key for another pod's namespace");
    assert!(world.lab.ask("db", "10.77.0.3:15008").is_err());
    // The mesh is right now, and wrong again later.
    for (address, held) in [("10.77.0.3", 1), ("10.77.0.2", 0), ("10.77.0.3", 1)] {
        world.names(&[("db", "db", address)]);
        world.lab.wait("taken up", || world.node.svids.statuses().len() == held);
        world.lab.wait("told", || world.pods.refuted().len() == 1 - held);
    }
    // An address that comes late is found without news.
    world.names(&[("db", "db", "10.77.0.33")]);
    world.lab.wait("told", || world.pods.refuted().len() == 1);
    world.lab.tool("spy", "ip addr add 10.77.0.33/24 dev eth0");
    world.lab.wait("taken up", || world.node.svids.statuses().len() == 1);
}

fn account() {
    let world = World::new();
    let cni = world.cni();
    assert_eq!(world.adds(&cni, "web"), "");
    assert_eq!(world.adds(&cni, "db"), "");
    let db = ("db", "db", "10.77.0.2");
    world.names(&[("web", "somebody", "10.77.0.1"), db]);
    world.lab.wait("the other is known", || world.node.svids.statuses().len() == 1);
    assert!(world.pods.unknown().iter().any(|why| why.contains("pod shop/web")));
    world.names(&[("web", "web", "10.77.0.1"), db]);
    world.lab.wait("known", || world.node.svids.statuses().len() == 2);
    assert_eq!(world.pods.unknown().len(), 0);
    world.names(&[("web", "somebody", "10.77.0.1"), db]);
    world.lab.wait("its key is forgotten", || world.node.svids.statuses().len() == 1);
}

fn in_vain() {
    let world = World::new();
    let cni = world.cni();
    world.redirects("web");
    assert_eq!(world.adds(&cni, "web"), "");
    world.names(&[("web", "somebody", "10.77.0.1")]);
    assert!(world.lab.ask("web", "10.77.0.2:8080").is_err());
    world.lab.wait("counted", || world.metrics().contains("close_reason=\"no_identity\""));
    assert!(!world.carries("10.77.0.2:8080"));
}

fn swapped() {
    let world = World::new();
    let cni = world.cni();
    let web = [("web", "web", "10.77.0.1")];
    world.names(&web);
    assert_eq!(world.adds(&cni, "web"), "");
    let is_of = |trust_domain: &str| {
        let all = world.node.svids.statuses();
        all.len() == 1 && all[0].identity.starts_with(&format!("spiffe://{trust_domain}/"))
    };
    world.lab.wait("its key", || is_of("cluster.local"));
    assert!(world.metrics().contains("workload_manager_proxies_started_total 1"));
    world.names_in("other.test", &web);
    world.lab.wait("another", || is_of("other.test"));
    let text = world.metrics();
    assert!(text.contains("workload_manager_proxies_started_total 2"), "{text}");
    assert!(world.listens("web"));
}

fn leaving() {
    let world = World::new();
    let cni = world.cni();
    world.names(&[("web", "web", "10.77.0.1")]);
    assert_eq!(world.adds(&cni, "web"), "");
    world.lab.wait("a key", || world.node.svids.statuses().len() == 1);
    assert_eq!(world.adds(&cni, "web"), "", "the same once more");
    assert_eq!(cni.asks(&del("uid-web"), &[]), "");
    world.lab.wait("closed", || !world.listens("web"));
    assert_eq!(world.node.svids.statuses().len(), 0, "the key is gone");
    assert_eq!(world.adds(&cni, "web"), "", "the same UID, at once");
    assert!(world.listens("web"));
    // The same pod in another namespace.
    world.lab.remake("web", 1);
    assert_eq!(world.adds(&cni, "web"), "");
    assert!(world.listens("web"));
    world.lab.wait("a key", || world.node.svids.statuses().len() == 1);
    assert_eq!(cni.asks(&del("uid-web"), &[]), "");
    assert_eq!(cni.asks(&del("uid-nobody"), &[]), "", "nobody knows it, and it has left");
}

fn refused() {
    let world = World::new();
    let cni = world.cni();
    let taken = world.netns("web").run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 15008)));
    let taken = taken.unwrap().unwrap();
    let why = world.adds(&cni, "web");
    assert!(
        why.contains("pod shop/web: cannot listen on") && why.contains("another proxy"),
        "{why}"
    );
    assert_eq!(cni.asks(&snapshot_sent(), &[]), "");
    assert_eq!(world.pending().len(), 1);
    drop(taken);
    world.lab.wait("attached in the end", || world.pending().is_empty() && world.listens("web"));
}

fn reconnect() {
    let world = World::new();
    let cni = world.cni();
    for pod in ["web", "db", "spy"] {
        assert_eq!(world.adds(&cni, pod), "");
    }
    assert_eq!(cni.asks(&snapshot_sent(), &[]), "");
    world.lab.wait("all named", || world.waits_for().is_none());
    drop(cni);
    world.lab.wait("said", || world.waits_for().is_some_and(|why| why.contains("has closed")));
    let cni = world.cni();
    assert_eq!(cni.asks(&keep("uid-web"), &[]), "");
    assert_eq!(world.adds(&cni, "spy"), "");
    assert!(world.listens("db"), "until all are named");
    assert_eq!(cni.asks(&snapshot_sent(), &[]), "");
    world.lab.wait("gone", || !world.listens("db"));
    assert!(world.listens("web") && world.listens("spy"));
    assert_eq!(world.pods.unknown().len(), 2);
}

fn beside() {
    let world = World::new();
    let cni = world.cni();
    let _other = [15001, 15006, 15008].map(|port| world.other_proxy("web", port));
    assert_eq!(world.adds(&cni, "web"), "");
    assert_eq!(cni.asks(&del("uid-web"), &[]), "");
}

/// What db's application answers to plaintext from another node.
fn answers(world: &World) -> bool {
    outsider_is_answered(&world.lab)
}

/// Whether db is named with this.
fn is_named(world: &World, what: &str) -> bool {
    let all = world.pods.unprotected();
    all.iter().any(|why| why.contains("pod shop/db") && why.contains(what))
}

/// The redirection of db stands, and that was seen.
fn redirected(world: &World) {
    world.redirects("db");
    world.lab.wait("well again", || world.pods.unprotected().is_empty());
}

/// Connects as the kubelet does.
fn probe() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([169, 254, 7, 127], 0)).into())?;
    let to = SocketAddr::from(([10, 77, 0, 2], 8080));
    socket.connect_timeout(&to.into(), Duration::from_secs(5))
}

fn watchdog() {
    let world = World::new();
    let cni = world.cni();
    let db = ("db", "db", "10.77.0.2");
    world.names(&[("web", "web", "10.77.0.1"), db]);
    world.redirects("web");
    assert_eq!(world.adds(&cni, "web"), "");
    assert_eq!(world.pods.unprotected(), [""; 0]);
    assert_eq!(world.adds(&cni, "db"), "");
    world.lab.wait("named", || is_named(&world, "are gone"));
    redirected(&world);
    assert_eq!(world.lab.ask("web", "10.77.0.2:8080").unwrap(), "caller 10.77.0.1\nhello\n");
    assert!(!answers(&world), "no plaintext to a pod of a strict mesh");

    world.lab.tool("db", "nft delete table inet istio-ambient-nat");
    world.lab.wait("named", || is_named(&world, "inbound plaintext is refused"));
    assert!(!answers(&world), "it does not pass by");
    assert_eq!(world.lab.ask("web", "10.77.0.2:8080").unwrap(), "caller 10.77.0.1\nhello\n");
    // The kubelet, as istio-cni translates its address, and the pod's own calls go on.
    world.lab.tool("spy", "ip addr add 169.254.7.127/32 dev eth0");
    world.lab.tool("db", "ip route add 169.254.7.127/32 dev eth0");
    assert!(world.netns("spy").run(probe).unwrap().is_ok());
    world.lab.echo("spy", 8080);
    assert!(world.lab.ask("db", "10.77.0.3:8080").is_ok());
    // Another program's second try is found too.
    world.lab.tool("db", "nft delete table inet adit-refuse");
    world.lab.wait("refused again", || !answers(&world));

    redirected(&world);
    assert!(!world.lab.tool("db", "nft list tables").contains("adit-refuse"));
    assert_eq!(world.lab.ask("web", "10.77.0.2:8080").unwrap(), "caller 10.77.0.1\nhello\n");
}

fn unmeshed() {
    let mut world = World::new();
    let cni = world.cni();
    assert_eq!(world.adds(&cni, "db"), "");
    world.lab.wait("named", || is_named(&world, "outbound connections bypass adit"));
    assert!(answers(&world), "nobody knows what stands where rules of plaintext were never seen");
    redirected(&world);
    world.lab.tool("db", "nft delete table inet istio-ambient-nat");
    world.lab.wait("named", || is_named(&world, "is refused"));
    assert!(!answers(&world));
    // Taken out of the mesh, it is like any other.
    assert_eq!(cni.asks(&del("uid-db"), &[]), "");
    world.lab.wait("answered", || answers(&world));

    // What a process before this one has left refuses on, and is taken back with the rules.
    assert_eq!(world.adds(&cni, "db"), "", "without any rules");
    world.lab.wait("named", || is_named(&world, "is refused"));
    drop(cni);
    world.restart();
    assert!(!answers(&world));
    let cni = world.cni();
    assert_eq!(world.adds(&cni, "db"), "");
    world.lab.wait("named", || is_named(&world, "is refused"));
    redirected(&world);
    assert!(!world.lab.tool("db", "nft list tables").contains("adit-refuse"));
}

/// Whether rules of adit refuse plaintext in db.
fn refuses(world: &World) -> bool {
    world.lab.tool("db", "nft list tables").contains("adit-refuse")
}

/// db has no rules, and refuses plaintext, as others on this node are redirected.
fn refused_without_rules(world: &World) {
    let cni = world.cni();
    assert_eq!(world.adds(&cni, "web"), "");
    world.lab.wait("named", || !world.pods.unprotected().is_empty());
    world.redirects("web");
    world.lab.wait("well", || world.pods.unprotected().is_empty());
    assert_eq!(world.adds(&cni, "db"), "");
    world.lab.wait("named", || is_named(world, "is refused"));
}

fn draining() {
    let mut world = World::new();
    let cni = world.cni();
    world.names(&[("web", "web", "10.77.0.1"), ("db", "db", "10.77.0.2")]);
    for pod in ["web", "db"] {
        world.redirects(pod);
        assert_eq!(world.adds(&cni, pod), "");
    }
    world.lab.wait("well", || world.pods.unprotected().is_empty());
    let mut held = world.lab.connect("web", "10.77.0.2:8080").unwrap();
    held.read_exact(&mut [0; 17]).expect("it is carried");
    world.stops();
    world.lab.wait("it drains", || !world.listens("db"));
    // istio-cni takes the pod out of the mesh, and tells the next process only.
    world.lab.tool("db", "nft delete table inet istio-ambient-nat");
    world.ends();
    assert!(!refuses(&world) && answers(&world));
}

fn bypass() {
    let world = World::new();
    refused_without_rules(&world);
    assert!(!answers(&world));
    world.redirects("db");
    let arrives = "nft delete chain inet istio-ambient-nat prerouting";
    world.lab.tool("db", arrives);
    world.lab.wait("admitted", || answers(&world));
    // It is named no more a moment later.
    world.lab.wait("well", || world.pods.unprotected().is_empty());
}

fn uncarried() {
    let mut world = World::new();
    refused_without_rules(&world);
    world.restart();
    let taken = world.netns("db").run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 15008)));
    let cni = world.cni();
    assert_ne!(world.adds(&cni, "db"), "");
    assert!(refuses(&world));
    assert_eq!(cni.asks(&del("uid-db"), &[]), "");
    world.lab.wait("admitted", || answers(&world));
    drop(taken);
}

fn gap() {
    let world = World::new();
    let listener = world.lab.listen("db", 9090);
    let mut caller = world.lab.connect("spy", "10.77.0.2:9090").unwrap();
    let (mut served, _) = listener.accept().unwrap();
    refused_without_rules(&world);
    // The pod speaks first, by which conntrack takes it for the caller.
    served.write_all(b"welcome").unwrap();
    caller.write_all(b"secret").unwrap();
    served.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(served.read(&mut [0; 16]).is_err(), "nothing arrives");
}

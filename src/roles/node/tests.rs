//! Which callers a node trusts, without a network: on one view of the mesh, with records that were
//! never sockets.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{Entered, Lacking, Node, arrival, destination, inbound, recheck};
use crate::{
    authority::EmbeddedCa,
    credentials::Svids,
    identity::SpiffeId,
    lifecycle::Tasks,
    mesh::{
        Membership, MtlsMode, Service, ServicePort, Store, Template, Workload,
        source::file::MeshParts,
    },
    net::{CloseReason, Direction, Flow, PeerAddr, PodName},
    observe::{Telemetry, conn::OpenConn},
    policy::{Action, FieldMatch, Match, Policy, Rule, Scope, StringMatch},
};

fn workload(namespace: &str, name: &str, address: &str) -> Workload {
    let id = format!("spiffe://td/ns/{namespace}/sa/{name}").parse().unwrap();
    let hostname = format!("{name}.shop").into();
    let ports = Box::default();
    let behind = Membership { namespace: namespace.into(), hostname, ports };
    let services = [behind].into();
    let template = Template { services, ..Template::new(namespace.into(), id) };
    Workload {
        uid: format!("{namespace}/{name}").into(),
        name: name.into(),
        addresses: [address.parse().unwrap()].into(),
        node: None,
        healthy: true,
        template: Arc::new(template),
        local: None,
    }
}

fn service(hostname: &str, port: u16) -> Service {
    let ports = vec![ServicePort { port, target_port: 8080 }];
    Service { ports, ..Service::new("shop".into(), hostname.into()) }
}

/// Whoever is of the namespace may call everybody.
fn from_namespace(namespace: &str) -> Policy {
    let any = vec![StringMatch::parse(namespace).unwrap()];
    let namespaces = FieldMatch { any, none: vec![] };
    let source = Match { namespaces, ..Match::default() };
    Policy {
        name: "callers".into(),
        namespace: "shop".into(),
        scope: Scope::Global,
        action: Action::Allow,
        dry_run: false,
        rules: vec![Rule { clauses: vec![source.into()], ..Rule::default() }],
    }
}

fn parts(mtls: MtlsMode, policies: Vec<Policy>) -> MeshParts {
    let mut parts = MeshParts {
        trust_domain: "td".parse().unwrap(),
        mtls,
        workloads: vec![workload("shop", "db", "10.0.0.2"), workload("shop", "api", "10.0.0.3")],
        services: vec![service("db.shop", 80), service("api.shop", 81)],
        policies,
    };
    parts.select();
    parts
}

/// What the pod is called that everybody calls.
fn db() -> PodName {
    PodName { uid: "shop/db".into(), name: "shop/db".into(), service_account: None }
}

struct World {
    node: Node,
    store: Store,
    attached: Option<Entered>,
    _ca: tempfile::TempDir,
}

fn world(mtls: MtlsMode, policies: Vec<Policy>) -> World {
    let dir = tempfile::tempdir().unwrap();
    let ca = EmbeddedCa::open(dir.path(), &"td".parse().unwrap(), Duration::from_secs(60));
    let store = parts(mtls, policies).store();
    let telemetry = Telemetry::new().unwrap();
    let metrics = Arc::clone(&telemetry.metrics);
    let svids = Arc::new(Svids::new(Arc::new(ca.unwrap()), metrics, Tasks::default()));
    let node = Node::new(store.view(), svids, telemetry);
    let attached = Some(node.pods.enter(&Arc::new(db())));
    World { node, store, attached, _ca: dir }
}

impl World {
    /// An open connection to `db`, admitted if it may be; `caller` is who has proven itself.
    fn open(&self, caller: Option<&str>) -> (OpenConn, Result<(), CloseReason>) {
        let peer = PeerAddr("10.0.0.9:999".parse().unwrap());
        let conn = OpenConn::open(&self.node.telemetry, Direction::Inbound, peer);
        let own: SpiffeId = "spiffe://td/ns/shop/sa/db".parse().unwrap();
        let caller: Option<SpiffeId> = caller.map(|id| id.parse().unwrap());
        let foreign = caller.as_ref().is_some_and(|id| id.trust_domain() != own.trust_domain());
        conn.metadata(|f| {
            f.src.id = caller.clone();
            f.dst.id = caller.is_some().then_some(own);
            f.pod = Some(Arc::new(db()));
        });
        let dst: SocketAddr = "10.0.0.2:8080".parse().unwrap();
        let (direction, peer_id, other_principals) = (Direction::Inbound, caller, Vec::new());
        let flow = Flow { direction, peer, peer_id, foreign, other_principals, dst };
        let flow = flow.with_aliases(&self.node.config.aliases, &"td".parse().unwrap());
        let admitted = inbound::authorize(&self.node, &db(), flow, &conn);
        (conn, admitted.map_err(|(reason, _)| reason))
    }

    fn now(&mut self, mtls: MtlsMode, policies: Vec<Policy>) -> usize {
        parts(mtls, policies).apply(&mut self.store);
        let changes = self.store.take_changes();
        self.node.mesh.store(Arc::new(self.store.view()));
        recheck(&self.node, &changes.rules())
    }
}

const WEB: &str = "spiffe://td/ns/shop/sa/web";

#[test]
fn plaintext_is_refused_and_closed_where_mtls_is_strict() {
    let mut world = world(MtlsMode::Permissive, vec![]);
    let (plain, admitted) = world.open(None);
    assert_eq!(admitted, Ok(()));
    let (proven, admitted) = world.open(Some(WEB));
    assert_eq!(admitted, Ok(()));
    assert_eq!(world.now(MtlsMode::Permissive, vec![]), 0);
    assert_eq!(world.now(MtlsMode::Strict, vec![]), 1);
    assert_eq!(plain.live().was_cut(), Some(CloseReason::PolicyChanged));
    assert_eq!(proven.live().was_cut(), None);
    let (_late, admitted) = world.open(None);
    assert_eq!(admitted, Err(CloseReason::PlaintextRefused));
}

/// Its namesake of another trust domain is nobody here, at the start and at each look after.
#[test]
fn a_caller_of_another_trust_domain_is_judged_as_one_again_and_again() {
    let foreign = WEB.replace("td", "other.td");
    let mut world = world(MtlsMode::Strict, vec![from_namespace("shop")]);
    assert_eq!(world.open(Some(&foreign)).1, Err(CloseReason::PolicyDenied));
    assert_eq!(world.open(Some(WEB)).1, Ok(()));
    let empty = vec![];
    world.now(MtlsMode::Strict, empty);
    let (stranger, admitted) = world.open(Some(&foreign));
    assert_eq!(admitted, Ok(()), "without any policy");
    let (own, _) = world.open(Some(WEB));
    assert_eq!(world.now(MtlsMode::Strict, vec![from_namespace("shop")]), 1);
    assert_eq!(stranger.live().was_cut(), Some(CloseReason::PolicyChanged));
    assert_eq!(own.live().was_cut(), None);
    assert_eq!(own.metadata(|f| f.policy.clone()).as_deref(), None, "as it was admitted");
    assert_eq!(
        world.now(MtlsMode::Strict, vec![from_namespace("bank")]),
        2,
        "and what is cut stays"
    );
}

/// The same caller by another name of the trust domain.
#[test]
fn a_caller_of_an_alias_is_judged_as_one_of_ours_again_and_again() {
    let mut world = world(MtlsMode::Strict, vec![]);
    let alias = WEB.replace("td", "old.td");
    world.node.config.aliases = ["old.td".parse().unwrap()].into_iter().collect();
    let (conn, admitted) = world.open(Some(&alias));
    assert_eq!(admitted, Ok(()));
    assert_eq!(world.now(MtlsMode::Strict, vec![from_namespace("shop")]), 0);
    assert_eq!(world.open(Some(&alias)).1, Ok(()));
    assert_eq!(world.now(MtlsMode::Strict, vec![from_namespace("bank")]), 1);
    assert_eq!(conn.live().was_cut(), Some(CloseReason::PolicyChanged));
}

#[test]
fn a_policy_that_is_lacking_saves_nobody_whom_another_denies() {
    let mut world = world(MtlsMode::Permissive, vec![]);
    let (web, _) = world.open(Some(WEB));
    let (other, _) = world.open(Some(&WEB.replace("web", "other")));
    world.store.lack_policy("shop/lost", "shop");
    assert_eq!(world.now(MtlsMode::Permissive, vec![]), 0, "it may come still");
    let web_alone = Match {
        principals: FieldMatch {
            any: vec![StringMatch::parse("td/ns/shop/sa/web").unwrap()],
            none: vec![],
        },
        ..Match::default()
    };
    let denies = Policy {
        action: Action::Deny,
        rules: vec![Rule { clauses: vec![web_alone.into()], ..Rule::default() }],
        ..from_namespace("shop")
    };
    assert_eq!(world.now(MtlsMode::Permissive, vec![denies]), 1, "at once");
    assert_eq!(web.live().was_cut(), Some(CloseReason::PolicyChanged));
    assert_eq!(other.live().was_cut(), None);
}

#[tokio::test(start_paused = true)]
async fn pods_have_their_time_for_a_policy_and_those_that_lack_none_are_not_looked_at() {
    let mut world = world(MtlsMode::Permissive, vec![]);
    let (conn, _) = world.open(Some(WEB));
    let mut lacking = Lacking::default();
    let in_time = || tokio::time::Instant::now() + Duration::from_secs(5);
    let until = in_time();
    for lacks in [true, false, true] {
        if lacks {
            world.store.lack_policy("shop/lost", "shop");
        } else {
            world.store.remove_policy("shop/lost");
        }
        let changes = world.store.take_changes().rules();
        world.node.mesh.store(Arc::new(world.store.view()));
        lacking.look(&world.node, &changes, in_time());
        assert_eq!(lacking.due(), lacks.then_some(until));
    }
    // Another workload is told of, which is no pod here.
    world.store.upsert_workload(workload("bank", "far", "10.0.9.9"));
    let changes = world.store.take_changes().rules();
    tokio::time::advance(Duration::from_secs(1)).await;
    lacking.look(&world.node, &changes, in_time());
    assert_eq!((lacking.due(), recheck(&world.node, &changes)), (Some(until), 0));
    tokio::time::advance(Duration::from_secs(4)).await;
    assert_eq!(lacking.recheck(&world.node), 1);
    assert_eq!(conn.live().was_cut(), Some(CloseReason::PolicyChanged));
    // Of a pod of which nothing is there any more, nothing is open.
    world.attached = None;
    world.store.lack_policy("shop/more", "shop");
    let changes = world.store.take_changes().rules();
    world.node.mesh.store(Arc::new(world.store.view()));
    lacking.look(&world.node, &changes, in_time());
    assert_eq!(lacking.due(), None);
}

#[test]
fn a_name_is_for_the_pods_behind_it_only() {
    let mesh = parts(MtlsMode::Strict, vec![]).store().view();
    for (uid, host, port, target) in [
        ("shop/db", "db.shop", 80, Some(8080)),
        ("shop/db", "db.shop", 8080, None),
        ("shop/db", "api.shop", 81, None),
        ("shop/api", "api.shop", 81, Some(8080)),
        ("shop/api", "db.shop", 80, None),
        ("shop/db", "db", 80, None),
        ("shop/db", "nobody.shop", 80, None),
    ] {
        let workload = mesh.workload(uid).unwrap();
        let service = mesh.service_by_name(host, "shop");
        let found = service.and_then(|of| destination::service_port(of, workload, port));
        assert_eq!(found, target, "{host}:{port} at {uid}");
    }
}

#[test]
fn plaintext_is_not_for_our_ports() {
    let mut world = world(MtlsMode::Permissive, vec![]);
    for (port, taken, with_socks) in [
        (8080, true, true),
        (15001, false, false),
        (15006, false, false),
        (15008, false, false),
        (15080, true, false),
    ] {
        for (socks5, taken) in [(false, taken), (true, with_socks)] {
            world.node.config.socks5 = socks5;
            for address in ["10.0.0.2", "fd00::2"] {
                let dst = (address.parse::<IpAddr>().unwrap(), port).into();
                let refused = arrival::not_ours(dst, world.node.own_ports());
                assert_eq!(
                    refused.map_err(|(reason, _)| reason).err(),
                    (!taken).then_some(CloseReason::DirectCall),
                    "{address} {port}"
                );
            }
        }
    }
}

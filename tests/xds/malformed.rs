//! Resources without sense, pushed in any order, between streams that end: a node answers each push,
//! says what it did not take, and is in the end where a node is that was told the last state alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use adit::{
    mesh::{
        MtlsMode, Store,
        source::xds::{
            DeltaAds, NodeIdentity, Received, TypeUrl, apply_addresses, apply_authorizations,
        },
    },
    rpc::{
        address::{Address, Service, Workload, address::Type},
        authorization::Authorization,
        discovery::{DeltaDiscoveryResponse, Resource},
    },
};
use proptest::prelude::*;

use super::{
    fake_istiod::{ADDRESS, AUTHORIZATION, resource},
    world::{BAD, World, pod, policy},
};

/// What is done to a resource that was right.
#[derive(Clone, Debug)]
enum Harm {
    None,
    CutAt(u8),
    Flipped(u8, u8),
    NoContent,
    OtherType,
    LongVersion,
    OtherName,
}

/// What happens at a node.
#[derive(Clone, Debug)]
enum Step {
    /// These are pushed: which, and in what version.
    Pushes(TypeUrl, Vec<(usize, u8, Harm)>),
    /// These are taken back, whether or not they are there.
    TakesBack(TypeUrl, Vec<usize>),
    /// The stream ends, and the next one begins.
    Reconnects,
}

const NAMES: usize = 4;

fn any_type() -> impl Strategy<Value = TypeUrl> {
    prop_oneof![Just(TypeUrl::Address), Just(TypeUrl::Authorization)]
}

fn any_harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        4 => Just(Harm::None),
        2 => any::<u8>().prop_map(Harm::CutAt),
        2 => (any::<u8>(), 0..8_u8).prop_map(|(at, bit)| Harm::Flipped(at, bit)),
        1 => Just(Harm::NoContent),
        1 => Just(Harm::OtherType),
        1 => Just(Harm::LongVersion),
        1 => Just(Harm::OtherName),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let pushed = proptest::collection::vec((0..NAMES, 0..4_u8, any_harm()), 0..4);
    let gone = proptest::collection::vec(0..NAMES, 0..3);
    prop_oneof![
        4 => (any_type(), pushed).prop_map(|(of, all)| Step::Pushes(of, all)),
        2 => (any_type(), gone).prop_map(|(of, all)| Step::TakesBack(of, all)),
        1 => Just(Step::Reconnects),
    ]
}

fn name(of: TypeUrl, n: usize) -> String {
    match (of, n) {
        (TypeUrl::Address, 0) => "mesh/db.mesh".to_owned(),
        (TypeUrl::Address, n) => format!("Kubernetes//Pod/mesh/pod-{n}"),
        (TypeUrl::Authorization, n) => format!("mesh/policy-{n}"),
    }
}

/// As it is right, in one of a few versions.
fn good(of: TypeUrl, n: usize, version: u8) -> Resource {
    let (named, text) = (name(of, n), version.to_string());
    let addresses = vec![vec![10, 0, version, u8::try_from(n).unwrap()]];
    let content = match (of, n) {
        (TypeUrl::Authorization, _) => {
            let (namespace, policy) = named.split_once('/').unwrap();
            let message = Authorization {
                name: policy.into(),
                namespace: namespace.into(),
                scope: i32::from(version % 3),
                action: i32::from(version / 3),
                ..Authorization::default()
            };
            return resource(AUTHORIZATION, &named, "", &message);
        }
        (TypeUrl::Address, 0) => Type::Service(Service {
            name: "db".into(),
            namespace: "mesh".into(),
            hostname: "db.mesh".into(),
            ..Service::default()
        }),
        (TypeUrl::Address, _) => Type::Workload(Workload {
            uid: named.clone(),
            name: format!("pod-{n}"),
            namespace: "mesh".into(),
            addresses,
            canonical_revision: text.clone(),
            authorization_policies: vec![name(TypeUrl::Authorization, n)],
            ..Workload::default()
        }),
    };
    resource(ADDRESS, &named, &text, &Address { r#type: Some(content) })
}

fn harmed(mut resource: Resource, harm: &Harm) -> Resource {
    let Some(content) = &mut resource.resource else { return resource };
    let mut bytes = content.value.to_vec();
    match harm {
        Harm::None | Harm::NoContent => {}
        Harm::CutAt(at) => bytes.truncate(usize::from(*at) % bytes.len().max(1)),
        Harm::Flipped(at, bit) => {
            let at = usize::from(*at) % bytes.len().max(1);
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
        }
        Harm::OtherType => content.type_url = "type.googleapis.com/another".into(),
        Harm::LongVersion => resource.version = "v".repeat(300),
        Harm::OtherName => resource.name = format!("{}-other", resource.name),
    }
    content.value = bytes.into();
    // What is not the same is not of the same version.
    if !matches!(harm, Harm::None | Harm::LongVersion) && !resource.version.is_empty() {
        resource.version.push('x');
    }
    if matches!(harm, Harm::NoContent) {
        resource.resource = None;
    }
    resource
}

/// A node, and all that its control plane has.
struct Node {
    ads: DeltaAds,
    store: Store,
    has: BTreeMap<(u8, String), Resource>,
}

impl Node {
    fn new() -> Self {
        let identity = NodeIdentity { id: "ztunnel~10.0.0.1~a.b~c".into(), metadata: [].into() };
        let store = Store::new("cluster.local".parse().unwrap(), MtlsMode::Permissive);
        let mut ads = DeltaAds::new(&identity, false);
        ads.connected();
        Self { ads, store, has: BTreeMap::new() }
    }

    async fn hears(&mut self, of: TypeUrl, resources: Vec<Resource>, removed: Vec<String>) {
        let named: BTreeSet<_> = resources.iter().map(|r| r.name.clone()).collect();
        let response = DeltaDiscoveryResponse {
            type_url: of.as_str().into(),
            nonce: "n".into(),
            resources,
            removed_resources: removed,
            ..DeltaDiscoveryResponse::default()
        };
        let Ok(Received::Delta(delta, pending)) = self.ads.received(response) else {
            panic!("a type that is known");
        };
        let faults = match of {
            TypeUrl::Address => apply_addresses(&mut self.store, delta).await,
            TypeUrl::Authorization => apply_authorizations(&mut self.store, delta).await,
        };
        let applied = self.ads.applied(pending, faults, Instant::now());
        assert_eq!(applied.request.error_detail.is_some(), !applied.faults.is_empty());
        for fault in &applied.faults {
            assert!(named.contains(&*fault.name), "{fault:?}");
        }
        self.store.take_changes();
    }

    async fn does(&mut self, step: &Step) {
        match step {
            Step::Pushes(of, all) => {
                let sent =
                    all.iter().map(|(n, version, harm)| harmed(good(*of, *n, *version), harm));
                let sent: Vec<_> = sent.collect();
                for resource in &sent {
                    self.has.insert((*of as u8, resource.name.clone()), resource.clone());
                }
                self.hears(*of, sent, Vec::new()).await;
            }
            Step::TakesBack(of, all) => {
                let names: Vec<_> = all.iter().map(|n| name(*of, *n)).collect();
                for name in &names {
                    self.has.remove(&(*of as u8, name.clone()));
                }
                self.hears(*of, Vec::new(), names).await;
            }
            Step::Reconnects => self.reconnects().await,
        }
    }

    /// As istiod does: all is sent again, and what the node names that is no more is taken back.
    async fn reconnects(&mut self) {
        self.ads.disconnected(false);
        let opening = self.ads.connected();
        for (request, of) in opening.requests.iter().zip([TypeUrl::Address, TypeUrl::Authorization])
        {
            let all = self.has.iter().filter(|((kind, _), _)| *kind == of as u8);
            let all: Vec<_> = all.map(|(_, resource)| resource.clone()).collect();
            let there: BTreeSet<_> = all.iter().map(|r| &*r.name).collect();
            let named = request.initial_resource_versions.keys();
            let gone = named.filter(|name| !there.contains(&***name)).cloned().collect();
            self.hears(of, all, gone).await;
        }
    }

    /// All that a node knows, and which workloads nobody may call.
    fn knows(&self) -> (serde_json::Value, Vec<String>) {
        let view = self.store.view();
        let closed = view.workloads().filter(|w| view.rules(&w.uid).lacks_policy());
        let mut closed: Vec<_> = closed.map(|w| w.uid.to_string()).collect();
        closed.sort();
        (serde_json::to_value(view.dump()).unwrap(), closed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_was_pushed_a_node_ends_where_its_control_plane_is(
        steps in proptest::collection::vec(any_step(), 0..24),
        last in proptest::collection::vec((any_type(), 0..NAMES, 0..4_u8), 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut node = Node::new();
            for step in &steps {
                node.does(step).await;
            }
            // While nobody is connected, it becomes another mesh, in which all is right.
            let mut fresh = Node::new();
            let right = last.iter().map(|&(of, n, version)| good(of, n, version));
            fresh.has = right
                .zip(&last)
                .map(|(resource, (of, ..))| ((*of as u8, resource.name.clone()), resource))
                .collect();
            node.has.clone_from(&fresh.has);
            node.reconnects().await;
            fresh.reconnects().await;
            assert_eq!(node.knows(), fresh.knows());
        });
    }
}

/// A message of each kind that no istiod sends, with one that is right.
#[tokio::test]
async fn each_malformed_resource_is_named_and_its_neighbour_is_in_force() {
    let mut world = World::new();
    let mut stream = world.synced().await;
    let workload = |change: fn(&mut Workload)| {
        let mut sent = Workload {
            uid: "Kubernetes//Pod/mesh/odd".into(),
            name: "odd".into(),
            namespace: "mesh".into(),
            ..Workload::default()
        };
        change(&mut sent);
        let address = Address { r#type: Some(Type::Workload(sent)) };
        resource(ADDRESS, "Kubernetes//Pod/mesh/odd", "1", &address)
    };
    let raw = |bytes: &[u8]| {
        let mut resource = pod("odd", "1");
        resource.resource.as_mut().unwrap().value = bytes.to_vec().into();
        resource
    };
    let cases = [
        ("an address of five bytes", workload(|w| w.addresses = vec![vec![1, 2, 3, 4, 5]])),
        ("another's name", workload(|w| w.uid = "Kubernetes//Pod/mesh/else".into())),
        ("a protocol of tomorrow", workload(|w| w.tunnel_protocol = 99)),
        ("nothing", raw(b"")),
        ("a cut field", raw(b"\x0a\x40\x01")),
        ("a number without end", raw(&[0xff; 16])),
        ("a text that is none", raw(b"\x0a\x04\x0a\x02\xff\xfe")),
        ("a group that does not end", raw(&[0x0b; 200])),
    ];
    for (n, (what, odd)) in cases.into_iter().enumerate() {
        let name = format!("right-{n}");
        let ack = stream.push(ADDRESS, vec![odd, pod(&name, "1")], &[]).await;
        let nack = ack.error_detail.unwrap_or_else(|| panic!("{what} is taken"));
        assert!(nack.message.starts_with("Kubernetes//Pod/mesh/odd: "), "{what}: {nack:?}");
        assert!(world.names().contains(&format!("Kubernetes//Pod/mesh/{name}")), "{what}");
    }
    let ack = stream.push(AUTHORIZATION, vec![policy("mesh/p")], &["mesh/q", "", "/"]).await;
    assert_eq!(ack.error_detail, None, "what goes may never have been there");
    let mut odd = policy("mesh/odd");
    odd.resource.as_mut().unwrap().value = vec![0xff; 16].into();
    let ack = stream.push(AUTHORIZATION, vec![odd, policy("mesh/r")], &[]).await;
    assert!(ack.error_detail.unwrap().message.starts_with("mesh/odd: "));
    assert!(world.names().contains(&"mesh/r".to_owned()));
    assert!(!world.names().iter().any(|name| name.contains(BAD) || name.contains("odd")));
}

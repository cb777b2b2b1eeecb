//! A node of a cluster whose control plane is Cilium's agent: pods and identities from the node's
//! own agent, on the node's own network, and leaves without key usage.

use std::sync::Arc;

use http::Request;
use rcgen::{BasicConstraints, CertificateParams, IsCa};

use crate::{
    corpus::Forged,
    fake_cilium::{Endpoint, FakeCilium, Leaves},
    fake_cni::del,
    forge::{self, uncaptured},
    harness::Test,
    lab::Lab,
    node::Node,
    pki::{Ca, Leaf, uri},
    rules_of_cni::redirect,
    wait::{LIMIT, wait_until},
};

pub(crate) const TESTS: &[Test] = &[
    ("cilium::pods_of_a_node_and_of_two_call_each_other_as_who_they_are", carried),
    ("cilium::pods_come_and_go_as_the_agent_says", come_and_go),
    ("cilium::leaves_without_key_usage_are_refused_where_that_is_asked_for", refused),
    ("cilium::a_node_uses_no_such_leaf_itself_where_that_is_asked_for", refused_as_own),
    ("cilium::a_ca_certificate_and_another_trust_domain_are_refused_all_the_same", impostors),
];

const NAMESPACES: &[(&str, u8)] =
    &[("web", 1), ("db", 2), ("far", 3), ("spy", 4), ("n1", 201), ("n2", 202)];

/// Where an agent is, on its node.
const AT: &str = "127.0.0.1:15012";

const FIRST: &str = "10.77.0.201";
const SECOND: &str = "10.77.0.202";
const WEB: Endpoint = endpoint("uid-web", "web", "10.77.0.1", FIRST);
const DB: Endpoint = endpoint("uid-db", "db", "10.77.0.2", FIRST);
const FAR: Endpoint = endpoint("uid-far", "far", "10.77.0.3", SECOND);

const fn endpoint(
    pod_uid: &'static str,
    name: &'static str,
    address: &'static str,
    node: &'static str,
) -> Endpoint {
    Endpoint { pod_uid, name, namespace: "shop", service_account: name, address, node }
}

struct World {
    first: Node,
    second: Node,
    agents: [FakeCilium; 2],
    ca: Arc<Ca>,
    lab: Lab,
}

impl World {
    /// Two nodes; `leaves` are how the agent of each makes them, and `said` what is said to its
    /// proxy beside.
    fn new(nodes: [(Leaves, &[(&'static str, &str)]); 2], pods: &[Endpoint]) -> Self {
        let lab = Lab::new(NAMESPACES);
        for pod in ["web", "db", "far"] {
            lab.echo(pod, 8080);
            redirect(&lab, pod);
        }
        let bootstrap = Ca::self_signed("localhost");
        std::fs::write(lab.file("bootstrap-root.crt"), &bootstrap.pem).unwrap();
        let ca = Arc::new(Ca::new("the cluster", None));
        let start = |netns: &str, leaves| {
            let start = || {
                let signs = (Arc::clone(&ca), leaves);
                FakeCilium::start_at(AT.parse().unwrap(), &bootstrap, signs, pods)
            };
            lab.netns(netns).run(start).unwrap()
        };
        let [first, second] = nodes;
        let agents = [start("n1", first.0), start("n2", second.0)];
        let said = |node: Node, said: &[(&'static str, &str)]| {
            said.iter().fold(node, |node, (variable, value)| node.with(variable, *value))
        };
        let first = said(Node::of_cilium("n1", FIRST), first.1);
        let second = said(Node::of_cilium("n2", SECOND), second.1);
        Self { first, second, agents, ca, lab }
    }

    /// All run, and these pods are on them.
    fn runs(&mut self, of_first: &[&str], of_second: &[&str]) {
        let Self { first, second, lab, .. } = self;
        for (node, pods) in [(first, of_first), (second, of_second)] {
            node.starts_cni(lab);
            node.launch(lab);
            node.announces(pods);
        }
    }

    fn running() -> Self {
        let mut world = Self::new([(Leaves::Bare, &[]); 2], &[WEB, DB, FAR]);
        world.runs(&["web", "db"], &["far"]);
        for node in [&world.first, &world.second] {
            node.says_of_readiness(&world.lab, "200 OK");
        }
        world
    }

    #[track_caller]
    fn answered(&self, pod: &str, to: &str) {
        let caller = NAMESPACES.iter().find(|(name, _)| *name == pod).unwrap().1;
        let answer = self.lab.ask(pod, to).map_err(|e| e.to_string());
        assert_eq!(answer, Ok(format!("caller 10.77.0.{caller}\nhello\n")), "{pod} to {to}");
    }

    #[track_caller]
    fn agents_are_content(&self) {
        let errors = self.agents.each_ref().map(FakeCilium::errors).concat();
        assert_eq!(errors, Vec::<String>::new());
    }
}

fn carried() {
    let world = World::running();
    let World { first, second, lab, .. } = &world;
    world.answered("web", "10.77.0.2:8080");
    world.answered("web", "10.77.0.3:8080");
    world.answered("far", "10.77.0.1:8080");
    let id = |pod: &str| format!("spiffe://cluster.local/ns/shop/sa/{pod}");
    for (caller, at, called) in
        [("web", first, "db"), ("web", second, "far"), ("far", first, "web")]
    {
        let line = at.counts(
            lab,
            &format!(
                "istio_tcp_connections_opened_total{{ … reporter=\"destination\" … \
                 source_principal=\"{}\" … destination_principal=\"{}\" … \
                 connection_security_policy=\"mutual_tls\"",
                id(caller),
                id(called),
            ),
        );
        // The agent says no more than which pod it is.
        for unknown in ["destination_version", "source_version", "destination_service"] {
            assert!(line.contains(&format!("{unknown}=\"unknown\"")), "{unknown}: {line}");
        }
        assert!(line.contains(&format!("destination_workload=\"{called}\"")), "{line}");
    }
    assert_eq!(first.certificates(lab), [id("db"), id("web")]);
    let dump = first.dump(lab);
    assert_eq!(dump["config"]["leafKeyUsage"], "optional");
    assert_eq!(dump["config"]["localNode"], FIRST);
    first.adit().logs("leaf certificates without key usage are accepted … Cilium's agent");
    world.agents_are_content();
}

fn come_and_go() {
    let mut world = World::new([(Leaves::Bare, &[]); 2], &[WEB]);
    world.runs(&["web"], &[]);
    let World { first, second, agents, lab, .. } = &world;
    // The agent of each node hears of a pod, and that of its own node enrols it.
    agents.iter().for_each(|agent| agent.upserts(&FAR));
    assert_eq!(second.adds("far", "far"), "");
    wait_until("far has its SVID", LIMIT, || second.certificates(lab).len() == 1);
    wait_until("far is known at the other node", LIMIT, || {
        first.dump(lab)["workloads"].to_string().contains("uid-far")
    });
    world.answered("web", "10.77.0.3:8080");
    assert_eq!(second.agent().asks(&del("uid-far"), &[]), "");
    agents.iter().for_each(|agent| agent.removes("uid-far"));
    wait_until("its key is forgotten", LIMIT, || second.certificates(lab).is_empty());
    assert!(lab.ask("web", "10.77.0.3:15008").is_err());
    world.agents_are_content();
}

fn refused() {
    let strict: &[_] = &[("ADIT_LEAF_KEY_USAGE", "required")];
    let mut world =
        World::new([(Leaves::Bare, &[]), (Leaves::Conforming, strict)], &[WEB, DB, FAR]);
    world.runs(&["web", "db"], &["far"]);
    let World { first, second, lab, .. } = &world;
    world.answered("web", "10.77.0.2:8080");
    assert!(lab.ask("web", "10.77.0.3:8080").is_err(), "far refuses the leaf of web");
    assert!(lab.ask("far", "10.77.0.1:8080").is_err(), "and as a client too");
    for direction in ["inbound", "outbound"] {
        second.record(direction, |record| {
            record["direction"] == direction
                && record["error"].as_str().is_some_and(|why| why.contains("key usage is missing"))
        });
    }
    assert_eq!(second.dump(lab)["config"]["leafKeyUsage"], "required");
    assert_eq!(first.dump(lab)["config"]["leafKeyUsage"], "optional");
}

fn refused_as_own() {
    let strict: &[_] = &[("ADIT_LEAF_KEY_USAGE", "required")];
    let mut world = World::new([(Leaves::Bare, strict), (Leaves::Bare, &[])], &[WEB, DB, FAR]);
    world.runs(&["web", "db"], &["far"]);
    assert!(world.lab.ask("web", "10.77.0.2:8080").is_err());
    world.first.adit().logs("was rejected … key usage is missing");
}

/// Signed by the cluster's own key, and without key usage.
fn impostors() {
    let world = World::running();
    let World { second, ca, lab, .. } = &world;
    let bare = |id: &str, change: &dyn Fn(&mut CertificateParams)| {
        ca.leaf("web", |leaf| {
            (leaf.key_usages, leaf.extended_key_usages) = Default::default();
            (leaf.is_ca, leaf.subject_alt_names) = (IsCa::NoCa, vec![uri(id)]);
            change(leaf);
        })
    };
    let (web, is_ca) =
        ("spiffe://cluster.local/ns/shop/sa/web", IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(asks(lab, bare(web, &|_| {})), Ok(200));
    let refused = |what: &str, leaf: Leaf| {
        assert!(asks(lab, leaf).is_err(), "{what}");
        second
            .record(what, |record| record["error"].as_str().is_some_and(|why| why.contains(what)));
    };
    refused("is a CA certificate", bare(web, &|leaf| leaf.is_ca = is_ca));
    let other = bare("spiffe://other.test/ns/shop/sa/web", &|_| {});
    refused("key usage is missing", other);
    let other = ca.leaf("web", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://other.test/ns/shop/sa/web")];
    });
    refused("other.test has no bundle here", other);
}

/// Asks `far` for its application with this leaf; the status, or what went wrong.
fn asks(lab: &Lab, leaf: Leaf) -> Result<u16, String> {
    let connect = Request::builder().method(http::Method::CONNECT).uri("10.77.0.3:8080");
    let forged = Forged { key: leaf.key(), chain: leaf.chain };
    forge::request(uncaptured(lab, "10.77.0.3:15008"), forged, connect.body(()).unwrap())
}

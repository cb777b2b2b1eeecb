//! Two nodes with three pods and a fourth that nobody captures, and the control plane of their
//! mesh.

use std::io::ErrorKind;

use adit::rpc::discovery::Resource;

use crate::{
    istiod::Istiod,
    lab::Lab,
    node::Node,
    on_demand_istiod::Asked,
    resources::{service, workload},
    rules_of_cni::redirect,
};

/// `web` and `db` are of the first node, `far` is of the second; they have services at
/// 10.96.0.1, .2 and .3.
const NAMESPACES: &[(&str, u8)] = &[
    ("web", 1),
    ("db", 2),
    ("far", 3),
    ("spy", 4),
    // For a proxy that is not ours.
    ("proxy", 5),
    ("istiod", 250),
    ("n1", 201),
    ("n2", 202),
    // For what a rollout starts.
    ("n3", 203),
];

pub(crate) struct World {
    pub(crate) first: Node,
    pub(crate) second: Node,
    pub(crate) istiod: Istiod,
    /// The last to go.
    pub(crate) lab: Lab,
}

impl World {
    /// Pods with their applications and their redirection; nothing else runs.
    pub(crate) fn new() -> Self {
        let lab = Lab::new(NAMESPACES);
        for pod in ["web", "db", "far"] {
            lab.echo(pod, 8080);
            redirect(&lab, pod);
        }
        let mut istiod = Istiod::new(lab.netns("istiod"));
        std::fs::write(lab.file("root-cert.pem"), istiod.roots()).unwrap();
        std::fs::write(lab.file("istio-token"), "a-token\n").unwrap();
        istiod.says(vec![
            workload("web", "n1", "10.77.0.1", &[]),
            workload("db", "n1", "10.77.0.2", &[]),
            workload("far", "n2", "10.77.0.3", &[]),
            service("web", "10.96.0.1"),
            service("db", "10.96.0.2"),
            service("far", "10.96.0.3"),
        ]);
        let (first, second) = (Node::new("n1", "10.77.0.201"), Node::new("n2", "10.77.0.202"));
        Self { first, second, istiod, lab }
    }

    /// All run, and all pods are in the mesh.
    pub(crate) fn running() -> Self {
        Self::running_with(&[])
    }

    /// The same where the operator has set this.
    pub(crate) fn running_with(env: &[(&'static str, &'static str)]) -> Self {
        Self::met(env, |istiod| istiod.meets(2)).0
    }

    /// The same where nodes ask for the mesh one by one. Gives what they ask for.
    pub(crate) fn asking() -> (Self, Asked) {
        Self::asking_of(Vec::new())
    }

    /// The same of a mesh in which this is too.
    pub(crate) fn asking_of(more: Vec<Resource>) -> (Self, Asked) {
        let env = [("XDS_ON_DEMAND", "true"), ("ISTIO_META_DNS_CAPTURE", "false")];
        Self::met(&env, |istiod| {
            istiod.says(more);
            istiod.answers(2)
        })
    }

    fn met<T>(
        env: &[(&'static str, &'static str)],
        meets: impl FnOnce(&mut Istiod) -> T,
    ) -> (Self, T) {
        let mut world = Self::new();
        for node in [&mut world.first, &mut world.second] {
            node.said.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
        }
        let met = world.begins_with(meets);
        world.are_ready();
        (world, met)
    }

    /// All run, and are ready.
    pub(crate) fn runs(&mut self) {
        self.begins();
        self.are_ready();
    }

    fn are_ready(&self) {
        for node in [&self.first, &self.second] {
            node.says_of_readiness(&self.lab, "200 OK");
        }
    }

    /// All begin to run, and all pods are announced.
    pub(crate) fn begins(&mut self) {
        self.begins_with(|istiod| istiod.meets(2));
    }

    fn begins_with<T>(&mut self, meets: impl FnOnce(&mut Istiod) -> T) -> T {
        let Self { first, second, istiod, lab } = self;
        istiod.start();
        for node in [&mut *first, &mut *second] {
            node.starts_cni(lab);
            node.launch(lab);
        }
        let met = meets(istiod);
        first.announces(&["web", "db"]);
        second.announces(&["far"]);
        met
    }

    /// A call that must succeed: what the application says of it.
    #[track_caller]
    pub(crate) fn answered(&self, pod: &str, to: &str) {
        let caller = NAMESPACES.iter().find(|(name, _)| *name == pod).unwrap().1;
        let answer = self.lab.ask(pod, to);
        let expected = format!("caller 10.77.0.{caller}\nhello\n");
        assert_eq!(answer.map_err(|e| e.to_string()), Ok(expected), "{pod} to {to}");
    }

    /// A call that must be cut, and not time out.
    #[track_caller]
    pub(crate) fn refused(&self, pod: &str, to: &str) {
        match self.lab.ask(pod, to) {
            Ok(answer) => panic!("{pod} to {to}: {answer:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{pod} to {to}"),
        }
    }
}

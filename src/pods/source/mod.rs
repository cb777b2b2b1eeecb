//! Sources of the pods on this node: each turns what it is told into [`PodEvent`]s.

pub mod file;
pub mod zds;

use std::{fmt, io, sync::Arc};

use tokio::sync::oneshot;

use crate::{
    identity::SpiffeId,
    mesh::{Addresses, AppHop, NetnsRef, NonTcp, Workload},
    net::PodName,
    sys::netns::Netns,
};

/// What this node has to know of a pod to attach it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodFacts {
    /// Unlike that of any other pod: its workload's uid in the mesh, `namespace/name`, or what
    /// [`uid_of`] makes of its UID in Kubernetes.
    pub uid: Arc<str>,
    /// Its namespace in Kubernetes.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
    /// Its UID there, which no other pod ever has, if the source knows it.
    pub pod_uid: Option<Arc<str>>,
    /// Who it is.
    pub member: Member,
    /// Its network namespace.
    pub netns: PodNetns,
    /// How its applications' bytes come to us; it stays as the pod was attached.
    pub app_hop: AppHop,
    /// What happens to its non-TCP traffic: pass, count or drop.
    pub non_tcp: NonTcp,
}

/// Who a pod is in the mesh.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Member {
    /// The source says so.
    Known {
        /// Its SPIFFE ID.
        id: SpiffeId,
        /// Its addresses: its network namespace holds at least one of them.
        addresses: Addresses,
    },
    /// Its workload in the mesh says so, which may come later or never.
    Sought {
        /// The service account that it runs under.
        service_account: Arc<str>,
    },
}

/// The network namespace of a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PodNetns {
    /// The process's own.
    Own,
    /// What stands under this name.
    Named(NetnsRef),
    /// The one that the source has opened.
    Open(Arc<Netns>),
}

impl PodNetns {
    /// Its name, if it has one.
    pub fn named(&self) -> Option<&NetnsRef> {
        match self {
            Self::Named(name) => Some(name),
            Self::Own | Self::Open(_) => None,
        }
    }

    /// The device and inode of the namespace that is the pod's now.
    ///
    /// # Errors
    /// `NotFound` if there is none; any other error leaves open whether there is.
    pub fn key(&self) -> io::Result<(u64, u64)> {
        match self {
            Self::Named(name) => Netns::key_of(&name.path()),
            Self::Own => Netns::current().map(|netns| netns.key()),
            Self::Open(netns) => Ok(netns.key()),
        }
    }
}

/// The key of the pod with this Kubernetes UID. The slash distinguishes pods' keys from adit's own
/// key.
pub fn uid_of(pod_uid: &str) -> Arc<str> {
    format!("pod/{pod_uid}").into()
}

impl PodFacts {
    /// Those of a workload of this node.
    pub fn of(workload: &Workload) -> Self {
        let (id, addresses) = (workload.id().clone(), workload.addresses.clone());
        Self {
            uid: Arc::clone(&workload.uid),
            namespace: Arc::clone(workload.namespace()),
            name: workload.name().into(),
            pod_uid: workload.pod_uid().cloned(),
            member: Member::Known { id, addresses },
            netns: workload.netns().cloned().map_or(PodNetns::Own, PodNetns::Named),
            app_hop: workload.app_hop(),
            non_tcp: workload.non_tcp(),
        }
    }

    /// Whether a pod that was attached with the one goes on with the other. Any other namespace,
    /// identity or UID is another pod; with none of its addresses left, its namespace has to be
    /// checked again.
    pub fn is_same_pod(&self, other: &Self) -> bool {
        let is_same_member = match (&self.member, &other.member) {
            (Member::Known { id, addresses }, Member::Known { id: other, addresses: of_other }) => {
                id == other && addresses.iter().any(|address| of_other.contains(address))
            }
            (one, other) => one == other,
        };
        is_same_member
            && self.netns == other.netns
            && self.pod_uid == other.pod_uid
            && (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }

    /// What the pod is called while it runs.
    pub fn pod_name(&self) -> PodName {
        PodName {
            uid: Arc::clone(&self.uid),
            name: self.to_string().into(),
            service_account: match &self.member {
                Member::Known { .. } => None,
                Member::Sought { service_account } => Some(Arc::clone(service_account)),
            },
        }
    }
}

impl fmt::Display for PodFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a source says. Each event is answered: see [`super::announced::Announced::apply`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PodEvent {
    /// The source begins to name all pods that it knows, also those that it has named before: a new
    /// connection to it, or its first file.
    SnapshotBegins,
    /// This pod is on the node, with these facts in place of earlier ones.
    Upsert(Arc<PodFacts>),
    /// The pod of this uid is still on the node, with the facts that it has.
    Kept(Arc<str>),
    /// The pod of this uid has left the node or the mesh.
    Removed(Arc<str>),
    /// All were named: pods that were not named since [`PodEvent::SnapshotBegins`] have left.
    SnapshotEnds,
}

/// The result of an event: the pod is attached and captured, or has left; else why it is not.
pub type Answer = Result<(), Refused>;

/// Why what a source has asked for is not done, in words for whoever asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// An event of a source that waits for its answer.
#[derive(Debug)]
pub struct Announcement {
    /// What the source says.
    pub event: PodEvent,
    /// Where the answer goes. A source that does not need it drops the other end.
    pub answer: oneshot::Sender<Answer>,
}

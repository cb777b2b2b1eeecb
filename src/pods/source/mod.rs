//! Who says which pods are on this node: a source turns what it is told into [`PodEvent`]s.

pub(crate) mod file;

use std::{net::IpAddr, sync::Arc};

use crate::{
    identity::SpiffeId,
    mesh::{AppHop, NetnsRef, Workload},
};

/// What this node has to know of a pod to attach it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PodFacts {
    /// Its workload's uid in the mesh, `namespace/name`.
    pub(crate) uid: Arc<str>,
    /// Its namespace in Kubernetes.
    pub(crate) namespace: Arc<str>,
    /// Its name there.
    pub(crate) name: Arc<str>,
    /// Its UID there, which no other pod ever has, if the source knows it.
    pub(crate) pod_uid: Option<Arc<str>>,
    /// Its SPIFFE ID.
    pub(crate) id: SpiffeId,
    /// Its addresses: its network namespace holds at least one of them.
    pub(crate) addresses: Box<[IpAddr]>,
    /// Its network namespace; `None` is the process's own.
    pub(crate) netns: Option<NetnsRef>,
    /// How its applications' bytes come to us; it stays as the pod was attached.
    pub(crate) app_hop: AppHop,
}

impl PodFacts {
    /// Those of a workload of this node.
    pub(crate) fn of(workload: &Workload) -> Self {
        Self {
            uid: Arc::clone(&workload.uid),
            namespace: Arc::clone(workload.namespace()),
            name: Arc::clone(&workload.name),
            pod_uid: workload.pod_uid().cloned(),
            id: workload.id().clone(),
            addresses: workload.addresses.clone(),
            netns: workload.netns().cloned(),
            app_hop: workload.app_hop(),
        }
    }

    /// Whether a pod that was attached with the one goes on with the other. Any other namespace,
    /// identity or UID is another pod; with none of its addresses left, its namespace has to be
    /// checked again.
    pub(crate) fn is_same_pod(&self, other: &Self) -> bool {
        let addressed = self.addresses.iter().any(|address| other.addresses.contains(address));
        addressed
            && self.netns == other.netns
            && self.id == other.id
            && self.pod_uid == other.pod_uid
    }
}

/// What a source says. Each event is answered: see [`super::announced::Announced::apply`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum PodEvent {
    /// The source begins to name all pods that it knows, also those that it has named before: a new
    /// connection to it, or its first file.
    SnapshotBegins,
    /// This pod is on the node, with these facts in place of earlier ones.
    Upsert(Arc<PodFacts>),
    /// The pod of this uid has left the node or the mesh.
    Removed(Arc<str>),
    /// All were named: pods that were not named since [`PodEvent::SnapshotBegins`] have left.
    SnapshotEnds,
}

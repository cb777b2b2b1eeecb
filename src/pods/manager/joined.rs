//! Which workloads of the mesh the pods are whose source does not say so: looked at again after each
//! change of the mesh. A pod is its namesake only while its network namespace holds one of that
//! workload's addresses; its key is asked for then, and forgotten before it becomes another.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{Carried, PodManager, owner::listed};
use crate::{
    identity::SpiffeId,
    lifecycle::blocking,
    mesh::{Addresses, View, Workload},
    pods::source::Member,
    roles::node::{Pod, Recognition},
};

/// How soon it is looked again where a namespace did not hold an address.
const AGAIN: Duration = Duration::from_secs(2);

/// A pod that may be a workload.
struct Claim {
    pod: Arc<Pod>,
    id: SpiffeId,
    addresses: Addresses,
}

impl Claim {
    fn is_of(&self, workload: &Workload) -> bool {
        self.id == *workload.id() && self.addresses == workload.addresses
    }
}

impl PodManager {
    /// The mesh has changed: which pods are which of its workloads is to be looked at.
    pub fn mesh_changed(&self) {
        self.joins.notify_one();
    }

    /// Looks whenever the mesh or the pods have changed, until it is dropped.
    pub async fn join_mesh(self: Arc<Self>) {
        loop {
            let is_refuted = |c: &Carried| matches!(c.pod.recognition(), Recognition::Refuted(_));
            let any_refuted = self.with(|pods| pods.values().any(is_refuted));
            tokio::select! {
                () = self.joins.notified() => {}
                () = tokio::time::sleep(AGAIN), if any_refuted => {}
            }
            self.join_all().await;
        }
    }

    async fn join_all(&self) {
        let mesh = self.node.mesh.load_full();
        for claim in self.claims(&mesh) {
            let netns = Arc::clone(&claim.pod.netns);
            let there = match blocking(move || netns.addresses()).await {
                Ok(Ok(there)) => Ok(there),
                Ok(Err(error)) => Err(format!("{error}")),
                Err(error) => Err(format!("{error}")),
            };
            self.settle(claim, there);
        }
    }

    /// Takes back what is no longer so, and says what is to be looked at.
    fn claims(&self, mesh: &View) -> Vec<Claim> {
        let mut claims = Vec::new();
        self.with(|pods| {
            for c in pods.values_mut().filter(|c| matches!(c.facts.member, Member::Sought { .. })) {
                let (pod, known) = (&c.pod, c.pod.recognition());
                let workload = mesh.of_pod(&pod.name);
                match (&known, workload) {
                    (Recognition::Sought, None) => continue,
                    (Recognition::Proven { .. }, Some(workload)) if known.is_of(workload) => {
                        pod.set_recognition(known); // whoever has seen another view looks again
                        continue;
                    }
                    (Recognition::Refuted(_), Some(_)) => {} // until it is looked at
                    (Recognition::Proven { .. } | Recognition::Refuted(_), _) => {
                        pod.set_recognition(Recognition::Sought);
                        self.node.svids.retain(|uid| *uid != *pod.name.uid);
                    }
                    (Recognition::Sought | Recognition::Given | Recognition::Left, _) => {}
                }
                claims.extend(workload.map(|workload| Claim {
                    pod: Arc::clone(pod),
                    id: workload.id().clone(),
                    addresses: workload.addresses.clone(),
                }));
            }
        });
        claims
    }

    /// Says what a pod is, now that its namespace was looked at.
    fn settle(&self, claim: Claim, there: Result<Vec<IpAddr>, String>) {
        let mesh = self.node.mesh.load();
        let Claim { pod, id, addresses } = &claim;
        // Another pod, or another workload: it is looked at once more.
        if !mesh.of_pod(&pod.name).is_some_and(|workload| claim.is_of(workload)) {
            return;
        }
        self.with(|pods| {
            let carried = pods.get_mut(&pod.name.uid).filter(|c| Arc::ptr_eq(&c.pod, pod));
            let Some(carried) = carried else { return };
            let why = match &there {
                Ok(there) if addresses.iter().any(|address| there.contains(address)) => None,
                Ok(there) => Some(format!(
                    "pod {}: its network namespace has {}, but the mesh says {}: it may belong to \
                     another pod, so adit does not act for it",
                    pod.name,
                    listed(there),
                    listed(addresses)
                )),
                Err(error) => Some(format!(
                    "pod {}: its network namespace cannot be inspected: {error}",
                    pod.name
                )),
            };
            if let Some(why) = why {
                if pod.recognition() != Recognition::Refuted(why.as_str().into()) {
                    tracing::error!(pod = %pod.name, identity = %id, "{why}");
                }
                self.node.svids.retain(|uid| *uid != *pod.name.uid);
                return pod.set_recognition(Recognition::Refuted(why.into()));
            }
            if carried.was.as_ref().is_some_and(|was| was != id) {
                // What is open was opened as somebody else: the pod begins anew.
                tracing::info!(pod = %pod.name, identity = %id, "the identity of the pod changed");
                carried.moved = true;
                return self.moved.notify_one();
            }
            carried.was = Some(id.clone());
            self.node.svids.watch(&pod.name.uid, id);
            let (id, addresses) = (id.clone(), addresses.clone());
            tracing::debug!(pod = %pod.name, identity = %id, "the pod is known in the mesh");
            pod.set_recognition(Recognition::Proven { id, addresses });
        });
    }

    /// Pods that are not what the mesh says of them, and why.
    pub fn refuted(&self) -> Vec<String> {
        self.with_recognition(|known, _| match known {
            Recognition::Refuted(why) => Some(why.to_string()),
            _ => None,
        })
    }

    /// Pods of which the mesh says nothing.
    pub fn unknown(&self) -> Vec<String> {
        self.with_recognition(|known, pod| {
            (known == Recognition::Sought)
                .then(|| format!("pod {}: the mesh has no workload of this name yet", pod.name))
        })
    }

    fn with_recognition(&self, of: impl Fn(Recognition, &Pod) -> Option<String>) -> Vec<String> {
        let say = |c: &Carried| of(c.pod.recognition(), &c.pod);
        let mut all: Vec<_> = self.with(|pods| pods.values().filter_map(say).collect());
        all.sort();
        all
    }
}

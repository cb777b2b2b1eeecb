//! This process as a pod of its own: it serves its metrics over HBONE at port 15008 of its own
//! address, under the identity that the mesh has for that pod, to the callers that policies allow.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    config::environment::OwnWorkload,
    lifecycle::blocking,
    mesh::Workload,
    net::{CloseReason, PodName},
    roles::node::{Node, Pod, Recognition},
};

/// Under which its key is kept; that of no workload.
const UID: &str = "own";

/// How soon it is looked again where the namespace did not hold the address.
const AGAIN: Duration = Duration::from_secs(2);

/// How long what is scraped may go on at the end.
const LEAVES_WITHIN: Duration = Duration::from_secs(1);

/// The own pod, once it listens.
pub(super) struct OwnPod {
    pod: Arc<Pod>,
    node: Arc<Node>,
    /// Fires when the mesh has changed.
    changed: Notify,
}

impl OwnPod {
    /// Listens. If that fails, it logs a warning; the pods of the node are attached regardless.
    pub(super) fn start(node: &Arc<Node>, own: &OwnWorkload) -> Option<Arc<Self>> {
        let name = PodName {
            uid: UID.into(),
            name: format!("{}/{}", own.namespace, own.name).into(),
            service_account: Some(own.service_account.as_str().into()),
        };
        match Pod::start_own(node, name) {
            Ok(pod) => {
                let (node, changed) = (Arc::clone(node), Notify::new());
                Some(Arc::new(Self { pod, node, changed }))
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cannot listen on this pod's port 15008: its metrics are not served over HBONE"
                );
                None
            }
        }
    }

    /// The mesh has changed.
    pub(super) fn mesh_changed(&self) {
        self.changed.notify_one();
    }

    /// Looks who it is whenever the mesh has changed, until it is dropped.
    pub(super) async fn join_mesh(self: Arc<Self>) {
        loop {
            let is_refuted = matches!(self.pod.recognition(), Recognition::Refuted(_));
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(AGAIN), if is_refuted => {}
            }
            self.look().await;
        }
    }

    /// Takes nothing new, and ends what there is.
    pub(super) async fn stop(&self) {
        self.pod.stop(&self.node, LEAVES_WITHIN, &CancellationToken::new()).await;
    }

    async fn look(&self) {
        let workload = self.node.mesh.load().of_pod(&self.pod.name).cloned();
        let known = self.pod.recognition();
        let Some(workload) = workload else {
            if known != Recognition::Sought {
                self.becomes(Recognition::Sought);
            }
            return;
        };
        if known.is_of(&workload) {
            return self.pod.set_recognition(known); // whoever has seen another view looks again
        }
        let netns = Arc::clone(&self.pod.netns);
        let there = match blocking(move || netns.addresses()).await {
            Ok(Ok(there)) => there,
            Ok(Err(error)) => return self.refuted(&error.to_string()),
            Err(error) => return self.refuted(&error.to_string()),
        };
        match holds(&there, &workload) {
            true => {
                let (id, addresses) = (workload.id().clone(), workload.addresses.clone());
                if matches!(known, Recognition::Proven { id: ref was, .. } if *was != id) {
                    self.becomes(Recognition::Sought);
                }
                self.node.svids.watch(&self.pod.name.uid, &id);
                self.pod.set_recognition(Recognition::Proven { id, addresses });
            }
            false => {
                self.refuted("none of its workload's addresses is in its network namespace");
            }
        }
    }

    fn refuted(&self, why: &str) {
        let why = format!("pod {}: {why}, so adit does not act for it", self.pod.name);
        if self.pod.recognition() != Recognition::Refuted(why.as_str().into()) {
            tracing::error!("{why}");
        }
        self.becomes(Recognition::Refuted(why.into()));
    }

    /// It is nobody, or not yet: its key is forgotten, and what was opened as who it was ends.
    fn becomes(&self, nobody: Recognition) {
        self.node.svids.retain(|uid| uid != UID);
        self.pod.set_recognition(nobody);
        for conn in self.node.telemetry.live.all() {
            let of = |pod: &Arc<PodName>| Arc::ptr_eq(pod, &self.pod.name);
            if conn.metadata(|f| f.pod.as_ref().is_some_and(of)) {
                conn.cut(CloseReason::Drained);
            }
        }
    }
}

fn holds(there: &[IpAddr], workload: &Workload) -> bool {
    workload.addresses.iter().any(|address| there.contains(address))
}

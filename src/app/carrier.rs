//! Which pods are carried: makes the running pods those of the configuration.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    ca::{
        CarriedAs,
        workload_api::server::{CarriedPod, HELD_AS},
    },
    config::Capture,
    mesh::{NetnsRef, Workload},
    node::{Node, Pod, capture},
    sys::netns::Netns,
};

/// One pod, with what it was started from.
struct Carried {
    pod: Arc<Pod>,
    workload: Arc<Workload>,
    captured: bool,
}

impl Carried {
    /// Whether its name stands for another namespace than when it was started, or for none:
    /// the pod was made anew, and nothing protects the new one yet.
    fn moved(&self) -> bool {
        let now = self.workload.netns.as_ref().map(|netns| Netns::open(&netns.path()));
        now.is_some_and(|now| now.map(|n| n.key()).ok() != Some(self.pod.netns.key()))
    }
}

/// What its platform knows a pod by.
fn carried_as(workload: &Workload) -> CarriedAs {
    CarriedAs {
        uid: Arc::clone(&workload.uid),
        namespace: Arc::clone(&workload.namespace),
        name: Arc::clone(&workload.name),
        pod_uid: workload.pod_uid.clone(),
        pid: workload.netns.as_ref().and_then(NetnsRef::pid),
    }
}

/// The pods of this process.
pub(super) struct Carrier {
    node: Arc<Node>,
    pods: Mutex<HashMap<Arc<str>, Carried>>,
    /// Fires when nobody wants to wait for drains any longer.
    pub(super) hurry: CancellationToken,
}

impl Carrier {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, pods: Mutex::default(), hurry: CancellationToken::new() }
    }

    /// Starts what is missing, stops what is gone or has moved to another namespace or
    /// identity. Returns what could not be started, which a later call tries again.
    pub(super) async fn reconcile(
        &self,
        wanted: &[Arc<Workload>],
        rules: Capture,
        grace: Duration,
    ) -> Vec<String> {
        let same = |a: &Workload, b: &Workload| {
            a.netns == b.netns && a.id == b.id && a.pod_uid == b.pod_uid
        };
        let gone: Vec<Arc<str>> = self.with(|pods| {
            let stays = |c: &Carried| {
                c.captured == (rules == Capture::Nft)
                    && !c.moved()
                    && wanted.iter().any(|w| w.uid == c.workload.uid && same(w, &c.workload))
            };
            pods.values().filter(|c| !stays(c)).map(|c| c.workload.uid.clone()).collect()
        });
        let stops = gone.iter().map(|uid| self.stop(uid, grace));
        futures_util::future::join_all(stops).await;
        // One that comes back is another pod, which gets a key of its own.
        self.node.svids.retain(|uid| !gone.iter().any(|of| **of == *uid));
        self.node.svids.carries(&wanted.iter().map(|w| carried_as(w)).collect::<Vec<_>>());
        let mut failed = Vec::new();
        for workload in wanted {
            if self.with(|pods| pods.contains_key(&workload.uid)) {
                continue;
            }
            self.node.svids.watch(&workload.uid, &workload.id);
            match self.start(workload, rules).await {
                Ok(carried) => {
                    tracing::info!(workload = %workload.uid, identity = %workload.id, "pod carried");
                    self.with(|pods| pods.insert(workload.uid.clone(), carried));
                }
                Err(error) => failed.push(format!("pod {}: {error}", workload.uid)),
            }
        }
        // Those without a slash are adit's own, no workload's.
        let own = |uid: &str| uid.starts_with(HELD_AS) || !uid.contains('/');
        self.node.svids.retain(|uid| own(uid) || wanted.iter().any(|w| &*w.uid == uid));
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.node.telemetry.metrics.pods.set(count(self.with(|pods| pods.len())));
        self.node.telemetry.metrics.pods_pending.set(count(failed.len()));
        failed
    }

    /// The pods as the Workload API knows them.
    pub(super) fn carried(&self) -> Vec<CarriedPod> {
        let known = |c: &Carried| CarriedPod {
            uid: c.workload.uid.clone(),
            id: c.workload.id.clone(),
            netns: c.pod.netns.key(),
        };
        let mut all: Vec<_> = self.with(|pods| pods.values().map(known).collect());
        all.sort_by(|a, b| a.uid.cmp(&b.uid));
        all
    }

    /// Whether a pod was made anew under its old name.
    pub(super) fn any_moved(&self) -> bool {
        self.with(|pods| pods.values().any(Carried::moved))
    }

    /// Stops all pods side by side.
    pub(super) async fn stop_all(&self, grace: Duration) {
        let uids: Vec<_> = self.with(|pods| pods.keys().cloned().collect());
        futures_util::future::join_all(uids.iter().map(|uid| self.stop(uid, grace))).await;
    }

    async fn stop(&self, uid: &str, grace: Duration) {
        let Some(carried) = self.with(|pods| pods.remove(uid)) else { return };
        let cut = carried.pod.stop(&self.node, grace, &self.hurry).await;
        if carried.captured
            && let Err(error) = capture::remove(&carried.pod.netns)
        {
            tracing::warn!(workload = uid, %error, "capture rules not removed");
        }
        tracing::info!(workload = uid, connections_cut = cut, "pod released");
    }

    /// Listens first and redirects then, so that no captured connection is refused.
    async fn start(&self, workload: &Arc<Workload>, rules: Capture) -> anyhow::Result<Carried> {
        let netns = match &workload.netns {
            Some(netns) => Netns::open(&netns.path()),
            None => Netns::current(),
        }?;
        // By whatever name: two pods behind one port would share connections and keys.
        let taken = self.with(|pods| {
            let same = pods.values().find(|c| c.pod.netns.key() == netns.key());
            same.map(|c| c.workload.uid.clone())
        });
        if let Some(other) = taken {
            anyhow::bail!("its network namespace is that of {other}, which is carried already");
        }
        let pod = Pod::start(&self.node, workload, netns)?;
        let captured = rules == Capture::Nft;
        if captured && let Err(error) = capture::apply(&pod.netns) {
            pod.stop(&self.node, Duration::ZERO, &self.hurry).await;
            return Err(error.into());
        }
        Ok(Carried { pod, workload: Arc::clone(workload), captured })
    }

    fn with<T>(&self, look: impl FnOnce(&mut HashMap<Arc<str>, Carried>) -> T) -> T {
        look(&mut self.pods.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

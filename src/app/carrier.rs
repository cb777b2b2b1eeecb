//! Which pods are carried: makes the running pods those of the configuration.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::turns::Turns;
use crate::{
    ca::{
        CarriedAs,
        workload_api::server::{CarriedPod, HELD_AS},
    },
    config::Capture,
    lifecycle::Tasks,
    mesh::{NetnsRef, Workload},
    node::{Node, Pod, capture},
    sys::netns::Netns,
};

/// One pod, with what it was started from.
struct Carried {
    pod: Arc<Pod>,
    workload: Arc<Workload>,
    /// The capture rules that adit has applied.
    captured: Option<capture::Options>,
    /// Since when nothing stands under the name of its namespace.
    missing: Option<Instant>,
    /// Whether the last look at its namespace failed.
    unknown: bool,
}

/// How long the name of a namespace may be missing until its pod counts as gone.
const MISSING_FOR: Duration = Duration::from_secs(3);

impl Carried {
    /// Whether its name stands for another namespace than when it was started, or for none for
    /// longer than a moment: the pod was made anew, and nothing protects the new one yet. That
    /// its namespace could not be looked at says nothing about it.
    fn moved(&mut self) -> bool {
        let Some(netns) = self.workload.netns() else { return false };
        let found = Netns::key_of(&netns.path());
        let missing = matches!(&found, Err(error) if error.kind() == io::ErrorKind::NotFound);
        self.missing = missing.then(|| self.missing.unwrap_or_else(Instant::now));
        if let (Err(error), false, false) = (&found, missing, self.unknown) {
            let workload = &*self.workload.uid;
            tracing::warn!(workload, %error, "the pod's network namespace cannot be looked at; the pod stays as it is");
        }
        self.unknown = found.is_err() && !missing;
        match found {
            Ok(key) => key != self.pod.netns.key(),
            Err(_) => self.missing.is_some_and(|since| since.elapsed() > MISSING_FOR),
        }
    }
}

/// What becomes of the capture rules of a pod that is stopped.
#[derive(Clone, Copy, Eq, PartialEq)]
enum After {
    /// Traffic that they redirect is refused until a successor listens.
    Keep,
    /// They stay, without the exception for probes: no pod is expected in that namespace.
    Shut,
    Remove,
}

/// What its platform knows a pod by.
fn carried_as(workload: &Workload) -> CarriedAs {
    CarriedAs {
        uid: Arc::clone(&workload.uid),
        namespace: Arc::clone(workload.namespace()),
        name: Arc::clone(&workload.name),
        pod_uid: workload.pod_uid().cloned(),
        pid: workload.netns().and_then(NetnsRef::pid),
    }
}

/// A pod that is not carried as it should be.
pub(super) struct Failed {
    /// Which, and why.
    pub(super) why: String,
    /// Its namespace is not there: it has no traffic that anybody could carry.
    pub(super) absent: bool,
}

impl Failed {
    fn new(workload: &Workload, error: &anyhow::Error) -> Self {
        let kind = error.downcast_ref().map(io::Error::kind);
        let why = format!("pod {}: {error:#}", workload.uid);
        Self { why, absent: kind == Some(io::ErrorKind::NotFound) }
    }
}

/// The pods of this process.
pub(super) struct Carrier {
    node: Arc<Node>,
    pods: Mutex<HashMap<Arc<str>, Carried>>,
    /// Fires when nobody wants to wait for drains any longer.
    pub(super) hurry: CancellationToken,
    /// Pods that take nothing new and end what they have.
    draining: Tasks,
    /// Whose turn it is to change capture rules.
    rules: Turns,
    /// Fires when nothing is started any more.
    closing: CancellationToken,
}

impl Carrier {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            pods: Mutex::default(),
            hurry: CancellationToken::new(),
            draining: Tasks::default(),
            rules: Turns::default(),
            closing: CancellationToken::new(),
        }
    }

    /// Starts what is missing, stops what is gone or has moved to another namespace or
    /// identity; who is stopped drains beside this. Returns what could not be started, which a
    /// later call tries again.
    pub(super) async fn reconcile(
        self: Arc<Self>,
        wanted: Vec<Arc<Workload>>,
        rules: Capture,
        grace: Duration,
    ) -> Vec<Failed> {
        let options = match rules {
            Capture::Nft { options, .. } => Some(options),
            Capture::None => None,
        };
        let same = |a: &Workload, b: &Workload| {
            a.netns() == b.netns() && a.id() == b.id() && a.pod_uid() == b.pod_uid()
        };
        let gone: Vec<(Arc<str>, After)> = self.with(|pods| {
            let leaves = |c: &mut Carried| {
                let now = wanted.iter().find(|w| w.uid == c.workload.uid);
                let stays = now.is_some_and(|w| same(w, &c.workload)) && !c.moved();
                // The operator has taken it out of the mesh, or redirects by other means.
                let opted_out = now.is_none() || options.is_none();
                let after = if opted_out { After::Remove } else { After::Shut };
                let stays = stays && c.captured.is_some() == options.is_some();
                (!stays).then(|| (Arc::clone(&c.workload.uid), after))
            };
            pods.values_mut().filter_map(leaves).collect()
        });
        for (uid, after) in &gone {
            let (this, uid, after) = (Arc::clone(&self), Arc::clone(uid), *after);
            let Some(carried) = self.with(|pods| pods.remove(&uid)) else { continue };
            // From here on nothing new arrives at it, also before its task first runs.
            carried.pod.stop_accepting();
            self.draining.spawn(async move { this.stop(&uid, carried, grace, after).await });
        }
        // One that comes back is another pod, which gets a key of its own.
        self.node.svids.retain(|uid| !gone.iter().any(|(of, _)| **of == *uid));
        self.node.svids.carries(&wanted.iter().map(|w| carried_as(w)).collect::<Vec<_>>());
        let mut failed = Vec::new();
        for workload in &wanted {
            if self.closing.is_cancelled() {
                break;
            }
            if self.with(|pods| pods.contains_key(&workload.uid)) {
                if let Err(error) = self.renew_rules(&workload.uid, options).await {
                    failed.push(Failed::new(workload, &error));
                }
                continue;
            }
            self.node.svids.watch(&workload.uid, workload.id());
            match self.start(workload, options).await {
                Ok((carried, less)) => {
                    tracing::info!(workload = %workload.uid, identity = %workload.id(), "pod carried");
                    self.with(|pods| pods.insert(workload.uid.clone(), carried));
                    failed.extend(less.map(|why| Failed::new(workload, &why)));
                }
                Err(error) => failed.push(Failed::new(workload, &error)),
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
            id: c.workload.id().clone(),
            netns: c.pod.netns.key(),
        };
        let mut all: Vec<_> = self.with(|pods| pods.values().map(known).collect());
        all.sort_by(|a, b| a.uid.cmp(&b.uid));
        all
    }

    /// Whether a pod was made anew under its old name.
    pub(super) fn any_moved(&self) -> bool {
        self.with(|pods| pods.values_mut().any(Carried::moved))
    }

    /// Where the address of probes is admitted, in order.
    pub(super) fn probed(&self) -> Vec<(Arc<str>, Arc<Netns>)> {
        let admits = |c: &&Carried| c.captured.is_some_and(|options| options.kubelet_probes);
        let of = |c: &Carried| (Arc::clone(&c.workload.uid), Arc::clone(&c.pod.netns));
        let mut all: Vec<_> = self.with(|pods| pods.values().filter(admits).map(of).collect());
        all.sort_by(|a: &(Arc<str>, _), b| a.0.cmp(&b.0));
        all
    }

    /// Restores the node's rules about the address of probes if a pod admits it; whether they were
    /// gone. In a turn, as who admits it changes with the rules of pods.
    pub(super) async fn stand_guard(&self) -> anyhow::Result<bool> {
        let mut turn = self.rules.take(&self.hurry).await?;
        let admitting: Vec<_> = self.probed().into_iter().map(|(_, netns)| netns).collect();
        match admitting.is_empty() {
            true => Ok(false),
            false => turn.restore_guard(admitting).await,
        }
    }

    /// Starts nothing from here on; what is being started is given up.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }

    /// Stops all pods side by side, and waits for those that drain already.
    pub(super) async fn stop_all(self: &Arc<Self>, grace: Duration, rules: Capture) {
        let remove = matches!(rules, Capture::Nft { remove_on_stop: true, .. });
        let after = if remove { After::Remove } else { After::Keep };
        let all: Vec<_> = self.with(|pods| pods.drain().collect());
        let stops = all.into_iter().map(|(uid, carried)| {
            let this = Arc::clone(self);
            async move { this.stop(&uid, carried, grace, after).await }
        });
        futures_util::future::join_all(stops).await;
        self.draining.ended().await;
    }

    async fn stop(&self, uid: &str, carried: Carried, grace: Duration, after: After) {
        let cut = carried.pod.stop(&self.node, grace, &self.hurry).await;
        if let Some(options) = carried.captured
            && let Err(error) = self.release(&carried.pod.netns, options, after).await
        {
            let error = format!("{error:#}");
            tracing::warn!(workload = uid, error, "capture rules not removed");
        }
        let left = carried.captured.is_some() && after != After::Remove;
        tracing::info!(workload = uid, connections_cut = cut, rules_left = left, "pod released");
    }

    /// Applies the rules anew where what they let by has changed.
    async fn renew_rules(
        &self,
        uid: &Arc<str>,
        options: Option<capture::Options>,
    ) -> anyhow::Result<()> {
        let found = self.with(|pods| {
            let carried = pods.get(uid).filter(|c| c.captured != options)?;
            Some(Arc::clone(&carried.pod.netns))
        });
        let (Some(netns), Some(wanted)) = (found, options) else { return Ok(()) };
        let (applied, less) = self.rules.take(&self.closing).await?.apply(&netns, wanted).await?;
        self.with(|pods| pods.get_mut(uid).map(|c| c.captured = Some(applied)));
        less.map_or(Ok(()), Err)
    }

    /// Takes away what is not to stay of the rules. A successor in the same namespace is protected
    /// by the same ones.
    async fn release(
        &self,
        netns: &Arc<Netns>,
        options: capture::Options,
        after: After,
    ) -> anyhow::Result<()> {
        if after == After::Keep || (after == After::Shut && !options.kubelet_probes) {
            return Ok(());
        }
        let mut turn = self.rules.take(&self.hurry).await?;
        let key = netns.key();
        match self.with(|pods| pods.values().any(|c| c.pod.netns.key() == key)) {
            true => Ok(()),
            false if after == After::Remove => turn.remove(Arc::clone(netns)).await,
            false => {
                let unprobed = capture::Options { kubelet_probes: false, ..options };
                turn.shut(Arc::clone(netns), unprobed).await
            }
        }
    }

    /// Listens first and redirects then, so that no captured connection is refused.
    async fn start(
        &self,
        workload: &Arc<Workload>,
        options: Option<capture::Options>,
    ) -> anyhow::Result<(Carried, Option<anyhow::Error>)> {
        let netns = match workload.netns() {
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
        let mut turn = self.rules.take(&self.closing).await?;
        if options.is_none() {
            capture::reachable(&netns)?;
        }
        let pod = Pod::start(&self.node, workload, netns)?;
        let (mut captured, mut less) = (None, None);
        if let Some(options) = options {
            match turn.apply(&pod.netns, options).await {
                Ok((applied, why)) => (captured, less) = (Some(applied), why),
                Err(error) => {
                    pod.stop(&self.node, Duration::ZERO, &self.hurry).await;
                    return Err(error);
                }
            }
        }
        let workload = Arc::clone(workload);
        Ok((Carried { pod, workload, captured, missing: None, unknown: false }, less))
    }

    fn with<T>(&self, look: impl FnOnce(&mut HashMap<Arc<str>, Carried>) -> T) -> T {
        look(&mut self.pods.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

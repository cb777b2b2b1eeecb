//! The pods that run: makes them those that are wanted.

mod change;
mod joined;
mod kept;
mod moved;
mod non_tcp;
mod owner;
mod rules;
mod stop;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::change::{After, Carried, Change, KeptRules, carried_as};
pub use self::{
    change::{Changed, Changes, Failed, Leave},
    non_tcp::{JudgedPod, NonTcpCounts},
};
use super::{
    redirect_watch::RedirectWatch,
    rule_watch::RuleWatch,
    source::{Member, PodFacts, PodNetns},
    turns::Turns,
};
use crate::{
    lifecycle::{Tasks, blocking},
    pods::capture::{self, Capture},
    roles::node::{Node, Pod, Recognition},
    spiffe_api::workload_api::{AttachedPod, HELD_AS},
    sys::netns::Netns,
};

/// How long the connections of a pod may go on that has left the node.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);

/// The pods of this process.
pub struct PodManager {
    node: Arc<Node>,
    pods: Mutex<HashMap<Arc<str>, Carried>>,
    changing: Mutex<HashMap<Arc<str>, Change>>,
    /// What decides whether the rules of a pod that leaves stay for another.
    kept: Mutex<KeptRules>,
    /// Fires when a pod got a new network namespace, or another identity.
    moved: Notify,
    /// Fires when it is to be looked which workloads the pods are.
    joins: Notify,
    /// Fires when nobody wants to wait for drains any longer.
    pub hurry: CancellationToken,
    /// Fires some time after it: then rules stay that are to be removed.
    abandon: CancellationToken,
    /// Pods that take nothing new and end what they have.
    draining: Tasks,
    /// Whose turn it is to change capture rules.
    rules: Arc<Turns>,
    /// What has been applied stays.
    watch: Arc<RuleWatch>,
    /// What others have redirected is looked after.
    redirects: Arc<RedirectWatch>,
    /// The counts of non-TCP packets.
    non_tcp: Arc<NonTcpCounts>,
    /// Fires when nothing is started any more.
    closing: CancellationToken,
}

impl PodManager {
    /// Of a node that has none yet.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let rules = Arc::new(Turns::default());
        let metrics = &node.telemetry.metrics;
        let watch = RuleWatch::new(Arc::clone(&rules), Arc::clone(metrics));
        let redirects = RedirectWatch::new(Arc::clone(&rules), Arc::clone(metrics));
        Self {
            node,
            pods: Mutex::default(),
            changing: Mutex::default(),
            kept: Mutex::default(),
            moved: Notify::new(),
            joins: Notify::new(),
            hurry: CancellationToken::new(),
            abandon: CancellationToken::new(),
            draining: Tasks::default(),
            rules,
            watch: Arc::new(watch),
            redirects: Arc::new(redirects),
            non_tcp: Arc::default(),
            closing: CancellationToken::new(),
        }
    }

    /// Stops what is gone or has moved to another namespace or identity, which drains beside this,
    /// and returns how what is missing is started. A later call tries again what could not be
    /// started, and lets alone what is under way.
    pub fn reconcile(
        self: &Arc<Self>,
        wanted: &[Arc<PodFacts>],
        rules: Capture,
        grace: Duration,
        failed: &BTreeMap<Arc<str>, Failed>,
    ) -> Changes {
        let applies = rules != Capture::None;
        self.expects(if applies { wanted } else { &[] });
        let gone: Vec<(Arc<str>, After, bool)> = self.with(|pods| {
            let leaves = |c: &mut Carried| {
                let now = wanted.iter().find(|w| w.uid == c.facts.uid);
                let stays = now.is_some_and(|w| w.is_same_pod(&c.facts)) && !c.moved;
                // The operator has taken it out of the mesh, or redirects by other means.
                let opted_out = now.is_none() || !applies;
                let after = if opted_out { After::Remove } else { After::Shut };
                let stays = stays && c.captured.is_some() == applies;
                (!stays).then(|| (Arc::clone(&c.facts.uid), after, now.is_some()))
            };
            pods.values_mut().filter_map(leaves).collect()
        });
        for (uid, after, is_to_return) in &gone {
            let (this, after) = (Arc::clone(self), *after);
            let Some(carried) = self.with(|pods| pods.remove(uid)) else { continue };
            // From here on nothing new arrives at it, also before its task first runs.
            carried.pod.stop_accepting();
            let grace = match carried.facts.netns {
                // Its namespace may go any moment, and with it whoever could be answered.
                PodNetns::Open(_) => grace.min(LEAVES_WITHIN),
                PodNetns::Own | PodNetns::Named(_) => grace,
            };
            carried.pod.leave();
            self.redirects.end(&carried.facts, &carried.pod.netns, *is_to_return);
            self.draining.spawn(async move { this.stop(carried, grace, after).await });
        }
        self.redirects.announced(wanted);
        // One that comes back is another pod, which gets a key of its own.
        self.node.svids.retain(|uid| !gone.iter().any(|(of, ..)| **of == *uid));
        self.node.svids.carries(&wanted.iter().map(|w| carried_as(w)).collect::<Vec<_>>());
        let accepting = self.node.listeners.is_accepting();
        let mut changes = Changes { work: Vec::new(), more: false };
        for facts in wanted {
            let options = rules.options(facts.non_tcp);
            let known = |c: &Carried| (c.captured, c.inherited, c.pod.netns.key());
            let carried = self.with(|pods| pods.get(&facts.uid).map(known));
            let here = carried.is_some();
            // A renewal of the rules of a pod that is gone starts no other.
            let under_way = self.changing(|all| {
                let to = all.get(&facts.uid)?;
                let to_this = facts.is_same_pod(&to.facts) && options == to.options;
                Some(to_this && (here || !to.renews))
            });
            if !self.closing.is_cancelled()
                && let Member::Known { id, .. } = &facts.member
            {
                // Also while it is being started: an edit in between may have taken it out.
                self.node.svids.watch(&facts.uid, id);
            }
            match (under_way, carried) {
                (Some(to_this), _) => changes.more |= !to_this,
                // The process before this one sees to the rules.
                (None, Some(_)) if !accepting => {}
                (None, Some((captured, false, _))) if captured == options => {}
                _ if self.closing.is_cancelled() => {}
                (None, carried) => {
                    let (facts, netns) = (Arc::clone(facts), carried.map(|(.., key)| key));
                    let again = failed.contains_key(&facts.uid);
                    let change = Change { facts, options, netns, renews: here };
                    changes.work.push(self.change(change, again));
                }
            }
        }
        let wants = |uid: &str| wanted.iter().any(|w| &*w.uid == uid);
        changes.more |= self.changing(|all| all.keys().any(|uid| !wants(uid)));
        // Those without a slash are adit's own, no workload's.
        let own = |uid: &str| uid.starts_with(HELD_AS) || !uid.contains('/');
        self.node.svids.retain(|uid| own(uid) || wants(uid));
        self.count();
        changes
    }

    /// Starts a pod, or applies the rules of one that runs again.
    fn change(self: &Arc<Self>, change: Change, again: bool) -> BoxFuture<'static, Changed> {
        let (this, facts) = (Arc::clone(self), Arc::clone(&change.facts));
        let (uid, options, renews) = (Arc::clone(&facts.uid), change.options, change.renews);
        self.changing(|all| all.insert(Arc::clone(&uid), change));
        let work = async move {
            let done = match renews {
                true => this.renew_rules(&uid, options).await,
                false => this.start(&facts, options, again).await,
            };
            this.changing(|all| all.remove(&uid));
            this.count();
            let failed = done.err().map(|error| Failed::new(&facts, &error));
            Changed { facts, failed }
        };
        work.boxed()
    }

    fn count(&self) {
        let pods = self.with(|pods| pods.len());
        self.node.telemetry.metrics.pods.active.set(i64::try_from(pods).unwrap_or(i64::MAX));
    }

    /// The pods as the Workload API knows them.
    pub fn carried(&self) -> Vec<AttachedPod> {
        let known = |c: &Carried| {
            let id = match (&c.facts.member, c.pod.recognition()) {
                (Member::Known { id, .. }, _) => id.clone(),
                (Member::Sought { .. }, Recognition::Proven { id, .. }) => id,
                (Member::Sought { .. }, _) => return None,
            };
            Some(AttachedPod { uid: c.facts.uid.clone(), id, netns: c.pod.netns.key() })
        };
        let mut all: Vec<_> = self.with(|pods| pods.values().filter_map(known).collect());
        all.sort_by(|a, b| a.uid.cmp(&b.uid));
        all
    }

    /// Whether this pod runs as it should, with these rules, and nothing about it is under way.
    pub fn has_attached(&self, facts: &PodFacts, options: Option<capture::Options>) -> bool {
        let is_so = |c: &Carried| c.facts.is_same_pod(facts) && !c.moved && c.captured == options;
        !self.changing(|all| all.contains_key(&facts.uid))
            && self.with(|pods| pods.get(&facts.uid).is_some_and(is_so))
    }

    /// Whether no pod of this uid accepts connections, and none is about to.
    pub fn is_gone(&self, uid: &str) -> bool {
        let is_none = self.with(|pods| !pods.contains_key(uid));
        is_none && !self.changing(|all| all.contains_key(uid))
    }

    /// Where the address of probes is admitted, in order.
    pub fn probed(&self) -> Vec<(Arc<str>, Arc<Netns>)> {
        let admits = |c: &&Carried| c.captured.is_some_and(|options| options.kubelet_probes);
        let of = |c: &Carried| (Arc::clone(&c.facts.uid), Arc::clone(&c.pod.netns));
        let mut all: Vec<_> = self.with(|pods| pods.values().filter(admits).map(of).collect());
        all.sort_by(|a: &(Arc<str>, _), b| a.0.cmp(&b.0));
        all
    }

    /// Restores the node's rules about the address of probes if a pod admits it; whether they were
    /// gone.
    pub async fn stand_guard(self: &Arc<Self>) -> anyhow::Result<bool> {
        let (this, stop) = (Arc::clone(self), self.hurry.clone());
        let admitting = move || this.probed().into_iter().map(|(_, netns)| netns).collect();
        Ok(blocking(move || capture::restore_guard(admitting, &stop)).await??)
    }

    /// Starts nothing from here on, and refuses nothing where rules of others go: another process
    /// hears which pods leave. What is being started is given up.
    pub fn close(&self) {
        self.closing.cancel();
        self.redirects.close();
    }

    /// Starts nothing and accepts nothing from here on.
    pub fn stop_accepting(&self) {
        self.close();
        self.with(|pods| pods.values().for_each(|c| c.pod.stop_accepting()));
    }

    /// Changes no rules from here on: another process does.
    pub async fn hand_over(&self) {
        self.watch.end_all().await;
    }

    /// Says which pods have capture rules other than adit or istio-cni has applied, and why.
    pub fn unprotected(&self) -> Vec<String> {
        [self.watch.faults(), self.redirects.faults()].concat()
    }

    /// Listens first and redirects then, so that no captured connection is refused.
    async fn start(
        self: &Arc<Self>,
        facts: &Arc<PodFacts>,
        options: Option<capture::Options>,
        again: bool,
    ) -> anyhow::Result<()> {
        let opened = |netns: &Netns| {
            let key = Some(netns.key());
            self.changing(|all| all.get_mut(&facts.uid).map(|change| change.netns = key));
        };
        // Only its own namespace, where no rules are applied, is nobody else's.
        let checked = facts.netns != PodNetns::Own || options.is_some();
        let netns = match checked {
            true => tokio::select! {
                owned = owner::open_namespace(facts, again, opened) => owned?,
                () = self.closing.cancelled() => anyhow::bail!("adit is shutting down"),
            },
            false => Arc::new(Netns::current().inspect(opened)?),
        };
        let key = netns.key();
        let inherits = !self.node.listeners.is_accepting();
        let mut turn = self.rules.take(&netns, &self.closing).await?;
        if checked {
            // Its turn may have come late.
            owner::still_holds(&netns, facts).await?;
        }
        // By whatever name: two pods behind one port would share connections and keys.
        let taken = self.with(|pods| {
            let same = pods.values().find(|c| c.pod.netns.key() == key);
            same.map(|c| Arc::clone(&c.facts))
        });
        if let Some(other) = taken {
            anyhow::bail!("its network namespace is that of {other}, which is already attached");
        }
        if options.is_none() {
            self.watch.end(&netns);
            self.judge(&mut turn, &netns, facts).await?;
        }
        let (of, node) = (Arc::clone(facts), Arc::clone(&self.node));
        let started = blocking(move || -> anyhow::Result<Arc<Pod>> {
            // Who opens namespaces sees to them.
            if options.is_none() && !matches!(of.netns, PodNetns::Open(_)) {
                capture::reachable(&netns)?;
            }
            Ok(Pod::start(&node, of.pod_name(), of.app_hop, netns)?)
        });
        let pod = started.await??;
        let (mut captured, mut less) = (None, None);
        if let Some(options) = options.filter(|_| !inherits) {
            match turn.apply(&pod.netns, options).await {
                Ok((applied, why)) => {
                    self.watch.begin(&mut turn, &pod.name.uid, &pod.netns, applied).await;
                    (captured, less) = (Some(applied), why);
                }
                Err(error) => {
                    pod.stop(&self.node, Duration::ZERO, &self.hurry).await;
                    return Err(error);
                }
            }
        }
        self.say_attached(facts);
        let (uid, facts) = (Arc::clone(&facts.uid), Arc::clone(facts));
        let inherited = inherits && options.is_some();
        let captured = if inherited { options } else { captured };
        if matches!(facts.netns, PodNetns::Open(_)) {
            self.redirects.begin(&facts, &pod.netns);
        }
        let (missing, unknown, moved) = (None, false, false);
        let carried =
            Carried { pod, facts, captured, inherited, missing, unknown, moved, was: None };
        self.with(|pods| pods.insert(Arc::clone(&uid), carried));
        self.joins.notify_one();
        if inherited && self.node.listeners.is_accepting() {
            // It has taken over in between.
            drop(turn);
            return self.renew_rules(&uid, options).await;
        }
        less.map_or(Ok(()), Err)
    }

    fn say_attached(&self, facts: &PodFacts) {
        self.node.telemetry.metrics.pods.started.inc();
        match &facts.member {
            Member::Known { id, .. } => {
                tracing::info!(workload = %facts, identity = %id, "pod attached");
            }
            Member::Sought { service_account } => {
                let uid = facts.pod_uid.as_deref();
                tracing::info!(workload = %facts, %service_account, uid, "pod attached");
            }
        }
    }

    fn changing<T>(&self, look: impl FnOnce(&mut HashMap<Arc<str>, Change>) -> T) -> T {
        look(&mut self.changing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with<T>(&self, look: impl FnOnce(&mut HashMap<Arc<str>, Carried>) -> T) -> T {
        look(&mut self.pods.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

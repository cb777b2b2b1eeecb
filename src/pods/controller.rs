//! Makes the pods that run those that sources have announced, and answers each event.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::oneshot;

use super::{
    announced::{Announced, Awaited},
    capture::Capture,
    manager::{Changed, Failed, Leave, PodManager},
    meant::meant,
    source::{Announcement, PodEvent, PodFacts},
};
use crate::roles::node::{Node, Pod};

/// How long changes of pods may take to end before another process takes over: it waits 5 s.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(3);

/// The pods of this node, as sources announce them and as they run.
pub struct PodController {
    node: Arc<Node>,
    /// Those that run.
    pub manager: Arc<PodManager>,
    announced: Announced,
    /// The changes of pods that are under way, beside everything else and each other.
    starting: FuturesUnordered<BoxFuture<'static, Changed>>,
    /// Pods that are not attached as they should be.
    failed: BTreeMap<Arc<str>, Failed>,
    /// Whether others have to follow what is under way.
    again: bool,
    /// How many changes were under way at the last [`PodController::try_again`] and have not ended
    /// since. Failed pods are tried again after each of them, so that no try is left out because the
    /// one before it took long.
    due: usize,
    /// Who redirects.
    rules: Capture,
}

impl PodController {
    /// Of a node that has none yet.
    #[must_use]
    pub fn new(node: &Arc<Node>) -> Self {
        Self {
            node: Arc::clone(node),
            manager: Arc::new(PodManager::new(Arc::clone(node))),
            announced: Announced::default(),
            starting: FuturesUnordered::new(),
            failed: BTreeMap::new(),
            again: false,
            due: 0,
            rules: Capture::None,
        }
    }

    /// Takes what a source says that needs no answer; the next [`PodController::reconcile`] acts on
    /// it.
    pub fn apply(&mut self, event: PodEvent) {
        let (answer, _) = oneshot::channel();
        self.announced.apply(Announcement { event, answer });
    }

    /// Takes what a source says. The answer is whether a pod is attached and captured, or has left;
    /// one that could not be attached is tried again in any case.
    pub fn hear(&mut self, announcement: Announcement) {
        self.announced.apply(announcement);
    }

    /// Begins to attach what is announced, and to detach what is not.
    pub fn reconcile(&mut self, rules: Capture, grace: Duration) {
        let accepting = self.node.listeners.is_accepting();
        // The others are left to the process before this one until this one has taken over.
        let is_ours = |pod: &&Arc<PodFacts>| {
            accepting || pod.netns.key().is_ok_and(|netns| Pod::is_given(&self.node, netns))
        };
        let pods = self.announced.pods();
        let wanted: Vec<_> = pods.values().filter(is_ours).cloned().collect();
        let changes = self.manager.reconcile(&wanted, rules, grace, &self.failed);
        self.again = changes.more;
        self.starting.extend(changes.work);
        self.failed.retain(|uid, _| pods.contains_key(uid));
        self.rules = rules;
        self.settle();
    }

    /// Tries again to attach pods that could not be attached: now, and those whose last try is
    /// under way still when that has ended.
    pub fn try_again(&mut self, rules: Capture, grace: Duration) {
        self.due = self.starting.len();
        self.reconcile(rules, grace);
    }

    /// Answers events that are done, and counts pods that are not attached.
    fn settle(&mut self) {
        let pending = i64::try_from(self.failed.len()).unwrap_or(i64::MAX);
        self.node.telemetry.metrics.pods.pending.set(pending);
        let (manager, rules) = (&self.manager, self.rules);
        self.announced.settle(|uid, awaited| match awaited {
            Awaited::Attached(facts) => manager.has_attached(facts, rules.options(facts.non_tcp)),
            Awaited::Gone => manager.is_gone(uid),
        });
    }

    /// Waits until a change of a pod is done. Cancel safe.
    pub async fn next(&mut self) -> Changed {
        match self.starting.next().await {
            Some(changed) => changed,
            None => std::future::pending().await,
        }
    }

    /// Takes what has come of a change: whether to reconcile once more.
    pub fn changed(&mut self, Changed { facts, failed }: Changed) -> bool {
        let before = self.failed.remove(&facts.uid);
        if let Some(mut failed) = failed {
            match before.filter(|before| before.why == failed.why) {
                Some(said) if failed.absent => failed.meant = said.meant,
                _ if failed.absent => {
                    failed.meant = meant(&facts, self.announced.pods());
                    let why = failed.with_meant();
                    tracing::warn!("{why}; adit attaches the pod once that namespace exists");
                }
                _ => tracing::error!("{}; trying again in 5 s", failed.why),
            }
            self.announced.failed(&facts, &failed.why);
            self.failed.insert(Arc::clone(&facts.uid), failed);
        }
        self.settle();
        let due = self.due > 0;
        self.due = self.due.saturating_sub(1);
        self.again || due
    }

    /// The pods that are announced, by uid.
    pub fn pods(&self) -> &BTreeMap<Arc<str>, Arc<PodFacts>> {
        self.announced.pods()
    }

    /// Pods that are not attached as they should be.
    pub fn failed(&self) -> impl ExactSizeIterator<Item = &Failed> {
        self.failed.values()
    }

    /// Whether no change is under way.
    pub fn is_settled(&self) -> bool {
        self.starting.is_empty()
    }

    /// What a process that takes over names of its pods: their uids and namespaces.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for pod in self.announced.pods().values() {
            names.push(pod.uid.to_string());
            names.extend(pod.netns.key().map(Leave::name_of));
        }
        names
    }

    /// Attaches nothing and changes no rules from here on: another process does both. Changes that
    /// are under way end first, as that process must not meet a listener or rules that come of
    /// them later.
    pub async fn hand_over(&mut self, leave: &Leave) {
        self.manager.leaves(leave);
        self.manager.stop_accepting();
        if tokio::time::timeout(HAND_OVER_WITHIN, self.finish()).await.is_err() {
            tracing::warn!(
                "changes of pods are still in progress while another process takes over"
            );
        }
        self.manager.stop_accepting();
        self.manager.hand_over().await;
    }

    /// Waits for the changes that are under way, which end at once where the manager is closed.
    pub async fn finish(&mut self) {
        while self.starting.next().await.is_some() {}
    }
}

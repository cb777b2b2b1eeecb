//! Whether what istio-cni has redirected to us stays so. Nothing is restored, as it is not ours; a
//! pod that others can reach beside us is named. The kernel says when to look.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::{future::FutureExt as _, sync::CancellationToken};

use super::turns::Turns;
use crate::{
    lifecycle::{Tasks, blocking},
    net::PodName,
    observe::metrics::Metrics,
    pods::capture::{AwaitedChanges, Changes, Redirects},
    sys::netns::Netns,
};

/// How long after news of changes it looks: rules are changed in several steps, and a pod that is
/// taken out of the mesh loses them before istio-cni says so.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// How often it looks where there is no news …
const SELDOM: Duration = Duration::from_secs(60);
/// … and where the kernel tells none.
const WITHOUT_NEWS: Duration = Duration::from_secs(10);

/// The pods that are watched, by their namespaces.
pub(crate) struct RedirectWatch {
    turns: Arc<Turns>,
    metrics: Arc<Metrics>,
    watched: Mutex<HashMap<(u64, u64), Arc<Watched>>>,
    tasks: Tasks,
}

struct Watched {
    pod: PodName,
    netns: Arc<Netns>,
    /// Fires when the pod has left.
    over: CancellationToken,
    /// What does not stand that should.
    fault: Mutex<Option<String>>,
}

impl RedirectWatch {
    pub(crate) fn new(turns: Arc<Turns>, metrics: Arc<Metrics>) -> Self {
        Self { turns, metrics, watched: Mutex::default(), tasks: Tasks::default() }
    }

    /// Watches a pod that has just come.
    pub(crate) fn begin(self: &Arc<Self>, pod: PodName, netns: &Arc<Netns>) {
        let over = CancellationToken::new();
        let (netns, fault) = (Arc::clone(netns), Mutex::default());
        let watched = Arc::new(Watched { pod, netns, over, fault });
        let before = self.with(|all| all.insert(watched.netns.key(), Arc::clone(&watched)));
        before.inspect(|before| before.over.cancel());
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let over = watched.over.clone();
            this.follow(&watched).with_cancellation_token(&over).await;
        });
    }

    /// The pod has left.
    pub(crate) fn end(&self, netns: &Netns) {
        let before = self.with(|all| all.remove(&netns.key()));
        before.inspect(|before| before.over.cancel());
    }

    /// The process ends.
    pub(crate) async fn end_all(&self) {
        self.with(HashMap::clear);
        self.tasks.cut();
        self.tasks.ended().await;
    }

    /// Pods that can be reached beside us, and how.
    pub(crate) fn faults(&self) -> Vec<String> {
        let of = |w: &Arc<Watched>| {
            let fault = w.fault.lock().unwrap_or_else(PoisonError::into_inner);
            fault.as_ref().map(|fault| format!("pod {}: {fault}", w.pod))
        };
        let mut all: Vec<_> = self.with(|all| all.values().filter_map(of).collect());
        all.sort();
        all
    }

    async fn follow(&self, watched: &Watched) {
        let changes = open(&watched.netns).await;
        // What has stood there once is missed; pods that take plaintext by have less.
        let mut stood = Redirects { outbound: true, inbound: false };
        let mut is_unknown = false;
        loop {
            let looked = match self.turns.take(&watched.netns, &watched.over).await {
                Ok(mut turn) => turn.redirects(&watched.netns).await,
                Err(stops) => Err(stops),
            };
            match looked {
                Ok(now) => {
                    stood.inbound |= now.inbound;
                    self.note(watched, stood, now);
                }
                Err(error) if !is_unknown => {
                    is_unknown = true;
                    tracing::warn!(
                        pod = %watched.pod, error = format!("{error:#}"),
                        "whether istio-cni's redirection stands in this pod cannot be looked at"
                    );
                }
                Err(_) => {}
            }
            let news = async {
                match &changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            let at_latest = if changes.is_some() { SELDOM } else { WITHOUT_NEWS };
            // Where no more can be had, that is told at once each time: the pause is for both.
            let _ = tokio::time::timeout(at_latest, news).await;
            tokio::time::sleep(SETTLED_AFTER).await;
            changes.iter().for_each(AwaitedChanges::forget);
        }
    }

    fn note(&self, watched: &Watched, stood: Redirects, now: Redirects) {
        let fault = match (stood.outbound && !now.outbound, stood.inbound && !now.inbound) {
            (false, false) => None,
            (true, true) => Some("what it opens and plaintext that arrives pass by adit"),
            (true, false) => Some("what it opens passes by adit"),
            (false, true) => Some("plaintext that arrives passes by adit"),
        };
        let fault = fault.map(|what| {
            format!(
                "istio-cni's rules in its network namespace are gone: {what}; restart istio-cni on \
                 this node, or the pod"
            )
        });
        let mut known = watched.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match &fault {
            Some(fault) if known.is_none() => {
                self.metrics.pods.rules_restored.with_label_values(&["gone"]).inc();
                tracing::error!(pod = %watched.pod, "{fault}");
            }
            None if known.is_some() => {
                tracing::info!(pod = %watched.pod, "istio-cni's rules stand again");
            }
            _ => {}
        }
        *known = fault;
    }

    fn with<T>(&self, look: impl FnOnce(&mut HashMap<(u64, u64), Arc<Watched>>) -> T) -> T {
        look(&mut self.watched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The kernel's news of this namespace, if it tells any.
async fn open(netns: &Arc<Netns>) -> Option<AwaitedChanges> {
    let of = Arc::clone(netns);
    let opened = blocking(move || Changes::open(&of)).await.ok()?;
    let opened = opened.and_then(Changes::awaited);
    opened.inspect_err(|error| tracing::debug!(%error, "no news of changes in a pod")).ok()
}

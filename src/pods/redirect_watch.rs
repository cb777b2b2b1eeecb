//! Whether what istio-cni has redirected to us stays so. Nothing is restored, as it is not ours; a
//! pod that others could reach beside us is named, and refuses their plaintext by rules of our own
//! until istio-cni's stand again. The kernel says when to look.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
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
/// How long it may take until a pod that has left is refused nothing any more.
const ADMITTED_WITHIN: Duration = Duration::from_secs(10);

/// The pods that are watched, by their namespaces.
pub(crate) struct RedirectWatch {
    turns: Arc<Turns>,
    metrics: Arc<Metrics>,
    /// Whether redirections of plaintext are told on this node, as one was seen.
    is_told: AtomicBool,
    watched: Mutex<HashMap<(u64, u64), Arc<Watched>>>,
    tasks: Tasks,
    /// Pods that have left and whose plaintext was refused.
    leaving: Tasks,
}

struct Watched {
    pod: PodName,
    netns: Arc<Netns>,
    /// Fires when the pod has left.
    over: CancellationToken,
    /// Whether rules of ours may be there.
    refuses: AtomicBool,
    /// What does not stand that should.
    fault: Mutex<Option<String>>,
}

impl RedirectWatch {
    pub(crate) fn new(turns: Arc<Turns>, metrics: Arc<Metrics>) -> Self {
        let (tasks, leaving) = (Tasks::default(), Tasks::default());
        let is_told = AtomicBool::new(false);
        Self { turns, metrics, is_told, watched: Mutex::default(), tasks, leaving }
    }

    /// Watches a pod that has just come.
    pub(crate) fn begin(self: &Arc<Self>, pod: PodName, netns: &Arc<Netns>) {
        let over = CancellationToken::new();
        let (netns, refuses, fault) = (Arc::clone(netns), AtomicBool::new(false), Mutex::default());
        let watched = Arc::new(Watched { pod, netns, over, refuses, fault });
        let before = self.with(|all| all.insert(watched.netns.key(), Arc::clone(&watched)));
        before.inspect(|before| before.over.cancel());
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let over = watched.over.clone();
            this.follow(&watched).with_cancellation_token(&over).await;
        });
    }

    /// The pod is stopped. Where it `is_to_return`, what it refuses it goes on to refuse; else it
    /// has left the mesh, and nothing of ours stays.
    pub(crate) fn end(self: &Arc<Self>, netns: &Netns, is_to_return: bool) {
        let Some(before) = self.with(|all| all.remove(&netns.key())) else { return };
        before.over.cancel();
        if is_to_return || !before.refuses.load(Ordering::Relaxed) {
            return;
        }
        let this = Arc::clone(self);
        self.leaving.spawn(async move {
            let stop = CancellationToken::new();
            let admit = async {
                this.turns.take(&before.netns, &stop).await?.refuse(&before.netns, false).await
            };
            let done = tokio::time::timeout(ADMITTED_WITHIN, admit).await;
            if let Err(error) = done.unwrap_or_else(|late| Err(late.into())) {
                let error = format!("{error:#}");
                tracing::warn!(pod = %before.pod, error, "plaintext is still refused in this pod");
            }
        });
    }

    /// The process ends. What is refused stays so: the next process finds it, and takes it back
    /// where istio-cni's rules stand again.
    pub(crate) async fn end_all(&self) {
        self.with(HashMap::clear);
        self.tasks.cut();
        self.tasks.ended().await;
        self.leaving.ended().await;
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
        let mut stood = Redirects { outbound: true, ..Redirects::default() };
        let mut was_unknown = false;
        loop {
            let looked = self.look(watched, &mut stood).await;
            if let (Err(error), false) = (&looked, was_unknown) {
                was_unknown = true;
                tracing::warn!(
                    pod = %watched.pod, error = format!("{error:#}"),
                    "whether istio-cni's redirection stands in this pod cannot be looked at"
                );
            }
            let news = async {
                match &changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            let is_settled = changes.is_some() && matches!(looked, Ok(true));
            let at_latest = if is_settled { SELDOM } else { WITHOUT_NEWS };
            // Where no more can be had, that is told at once each time: the pause is for both.
            let _ = tokio::time::timeout(at_latest, news).await;
            tokio::time::sleep(SETTLED_AFTER).await;
            changes.iter().for_each(AwaitedChanges::forget);
        }
    }

    /// Looks at what stands, and refuses plaintext where it should be redirected and is not;
    /// whether that was done.
    async fn look(&self, watched: &Watched, stood: &mut Redirects) -> anyhow::Result<bool> {
        let mut turn = self.turns.take(&watched.netns, &watched.over).await?;
        let now = turn.redirects(&watched.netns).await?;
        self.is_told.fetch_or(now.inbound, Ordering::Relaxed);
        // Where plaintext is refused already, an earlier process has missed what had stood there. A
        // pod without any rules has lost them, unless whoever makes them here is not understood.
        let has_none = !now.outbound && self.is_told.load(Ordering::Relaxed);
        stood.inbound |= now.inbound || now.refuses || has_none;
        let is_gone = stood.inbound && !now.inbound;
        if is_gone || now.refuses {
            watched.refuses.store(true, Ordering::Relaxed);
        }
        let done = match is_gone == now.refuses {
            true => Ok(()),
            false => turn.refuse(&watched.netns, is_gone).await,
        };
        let inbound = is_gone.then(|| match &done {
            Ok(()) => "plaintext that arrives is refused".to_owned(),
            Err(error) => {
                format!("plaintext that arrives passes by adit and cannot be refused ({error:#})")
            }
        });
        let outbound =
            (stood.outbound && !now.outbound).then(|| "what it opens passes by adit".to_owned());
        self.note(watched, outbound.into_iter().chain(inbound).collect());
        Ok(done.is_ok())
    }

    /// Names a pod with what has come of its rules being gone.
    fn note(&self, watched: &Watched, what: Vec<String>) {
        let fault = (!what.is_empty()).then(|| {
            format!(
                "istio-cni's rules in its network namespace are gone: {}; restart istio-cni on \
                 this node, or the pod",
                what.join(", ")
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

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

use super::{
    source::{PodFacts, PodNetns},
    turns::{Turn, Turns},
};
use crate::{
    lifecycle::{Tasks, blocking},
    mesh::NonTcp,
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
    /// The pods whose sources have opened their namespaces, by uid, whether or not they are carried.
    announced: Mutex<HashMap<Arc<str>, Arc<PodFacts>>>,
    tasks: Tasks,
    /// Pods that have left.
    leaving: Tasks,
    /// Fires when nobody is watched any more.
    closing: CancellationToken,
}

struct Watched {
    pod: PodName,
    netns: Arc<Netns>,
    /// What becomes of what is not TCP.
    non_tcp: NonTcp,
    /// Fires when the pod has left.
    over: CancellationToken,
    /// What does not stand that should.
    fault: Mutex<Option<String>>,
    /// Why what is not TCP passes by.
    unjudged: Mutex<Option<String>>,
}

impl RedirectWatch {
    pub(crate) fn new(turns: Arc<Turns>, metrics: Arc<Metrics>) -> Self {
        Self {
            turns,
            metrics,
            is_told: AtomicBool::new(false),
            watched: Mutex::default(),
            announced: Mutex::default(),
            tasks: Tasks::default(),
            leaving: Tasks::default(),
            closing: CancellationToken::new(),
        }
    }

    /// Watches a pod that has just come.
    pub(crate) fn begin(self: &Arc<Self>, facts: &PodFacts, netns: &Arc<Netns>) {
        let watched = Arc::new(Watched {
            pod: facts.pod_name(),
            netns: Arc::clone(netns),
            non_tcp: facts.non_tcp,
            over: self.closing.child_token(),
            fault: Mutex::default(),
            unjudged: Mutex::default(),
        });
        let before = self.with(|all| all.insert(watched.netns.key(), Arc::clone(&watched)));
        before.inspect(|before| before.over.cancel());
        let this = Arc::clone(self);
        self.tasks.spawn(async move { this.follow(&watched).await });
    }

    /// The pod is stopped. Where it `is_to_return`, what it refuses it goes on to refuse; else it
    /// has left the mesh, and nothing of ours stays.
    pub(crate) fn end(self: &Arc<Self>, facts: &PodFacts, netns: &Arc<Netns>, is_to_return: bool) {
        let before = self.with(|all| all.remove(&netns.key()));
        before.inspect(|before| before.over.cancel());
        if !is_to_return && matches!(facts.netns, PodNetns::Open(_)) {
            self.announced.lock().unwrap_or_else(PoisonError::into_inner).remove(&facts.uid);
            self.admit(facts.pod_name(), netns);
        }
    }

    /// Takes which pods are announced. One that is no longer has left the mesh, also where it is
    /// not carried: what an earlier process has refused in it does not stay.
    pub(crate) fn announced(self: &Arc<Self>, all: &[Arc<PodFacts>]) {
        let is_open = |facts: &&Arc<PodFacts>| matches!(facts.netns, PodNetns::Open(_));
        let by_uid = |facts: &Arc<PodFacts>| (Arc::clone(&facts.uid), Arc::clone(facts));
        let now = all.iter().filter(is_open).map(by_uid).collect();
        let mut known = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, now);
        for facts in before.values().filter(|before| !known.contains_key(&before.uid)) {
            if let PodNetns::Open(netns) = &facts.netns {
                self.admit(facts.pod_name(), netns);
            }
        }
    }

    /// Removes what is ours, whether or not it is known to be there.
    fn admit(self: &Arc<Self>, pod: PodName, netns: &Arc<Netns>) {
        let (this, netns) = (Arc::clone(self), Arc::clone(netns));
        self.leaving.spawn(async move {
            let stop = CancellationToken::new();
            let admit = async { this.turns.take(&netns, &stop).await?.leave(&netns).await };
            let done = tokio::time::timeout(ADMITTED_WITHIN, admit).await;
            if let Err(error) = done.unwrap_or_else(|late| Err(late.into())) {
                let error = format!("{error:#}");
                tracing::warn!(
                    %pod, error,
                    "this pod has left the mesh, and plaintext or what is not TCP may still be \
                     refused in it"
                );
            }
        });
    }

    /// Looks no more, as others hear from here on which pods leave. What is refused stays so: the
    /// next process finds it, and takes it back where istio-cni's rules stand again.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// The process ends.
    pub(crate) async fn end_all(&self) {
        self.close();
        self.with(HashMap::clear);
        self.tasks.ended().await;
        self.leaving.ended().await;
    }

    /// Pods that can be reached beside us, and how.
    pub(crate) fn faults(&self) -> Vec<String> {
        let of = |w: &Arc<Watched>| {
            [&w.fault, &w.unjudged].map(|fault| {
                let fault = fault.lock().unwrap_or_else(PoisonError::into_inner);
                fault.as_ref().map(|fault| format!("pod {}: {fault}", w.pod))
            })
        };
        let mut all: Vec<_> = self.with(|all| all.values().flat_map(of).flatten().collect());
        all.sort();
        all
    }

    async fn follow(&self, watched: &Watched) {
        let changes = open(&watched.netns).await;
        // What has stood there once is missed; pods that take plaintext by have less.
        let mut has_stood = false;
        let mut was_unknown = false;
        while !watched.over.is_cancelled() {
            // Which ends by itself: no tool runs on when another has the turn.
            let looked = self.look(watched, &mut has_stood).await;
            if watched.over.is_cancelled() {
                return;
            }
            let is_news = begins(&mut was_unknown, looked.is_err());
            if let (Err(error), true) = (&looked, is_news) {
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
            let pause = async {
                let _ = tokio::time::timeout(at_latest, news).await;
                tokio::time::sleep(SETTLED_AFTER).await;
            };
            let _ = pause.with_cancellation_token(&watched.over).await;
            changes.iter().for_each(AwaitedChanges::forget);
        }
    }

    /// Looks at what stands, and refuses plaintext where it should be redirected and is not;
    /// whether that was done.
    async fn look(&self, watched: &Watched, has_stood: &mut bool) -> anyhow::Result<bool> {
        let mut turn = self.turns.take(&watched.netns, &watched.over).await?;
        let now = turn.redirects(&watched.netns).await?;
        self.is_told.fetch_or(now.inbound, Ordering::Relaxed);
        *has_stood |= now.inbound || now.missed;
        let is_gone = is_gone(now, *has_stood, self.is_told.load(Ordering::Relaxed));
        let done = match (is_gone, now.refuses) {
            (true, true) if now.missed == *has_stood => Ok(()),
            (true, _) => turn.refuse(&watched.netns, *has_stood).await,
            (false, true) => turn.admit(&watched.netns).await,
            (false, false) => Ok(()),
        };
        anyhow::ensure!(!watched.over.is_cancelled(), "nobody is watched any longer");
        let inbound = is_gone.then(|| match &done {
            Ok(()) => "plaintext that arrives is refused".to_owned(),
            Err(error) => {
                format!("plaintext that arrives passes by adit and cannot be refused ({error:#})")
            }
        });
        let outbound = (!now.outbound).then(|| "what it opens passes by adit".to_owned());
        self.note(watched, outbound.into_iter().chain(inbound).collect());
        let is_judged = self.judge(&mut turn, watched, now.non_tcp).await;
        Ok(done.is_ok() && is_judged)
    }

    /// Has what is not TCP judged as it should be, where it `now` is not; whether it is. An earlier
    /// process may have left another verdict, or somebody may have changed it.
    async fn judge(&self, turn: &mut Turn<'_>, watched: &Watched, now: Option<NonTcp>) -> bool {
        let wanted = watched.non_tcp;
        let done = match now == Some(wanted) {
            true => Ok(()),
            false => turn.judge_non_tcp(&watched.netns, wanted).await,
        };
        if watched.over.is_cancelled() {
            return false;
        }
        let fault = done.err().map(|error| {
            let wanted = wanted.as_str();
            format!("what is not TCP is not judged as it should be ({wanted}): {error:#}")
        });
        let mut known = watched.unjudged.lock().unwrap_or_else(PoisonError::into_inner);
        match &fault {
            Some(fault) if known.is_none() => {
                self.metrics.pods.rules_restored.with_label_values(&["failed"]).inc();
                tracing::error!(pod = %watched.pod, "{fault}");
            }
            None if now != Some(wanted) => {
                self.metrics.pods.rules_restored.with_label_values(&["restored"]).inc();
                tracing::warn!(
                    pod = %watched.pod, verdict = wanted.as_str(),
                    "what is not TCP was judged otherwise in this pod; adit's verdict stands again"
                );
            }
            _ => {}
        }
        let is_judged = fault.is_none();
        *known = fault;
        is_judged
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

/// Whether plaintext that arrives is to be redirected and is not. What `has_stood` is missed. A pod
/// that was never seen with it may take plaintext by, and then has less; without any rules it has
/// lost them: an earlier process has seen that, or others on this node are redirected (`is_told`), so
/// that whoever makes the rules is understood.
fn is_gone(now: Redirects, has_stood: bool, is_told: bool) -> bool {
    let has_none = !now.outbound && (is_told || now.refuses);
    !now.inbound && (has_stood || has_none)
}

/// Whether what `is` so now `was` not so before.
fn begins(was: &mut bool, is: bool) -> bool {
    !std::mem::replace(was, is) && is
}

/// The kernel's news of this namespace, if it tells any.
async fn open(netns: &Arc<Netns>) -> Option<AwaitedChanges> {
    let of = Arc::clone(netns);
    let opened = blocking(move || Changes::open(&of)).await.ok()?;
    let opened = opened.and_then(Changes::awaited);
    opened.inspect_err(|error| tracing::debug!(%error, "no news of changes in a pod")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_stood_is_not_missed_once_the_rest_stands_again() {
        let none = Redirects::default();
        let bypass = Redirects { outbound: true, ..none };
        let both = Redirects { inbound: true, ..bypass };
        let refused = |of: Redirects| Redirects { refuses: true, ..of };
        for (now, has_stood, is_told, expected) in [
            (none, false, false, false),
            (none, false, true, true),
            (refused(none), false, false, true),
            (none, true, false, true),
            // Who takes plaintext by has lost all, and has again what it had.
            (bypass, false, true, false),
            (refused(bypass), false, true, false),
            (refused(bypass), true, true, true),
            (both, true, true, false),
            (refused(both), true, true, false),
        ] {
            assert_eq!(is_gone(now, has_stood, is_told), expected, "{now:?} {has_stood} {is_told}");
        }
    }

    #[test]
    fn what_cannot_be_looked_at_is_told_each_time_that_it_begins() {
        let mut was = false;
        let told = [true, true, false, true].map(|fails| begins(&mut was, fails));
        assert_eq!(told, [true, false, false, true]);
    }
}

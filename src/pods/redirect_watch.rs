//! Whether what istio-cni has redirected to us stays so. Nothing is restored, as it is not ours; a
//! pod that others could reach beside us is named, and refuses their plaintext by rules of our own
//! until istio-cni's stand again. The kernel says when to look.

mod gone;
mod judged;

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::{future::FutureExt as _, sync::CancellationToken};

use self::gone::Gone;
use super::{
    source::{PodFacts, PodNetns},
    turns::Turns,
    watched::{Register, Watched},
};
use crate::{
    lifecycle::{Tasks, blocking},
    mesh::NonTcp,
    net::PodName,
    observe::metrics::Metrics,
    pods::capture::{AwaitedChanges, Changes, LASTS, LegacyTables},
    sys::netns::Netns,
};

/// How long after news of changes it looks: rules are changed in several steps, and a pod that is
/// taken out of the mesh loses them before istio-cni says so.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// How often it looks where there is no news …
const SELDOM: Duration = Duration::from_secs(60);
/// … and where the kernel tells none.
const WITHOUT_NEWS: Duration = Duration::from_secs(10);
/// How often plaintext is refused again where it is: a process that ends or hangs then leaves it
/// refused for at least half of the time that it [`LASTS`].
const REFUSED_EVERY: Duration = Duration::from_secs(LASTS.as_secs() / 4);
/// How long it may take until a pod that has left is refused nothing any more.
const ADMITTED_WITHIN: Duration = Duration::from_secs(10);

/// The pods that are watched, by their namespaces.
pub(crate) struct RedirectWatch {
    turns: Arc<Turns>,
    metrics: Arc<Metrics>,
    /// Whether redirections of plaintext are told on this node, as one was seen, in each family.
    is_told: [AtomicBool; 2],
    watched: Register<WatchedPod>,
    /// The pods whose sources have opened their namespaces, by uid, whether or not they are carried.
    announced: Mutex<HashMap<Arc<str>, Arc<PodFacts>>>,
    tasks: Tasks,
    /// Pods that have left.
    leaving: Tasks,
    /// Fires when nobody is watched any more.
    closing: CancellationToken,
}

struct WatchedPod {
    pod: PodName,
    netns: Arc<Netns>,
    /// What happens to non-TCP traffic: pass, count or drop.
    non_tcp: NonTcp,
    /// In which families it has addresses, and plaintext is, or was, redirected.
    uses: [AtomicBool; 2],
    has_stood: [AtomicBool; 2],
    /// Fires when the pod has left.
    over: CancellationToken,
    /// What does not stand that should.
    fault: Mutex<Option<String>>,
    /// Why the rules for non-TCP traffic could not be set.
    unjudged: Mutex<Option<String>>,
    /// Whether it was judged once as this process has it.
    was_judged: AtomicBool,
}

impl Watched for WatchedPod {
    fn netns(&self) -> &Netns {
        &self.netns
    }

    fn over(&self) -> &CancellationToken {
        &self.over
    }

    fn faults(&self) -> Vec<String> {
        let of = |fault: &Mutex<Option<String>>| {
            let fault = fault.lock().unwrap_or_else(PoisonError::into_inner);
            fault.as_ref().map(|fault| format!("pod {}: {fault}", self.pod))
        };
        [of(&self.fault), of(&self.unjudged)].into_iter().flatten().collect()
    }
}

/// What was seen of a pod until now.
#[derive(Default)]
struct Seen {
    /// What has stood there once is missed, in each family; pods that take plaintext by have less.
    has_stood: [bool; 2],
    /// When plaintext was refused last.
    refused_at: Option<Instant>,
    /// Whether rules are made by iptables of the old kind, in each family.
    is_legacy: [bool; 2],
}

impl Seen {
    /// Whether what is refused is to be refused again, so that it goes on. What an earlier process
    /// has refused may be over soon.
    fn is_due(&self, now: Instant) -> bool {
        self.refused_at.is_none_or(|at| now.duration_since(at) >= REFUSED_EVERY)
    }
}

impl RedirectWatch {
    pub(crate) fn new(turns: Arc<Turns>, metrics: Arc<Metrics>) -> Self {
        Self {
            turns,
            metrics,
            is_told: Default::default(),
            watched: Register::default(),
            announced: Mutex::default(),
            tasks: Tasks::default(),
            leaving: Tasks::default(),
            closing: CancellationToken::new(),
        }
    }

    /// Watches a pod that has just come.
    pub(crate) fn begin(self: &Arc<Self>, facts: &PodFacts, netns: &Arc<Netns>) {
        let watched = Arc::new(WatchedPod {
            pod: facts.pod_name(),
            netns: Arc::clone(netns),
            non_tcp: facts.non_tcp,
            uses: Default::default(),
            has_stood: Default::default(),
            over: self.closing.child_token(),
            fault: Mutex::default(),
            unjudged: Mutex::default(),
            was_judged: AtomicBool::new(false),
        });
        self.watched.begin(&watched);
        let this = Arc::clone(self);
        self.tasks.spawn(async move { this.follow(&watched).await });
    }

    /// The pod is stopped. Where it `is_to_return`, what it refuses it goes on to refuse; else it
    /// has left the mesh, and nothing of ours stays.
    pub(crate) fn end(self: &Arc<Self>, facts: &PodFacts, netns: &Arc<Netns>, is_to_return: bool) {
        self.watched.end(netns);
        if !is_to_return && matches!(facts.netns, PodNetns::Open(_)) {
            self.announced.lock().unwrap_or_else(PoisonError::into_inner).remove(&facts.uid);
            self.admit(facts.pod_name(), netns);
        }
    }

    /// Takes which pods are announced. One that is no longer has left the mesh, also where it is
    /// not carried: what an earlier process has refused in it does not stay. One that is announced
    /// with another namespace has left the one before.
    pub(crate) fn announced(self: &Arc<Self>, all: &[Arc<PodFacts>]) {
        let is_open = |facts: &&Arc<PodFacts>| matches!(facts.netns, PodNetns::Open(_));
        let by_uid = |facts: &Arc<PodFacts>| (Arc::clone(&facts.uid), Arc::clone(facts));
        let now = all.iter().filter(is_open).map(by_uid).collect();
        let mut known = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, now);
        let has_left = |before: &&Arc<PodFacts>| {
            known.get(&before.uid).is_none_or(|now| now.netns != before.netns)
        };
        for facts in before.values().filter(has_left) {
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
                    "this pod has left the mesh, but its namespace may still refuse plaintext, or \
                     traffic other than TCP"
                );
            }
        });
    }

    /// Looks no more, as others hear from here on which pods leave. What is refused stays so for the
    /// time that it [`LASTS`]: the next process finds it, and takes it back where istio-cni's rules
    /// stand again.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// The process ends.
    pub(crate) async fn end_all(&self) {
        self.close();
        self.watched.clear();
        self.tasks.ended().await;
        self.leaving.ended().await;
    }

    /// Pods that can be reached beside us, and how.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.watched.faults()
    }

    async fn follow(&self, watched: &WatchedPod) {
        let changes = open(&watched.netns).await;
        let mut seen = Seen::default();
        let mut was_unknown = false;
        while !watched.over.is_cancelled() {
            let was_legacy = seen.is_legacy;
            // As they are before it looks: what changes meanwhile is news.
            let tables = legacy(&watched.netns, was_legacy).await;
            // Which ends by itself: no tool runs on when another has the turn.
            let looked = self.look(watched, &mut seen).await;
            if watched.over.is_cancelled() {
                return;
            }
            let is_news = begins(&mut was_unknown, looked.is_err());
            if let (Err(error), true) = (&looked, is_news) {
                tracing::warn!(
                    pod = %watched.pod, error = format!("{error:#}"),
                    "cannot tell whether istio-cni's redirection is still in place in this pod"
                );
            }
            let told = async {
                match &changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            let news = async {
                tokio::select! {
                    _ = told => {}
                    () = tables.changed() => {}
                }
            };
            let is_settled = changes.is_some() && matches!(looked, Ok(true));
            let at_latest = match is_settled {
                _ if seen.is_legacy != was_legacy => Duration::ZERO,
                true => SELDOM,
                false => WITHOUT_NEWS,
            };
            // A watch that has failed returns at once each time: the pause bounds that too.
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
    async fn look(&self, watched: &WatchedPod, seen: &mut Seen) -> anyhow::Result<bool> {
        let mut turn = self.turns.take(&watched.netns, &watched.over).await?;
        let now = turn.redirects(&watched.netns).await?;
        let is_told = std::array::from_fn(|at| {
            let inbound = now.families[at].inbound;
            self.is_told[at].fetch_or(inbound, Ordering::Relaxed) || inbound
        });
        for (at, now) in now.families.iter().enumerate() {
            let is_missed = now.refused.is_some_and(|refused| refused.is_missed);
            seen.has_stood[at] |= now.inbound || is_missed;
            watched.uses[at].store(now.is_used, Ordering::Relaxed);
            watched.has_stood[at].store(seen.has_stood[at], Ordering::Relaxed);
        }
        let gone = Gone::of(&now, seen.has_stood, (is_told, self.is_common()));
        seen.is_legacy = now.families.map(|of| of.is_legacy);
        let refused = now.families.map(|of| of.refused);
        let stands = gone.refused == refused && !now.families.iter().any(|of| of.has_lapsed);
        let done = match gone.refuses() {
            true if stands && !seen.is_due(Instant::now()) => Ok(()),
            true => {
                let done = turn.refuse(&watched.netns, gone.refused).await;
                seen.refused_at = done.is_ok().then(Instant::now).or(seen.refused_at);
                done
            }
            false if refused == [None; 2] => Ok(()),
            false => turn.admit(&watched.netns).await,
        };
        anyhow::ensure!(!watched.over.is_cancelled(), "the pod is no longer watched");
        self.note(watched, &gone, &done);
        let is_judged = self.judge(&mut turn, watched, now.non_tcp).await;
        Ok(done.is_ok() && is_judged)
    }

    /// In which families most pods that have addresses are redirected: what a single one shows, which
    /// may make rules of its own, is none of the others'.
    fn is_common(&self) -> [bool; 2] {
        std::array::from_fn(|at| {
            let has_stood = |pod: &WatchedPod| pod.has_stood[at].load(Ordering::Relaxed);
            let uses = |pod: &WatchedPod| pod.uses[at].load(Ordering::Relaxed);
            let told = self.watched.count(has_stood);
            let all = self.watched.count(|pod| has_stood(pod) || uses(pod));
            told > 1 && 2 * told > all
        })
    }

    /// Names a pod with what has come of its rules being gone.
    fn note(&self, watched: &WatchedPod, gone: &Gone, done: &anyhow::Result<()>) {
        let inbound = gone.refused.map(|refused| refused.is_some());
        let of_inbound = gone.refuses().then(|| match (gone.named(inbound), done) {
            (over, Ok(())) => format!("inbound plaintext{over} is refused"),
            (over, Err(error)) => format!("inbound plaintext{over} bypasses adit ({error:#})"),
        });
        let over = gone.named(gone.outbound);
        let of_outbound = gone.outbound.contains(&true);
        let of_outbound = of_outbound.then(|| format!("outbound connections{over} bypass adit"));
        let what: Vec<_> = of_outbound.into_iter().chain(of_inbound).collect();
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
                tracing::info!(pod = %watched.pod, "istio-cni's rules are in place again");
            }
            _ => {}
        }
        *known = fault;
    }
}

/// Whether what `is` so now `was` not so before.
fn begins(was: &mut bool, is: bool) -> bool {
    !std::mem::replace(was, is) && is
}

/// The tables of iptables of the old kind, in the families that have some.
async fn legacy(netns: &Arc<Netns>, families: [bool; 2]) -> LegacyTables {
    if families == [false; 2] {
        return LegacyTables::default();
    }
    let of = Arc::clone(netns);
    let seen = blocking(move || LegacyTables::seen(&of, families)).await;
    seen.unwrap_or_else(|late| Err(late.into())).unwrap_or_else(|error: io::Error| {
        tracing::debug!(%error, "iptables-legacy changes in this pod are noticed after up to 60 s");
        LegacyTables::default()
    })
}

/// The kernel's news of this namespace, if it tells any.
async fn open(netns: &Arc<Netns>) -> Option<AwaitedChanges> {
    let of = Arc::clone(netns);
    let opened = blocking(move || Changes::open(&of)).await.ok()?;
    let opened = opened.and_then(Changes::awaited);
    let say = |error: &io::Error| {
        tracing::debug!(%error, "rule changes in this pod are not reported; checking every 10 s");
    };
    opened.inspect_err(say).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_is_refused_again_long_before_that_is_over() {
        let now = Instant::now();
        let mut seen = Seen::default();
        assert!(seen.is_due(now), "what an earlier process has refused");
        seen.refused_at = Some(now);
        let look_at_latest = SELDOM + SETTLED_AFTER + WITHOUT_NEWS;
        assert!(!seen.is_due(now + SELDOM) && seen.is_due(now + REFUSED_EVERY));
        assert!(REFUSED_EVERY + look_at_latest + Duration::from_secs(600) < LASTS);
    }

    #[test]
    fn what_cannot_be_looked_at_is_told_each_time_that_it_begins() {
        let mut was = false;
        let told = [true, true, false, true].map(|fails| begins(&mut was, fails));
        assert_eq!(told, [true, false, false, true]);
    }
}

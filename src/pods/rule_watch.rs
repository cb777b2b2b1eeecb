//! Capture rules stay as adit has applied them: what anybody else does to them is undone, said and
//! counted. The kernel says when to look, and nothing is done where all stands as it did.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::{future::FutureExt as _, sync::CancellationToken};

use super::{
    turns::{Turn, Turns},
    watched::{Register, Watched},
};
use crate::{
    lifecycle::{Tasks, blocking},
    observe::metrics::Metrics,
    pods::capture::{AwaitedChanges, Changes, Options, Standing},
    sys::netns::Netns,
};

/// How long it waits after news for more of it: whoever removes rules does so in several steps.
const MORE_TO_COME: Duration = Duration::from_millis(20);
/// Where news comes and comes, it waits twice as long each time after so many looks, …
const AT_ONCE: u32 = 10;
/// … this long at most, …
const SELDOM: Duration = Duration::from_millis(500);
/// … until there was none for so long.
const QUIET: Duration = Duration::from_secs(10);
/// How soon it tries again what has failed.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it looks where the kernel says nothing.
const WITHOUT_NEWS: Duration = Duration::from_secs(5);
/// A pod is named in the log once in this time.
const NAMED_EVERY: Duration = Duration::from_secs(10);

/// The namespaces whose rules are watched.
pub(crate) struct RuleWatch {
    turns: Arc<Turns>,
    metrics: Arc<Metrics>,
    watched: Register<WatchedRules>,
    tasks: Tasks,
}

/// One namespace, and the rules that are to stand there.
struct WatchedRules {
    uid: Arc<str>,
    netns: Arc<Netns>,
    options: Options,
    /// Fires when others than these rules are to stand there, or none.
    over: CancellationToken,
    /// Why they do not stand.
    fault: Mutex<Option<String>>,
}

impl WatchedRules {
    fn fault(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for WatchedRules {
    fn netns(&self) -> &Netns {
        &self.netns
    }

    fn over(&self) -> &CancellationToken {
        &self.over
    }

    fn faults(&self) -> Vec<String> {
        self.fault().iter().cloned().collect()
    }
}

impl RuleWatch {
    pub(crate) fn new(turns: Arc<Turns>, metrics: Arc<Metrics>) -> Self {
        Self { turns, metrics, watched: Register::default(), tasks: Tasks::default() }
    }

    /// Watches the rules that this turn has just applied, in place of those before.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        turn: &mut Turn<'_>,
        uid: &Arc<str>,
        netns: &Arc<Netns>,
        options: Options,
    ) {
        let changes = open(netns, uid).await;
        let standing = turn.standing(netns).await.ok().filter(|found| found.is_whole(options));
        let watched = Arc::new(WatchedRules {
            uid: Arc::clone(uid),
            netns: Arc::clone(netns),
            options,
            over: CancellationToken::new(),
            fault: Mutex::default(),
        });
        self.watched.begin(&watched);
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let over = watched.over.clone();
            this.follow(&watched, changes, standing).with_cancellation_token(&over).await;
        });
    }

    /// Stops watching the rules of this namespace. Whoever removes them calls this first, in the
    /// same turn, so that they are not restored.
    pub(crate) fn end(&self, netns: &Netns) {
        self.watched.end(netns);
    }

    /// Stops watching the rules of all namespaces, before the process ends.
    pub(crate) async fn end_all(&self) {
        self.watched.clear();
        self.tasks.cut();
        self.tasks.ended().await;
    }

    /// Pods whose rules do not stand, and why.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.watched.faults()
    }

    async fn follow(
        &self,
        watched: &WatchedRules,
        mut changes: Option<AwaitedChanges>,
        mut standing: Option<Standing>,
    ) {
        let mut pace = Pace::default();
        let mut said = Said::of(&watched.uid);
        let mut failed = false;
        loop {
            let none = changes.is_none();
            let news = async {
                match &changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            let at_latest = if failed { AGAIN } else { WITHOUT_NEWS };
            let lost = tokio::select! {
                news = news => news.is_err(),
                () = tokio::time::sleep(at_latest), if none || failed => none,
                () = std::future::ready(()), if standing.is_none() && !failed => false,
                () = said.is_due() => {
                    said.tell(Instant::now());
                    continue;
                }
            };
            tokio::time::sleep(pace.next(Instant::now())).await;
            match &changes {
                Some(changes) if !lost => changes.forget(),
                _ => changes = open(&watched.netns, &watched.uid).await,
            }
            let (known, had_failed) = (standing.is_some(), failed);
            let looked = self.look(watched, changes.as_ref(), &mut standing).await;
            failed = looked.is_err();
            match looked {
                Ok(what) => {
                    // What was applied after a failure may stand by now, without another time.
                    let after_a_failure = had_failed.then_some("they could not be restored before");
                    let restored = what.filter(|_| known || had_failed).or(after_a_failure);
                    if let Some(what) = restored {
                        self.count("restored");
                        said.restored(what, Instant::now());
                    }
                    *watched.fault() = None;
                }
                // Others than these rules are to stand there by now: nothing has failed.
                Err(_) if watched.over.is_cancelled() => return,
                Err(error) => {
                    self.count("failed");
                    said.failed(&format!("{error:#}"));
                    *watched.fault() = Some(format!(
                        "pod {}: its capture rules were changed and cannot \
                         be restored: {error:#}",
                        watched.uid
                    ));
                }
            }
        }
    }

    /// Restores the rules unless they stand; what had become of them.
    async fn look(
        &self,
        watched: &WatchedRules,
        changes: Option<&AwaitedChanges>,
        standing: &mut Option<Standing>,
    ) -> anyhow::Result<Option<&'static str>> {
        let WatchedRules { netns, options, over, .. } = watched;
        let mut turn = self.turns.take(netns, over).await?;
        let what = match standing {
            Some(before) => before.became(&turn.standing(netns).await?),
            None => Some("their state was unknown"),
        };
        if what.is_some() {
            if let (_, Some(less)) = turn.apply(netns, *options).await? {
                return Err(less);
            }
            // That was adit itself. What anybody does from here on is news.
            changes.inspect(|changes| changes.forget());
            let now = turn.standing(netns).await?;
            let again = "another program keeps changing them";
            anyhow::ensure!(now.is_whole(*options), again);
            // Applied from the same options, they are listed as before, or are others by now.
            let same = standing.as_ref().is_none_or(|before| now.has_tables_of(before));
            anyhow::ensure!(same, again);
            *standing = Some(now);
        }
        Ok(what)
    }

    fn count(&self, result: &str) {
        self.metrics.pods.rules_restored.with_label_values(&[result]).inc();
    }
}

async fn open(netns: &Arc<Netns>, uid: &str) -> Option<AwaitedChanges> {
    let of = Arc::clone(netns);
    let opened = match blocking(move || Changes::open(&of)).await {
        Ok(opened) => opened.and_then(Changes::awaited),
        Err(error) => Err(error.into()),
    };
    let say = |error: &std::io::Error| {
        tracing::warn!(
            workload = uid, %error,
            "the kernel does not report changes of this pod's capture rules; checking them every 5 \
             s"
        );
    };
    opened.inspect_err(say).ok()
}

/// How soon to look after news.
#[derive(Default)]
struct Pace {
    last: Option<Instant>,
    looks: u32,
}

impl Pace {
    fn next(&mut self, now: Instant) -> Duration {
        let quiet = self.last.is_none_or(|last| now.duration_since(last) > QUIET);
        self.looks = if quiet { 0 } else { self.looks.saturating_add(1) };
        self.last = Some(now);
        let doubled = self.looks.saturating_sub(AT_ONCE).min(16);
        (MORE_TO_COME * (1 << doubled)).min(SELDOM)
    }
}

/// What the log says of one pod, and how often: all that is counted, the last of it no later than at
/// the end.
struct Said {
    uid: Arc<str>,
    at: Option<Instant>,
    what: &'static str,
    /// Restorations that the log does not have yet.
    times: u32,
    fault: Option<String>,
}

impl Said {
    fn of(uid: &Arc<str>) -> Self {
        Self { uid: Arc::clone(uid), at: None, what: "", times: 0, fault: None }
    }

    fn restored(&mut self, what: &'static str, now: Instant) {
        self.fault = None;
        self.times += 1;
        self.what = what;
        if self.due().is_none_or(|due| due <= now) {
            self.tell(now);
        }
    }

    /// When the log may have the next line.
    fn due(&self) -> Option<Instant> {
        self.at.map(|at| at + NAMED_EVERY)
    }

    /// Waits until the log is to have what it does not have yet. Cancel safe.
    async fn is_due(&self) {
        match self.due() {
            Some(due) if self.times > 0 => tokio::time::sleep_until(due).await,
            _ => std::future::pending().await,
        }
    }

    fn tell(&mut self, now: Instant) {
        self.at = Some(now);
        let (what, times) = (self.what, std::mem::take(&mut self.times));
        tracing::warn!(
            workload = &*self.uid,
            what,
            times,
            "another program changed this pod's capture rules; adit has restored them. Find what \
             runs `nft` or `ip rule` in its network namespace; to take the pod out of the mesh, \
             remove it from the mesh file"
        );
    }

    fn failed(&mut self, error: &str) {
        if self.fault.as_deref() != Some(error) {
            tracing::error!(
                workload = &*self.uid,
                error,
                "this pod's capture rules were changed and cannot be restored: it may be open to \
                 plaintext; trying again"
            );
        }
        self.fault = Some(error.to_owned());
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        if self.times > 0 {
            self.tell(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_log_has_each_restoration_and_a_line_in_ten_seconds() {
        let mut said = Said::of(&"shop/db".into());
        let never = tokio::time::timeout(NAMED_EVERY * 10, said.is_due()).await;
        assert!(never.is_err(), "nothing to say");
        said.restored("changed", Instant::now());
        assert_eq!(said.times, 0, "the first is said at once");
        let began = Instant::now();
        for times in 1..=3 {
            said.restored("changed", Instant::now());
            assert_eq!(said.times, times);
        }
        said.is_due().await;
        assert_eq!(began.elapsed(), NAMED_EVERY);
        said.tell(Instant::now());
        assert_eq!(said.times, 0);
    }

    #[test]
    fn news_without_end_is_looked_at_ever_more_seldom() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        for _ in 0..=AT_ONCE {
            assert_eq!(pace.next(now), MORE_TO_COME);
        }
        for _ in 0..20 {
            now += Duration::from_secs(1);
            pace.next(now);
        }
        assert_eq!(pace.next(now), SELDOM);
        assert_eq!(pace.next(now + QUIET * 2), MORE_TO_COME);
    }
}

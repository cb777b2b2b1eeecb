//! What files and the Workload API have in common: SVIDs come by themselves, whole sets at a
//! time, and are picked up by the workloads that have these identities.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use super::{SourceError, Wanted};
use crate::identity::{BundleSet, PrivateKey, SpiffeId, X509Svid};

/// How long a workload waits for the first set.
const FIRST: Duration = Duration::from_secs(5);

/// What came last.
#[derive(Debug, Default)]
struct LatestSet {
    /// Grows with each set and each failure.
    news: u64,
    svids: Vec<CachedSvid>,
    /// Why nothing newer came.
    error: Option<(Meaning, String)>,
}

/// What it means that nothing newer came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Meaning {
    /// It may come later; what is there stays.
    Later,
    /// Somebody must change something; what is there stays.
    Refused,
    /// What came is not used; what is there stays.
    Unusable,
    /// What is there may not be used any more, until something new comes.
    Withdrawn,
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Later => "may come later",
            Self::Refused => "refused",
            Self::Unusable => "unusable",
            Self::Withdrawn => "withdrawn",
        })
    }
}

/// One SVID of a set.
#[derive(Debug)]
struct CachedSvid {
    /// The news that it first came with: a later set may have it again.
    since: u64,
    svid: X509Svid,
}

impl LatestSet {
    fn of(&self, id: &SpiffeId) -> Option<&CachedSvid> {
        self.svids.iter().find(|cached| cached.svid.id == *id)
    }
}

/// The SVIDs of a source, and who has them.
pub(super) struct SvidCache {
    /// Which source, with its path, for errors.
    name: String,
    /// Whether what a set leaves out is taken back.
    whole: bool,
    state: watch::Sender<Arc<LatestSet>>,
    bundles: watch::Sender<Arc<BundleSet>>,
    workloads: Mutex<Workloads>,
}

#[derive(Default)]
struct Workloads {
    /// The one that has an identity.
    owners: HashMap<SpiffeId, Arc<str>>,
    /// What each was told last, whatever it was: only something else is news to it.
    last_answers: HashMap<Arc<str>, LastAnswer>,
}

/// The last answer to a workload.
#[derive(Clone, Copy, Default)]
struct LastAnswer {
    /// Of when.
    news: u64,
    /// The SVID, by when it came; `None` if it was an error.
    since: Option<u64>,
    /// The SVID that it holds, which an error leaves to it.
    holds: Option<u64>,
}

impl SvidCache {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            whole: false,
            state: watch::Sender::default(),
            bundles: watch::Sender::default(),
            workloads: Mutex::default(),
        }
    }

    /// A cache where each set is all that may be used: what it leaves out is withdrawn.
    pub(super) fn of_whole_states(name: String) -> Self {
        Self { whole: true, ..Self::new(name) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.bundles.subscribe()
    }

    /// Whether there is nothing to use now.
    pub(super) fn is_empty(&self) -> bool {
        self.state.borrow().svids.is_empty()
    }

    /// Whether these leave out an identity that there is.
    pub(super) fn has_more_than(&self, svids: &[X509Svid]) -> bool {
        let state = self.state.borrow();
        state.svids.iter().any(|cached| svids.iter().all(|svid| svid.id != cached.svid.id))
    }

    /// A new set, already checked. The bundles are only told of if they are others.
    pub(super) fn publish(&self, svids: Vec<X509Svid>, bundles: BundleSet) {
        self.trust(bundles);
        self.state.send_modify(|state| {
            let news = state.news + 1;
            let cached = |svid: X509Svid| {
                let before = state.of(&svid.id).filter(|old| old.svid.chain == svid.chain);
                CachedSvid { since: before.map_or(news, |old| old.since), svid }
            };
            let svids = svids.into_iter().map(cached).collect();
            *state = Arc::new(LatestSet { news, svids, ..LatestSet::default() });
        });
    }

    /// New bundles alone.
    pub(super) fn trust(&self, bundles: BundleSet) {
        self.bundles.send_if_modified(|known| {
            let changed = **known != bundles;
            if changed {
                *known = Arc::new(bundles);
            }
            changed
        });
    }

    /// Nothing newer, for this reason: what is there stays.
    pub(super) fn failed(&self, why: String) {
        self.tell(Meaning::Later, why);
    }

    /// The source says that what it gave may not be used any more.
    pub(super) fn withdrawn(&self, why: String) {
        self.tell(Meaning::Withdrawn, why);
    }

    /// Nothing newer, and what that means.
    pub(super) fn tell(&self, meaning: Meaning, why: String) {
        self.state.send_modify(|state| {
            // Whoever has not heard of it yet must not take a later failure for a mere failure.
            let was = state.error.as_ref().is_some_and(|(old, _)| *old == Meaning::Withdrawn);
            let meaning = if was { Meaning::Withdrawn } else { meaning };
            let again =
                |cached: &CachedSvid| CachedSvid { since: cached.since, svid: copy(&cached.svid) };
            let svids = match meaning {
                Meaning::Withdrawn => Vec::new(),
                _ => state.svids.iter().map(again).collect(),
            };
            let news = state.news + 1;
            *state = Arc::new(LatestSet { news, svids, error: Some((meaning, why)) });
        });
    }

    /// The SVID of a workload, which is then the only one that has it.
    pub(super) async fn fetch(&self, wanted: &Wanted) -> Result<X509Svid, SourceError> {
        let mut updates = self.state.subscribe();
        let told = |state: &Arc<LatestSet>| !state.svids.is_empty() || state.error.is_some();
        let state = match timeout(FIRST, updates.wait_for(told)).await {
            Ok(Ok(state)) => Arc::clone(&state),
            _ => return Err(self.unavailable(format!("no answer within {FIRST:?}"))),
        };
        let mut workloads = self.workloads();
        let last = workloads.last_answers.get(&wanted.uid).copied().unwrap_or_default();
        let answer = self.answer(wanted, &state, &mut workloads.owners, last.holds);
        let since = answer.as_ref().ok().map(|cached| cached.since);
        let holds = since.or(last.holds);
        workloads
            .last_answers
            .insert(Arc::clone(&wanted.uid), LastAnswer { news: state.news, since, holds });
        answer.map(|cached| copy(&cached.svid))
    }

    fn answer<'a>(
        &self,
        wanted: &Wanted,
        state: &'a LatestSet,
        owners: &mut HashMap<SpiffeId, Arc<str>>,
        holds: Option<u64>,
    ) -> Result<&'a CachedSvid, SourceError> {
        if let Some(error @ (Meaning::Withdrawn, _)) = &state.error {
            return Err(self.error(wanted, error));
        }
        let Some(cached) = state.of(&wanted.id) else {
            if let (true, Some(error)) = (state.svids.is_empty(), &state.error) {
                return Err(self.error(wanted, error));
            }
            let has: Vec<_> = state.svids.iter().take(8).map(|g| g.svid.id.as_str()).collect();
            let why = format!("it has only {}", has.join(", "));
            if self.whole && holds.is_some() {
                return Err(self.error(wanted, &(Meaning::Withdrawn, why)));
            }
            return Err(self.refused(wanted, why));
        };
        let owner = owners.entry(wanted.id.clone()).or_insert_with(|| Arc::clone(&wanted.uid));
        if *owner != wanted.uid {
            let why = format!(
                "workload {owner} already has this key, but each pod needs its own key; give each \
                 pod its own service account, or use a source that issues SVIDs (embedded, istiod)"
            );
            return Err(self.refused(wanted, why));
        }
        match &state.error {
            Some(error) if holds == Some(cached.since) => Err(self.error(wanted, error)),
            _ => Ok(cached),
        }
    }

    /// The first SVID of the set, for a process that is one workload and needs no other.
    pub(super) fn first(&self) -> Result<X509Svid, SourceError> {
        let state = Arc::clone(&self.state.borrow());
        let svid = state.svids.first().map(|cached| copy(&cached.svid));
        svid.ok_or_else(|| match &state.error {
            Some((Meaning::Withdrawn, why)) => {
                SourceError::Withdrawn { source_name: self.name.clone(), why: why.clone() }
            }
            Some((_, why)) => self.unavailable(why.clone()),
            None => self.unavailable("no answer yet".to_owned()),
        })
    }

    /// Why nothing newer than what is there came, if so.
    pub(super) fn failure(&self) -> Option<String> {
        self.state.borrow().error.as_ref().map(|(_, why)| why.clone())
    }

    /// Waits for a set or a failure that is newer than `seen`, and takes note of it. Cancel safe.
    pub(super) async fn news(&self, seen: &mut u64) {
        let mut updates = self.state.subscribe();
        let news = updates.wait_for(|state| state.news > *seen).await.map(|state| state.news);
        match news {
            Ok(news) => *seen = news,
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until there is something that the workload was not told: another SVID for it, or an
    /// end of what it was told, or why nothing comes.
    pub(super) async fn changed(&self, wanted: &Wanted) {
        let last = self.workloads().last_answers.get(&wanted.uid).copied().unwrap_or_default();
        let same = |state: &LatestSet| {
            let since = state.of(&wanted.id).map(|cached| cached.since);
            state.error.is_none() && last.since.is_some() && since == last.since
        };
        // Another had it when this one was refused, and has left.
        let free = |state: &LatestSet| {
            let refused = last.news > 0 && last.since.is_none();
            refused
                && state.of(&wanted.id).is_some()
                && !self.workloads().owners.contains_key(&wanted.id)
        };
        let mut updates = self.state.subscribe();
        let news = updates.wait_for(|state| state.news > last.news && !same(state) || free(state));
        if news.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A workload is gone: its identity may be another's.
    pub(super) fn forget(&self, uid: &str) {
        let mut workloads = self.workloads();
        let before = workloads.owners.len();
        workloads.owners.retain(|_, owner| **owner != *uid);
        workloads.last_answers.remove(uid);
        let free = workloads.owners.len() != before;
        drop(workloads);
        if free {
            self.state.send_modify(|_| {}); // no news, but for whoever was refused
        }
    }

    fn workloads(&self) -> std::sync::MutexGuard<'_, Workloads> {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unavailable(&self, why: String) -> SourceError {
        SourceError::Unavailable { source_name: self.name.clone(), why }
    }

    fn refused(&self, wanted: &Wanted, why: String) -> SourceError {
        self.error(wanted, &(Meaning::Refused, why))
    }

    pub(super) fn error(&self, wanted: &Wanted, (meaning, why): &(Meaning, String)) -> SourceError {
        let (source_name, id, why) = (self.name.clone(), wanted.id.clone(), why.clone());
        match meaning {
            Meaning::Later => SourceError::Unavailable { source_name, why },
            Meaning::Refused => SourceError::Refused { source_name, id, why },
            Meaning::Unusable => SourceError::Unusable { source_name, id, why },
            Meaning::Withdrawn => SourceError::Withdrawn { source_name, why },
        }
    }
}

/// For the workload that has it: the key stays with the source too, which may be asked again.
fn copy(svid: &X509Svid) -> X509Svid {
    X509Svid {
        id: svid.id.clone(),
        chain: svid.chain.clone(),
        key: PrivateKey::from_pkcs8(svid.key.pkcs8().to_vec()),
        not_before: svid.not_before,
        not_after: svid.not_after,
        serial: svid.serial.clone(),
    }
}

#[cfg(test)]
mod tests;

//! What files and the Workload API have in common: SVIDs come by themselves, whole sets at a
//! time, and are picked up by the workloads that have these identities.

use std::{
    collections::HashMap,
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
struct State {
    /// Which set these are.
    set: u64,
    /// Grows with each set and each failure.
    news: u64,
    svids: Vec<X509Svid>,
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

/// The SVIDs of a source, and who has them.
pub(super) struct Pushed {
    /// Which source, with its path, for errors.
    name: String,
    state: watch::Sender<Arc<State>>,
    bundles: watch::Sender<Arc<BundleSet>>,
    owners: Mutex<HashMap<SpiffeId, Owner>>,
    /// The news that each workload knows, also one that was told that it has nothing.
    heard: Mutex<HashMap<Arc<str>, u64>>,
}

/// The one workload that has an identity.
struct Owner {
    uid: Arc<str>,
    /// The set that it has, if any.
    set: u64,
}

impl Pushed {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            state: watch::Sender::default(),
            bundles: watch::Sender::default(),
            owners: Mutex::default(),
            heard: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.bundles.subscribe()
    }

    /// A new set, already checked. The bundles are only told of if they are others.
    pub(super) fn publish(&self, svids: Vec<X509Svid>, bundles: BundleSet) {
        self.trust(bundles);
        self.state.send_modify(|state| {
            let (set, news) = (state.set + 1, state.news + 1);
            *state = Arc::new(State { set, news, svids, ..State::default() });
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
            let svids = match meaning {
                Meaning::Withdrawn => Vec::new(),
                _ => state.svids.iter().map(copy).collect(),
            };
            let (set, news) = (state.set, state.news + 1);
            *state = Arc::new(State { set, news, svids, error: Some((meaning, why)) });
        });
    }

    /// The SVID of a workload, which is then the only one that has it.
    pub(super) async fn fetch(&self, wanted: &Wanted) -> Result<X509Svid, SourceError> {
        let mut updates = self.state.subscribe();
        let told = |state: &Arc<State>| !state.svids.is_empty() || state.error.is_some();
        let state = match timeout(FIRST, updates.wait_for(told)).await {
            Ok(Ok(state)) => Arc::clone(&state),
            _ => return Err(self.unavailable(format!("nothing came in {FIRST:?}"))),
        };
        self.heard().insert(Arc::clone(&wanted.uid), state.news);
        if let Some(error @ (Meaning::Withdrawn, _)) = &state.error {
            return Err(self.error(wanted, error));
        }
        let found = state.svids.iter().find(|svid| svid.id == wanted.id);
        let Some(svid) = found else {
            if let (true, Some(error)) = (state.svids.is_empty(), &state.error) {
                return Err(self.error(wanted, error));
            }
            let has: Vec<_> = state.svids.iter().take(8).map(|svid| svid.id.as_str()).collect();
            return Err(self.refused(wanted, format!("it has {} only", has.join(", "))));
        };
        match (self.claim(wanted, &state)?, &state.error) {
            (true, Some(error)) => Err(self.error(wanted, error)),
            _ => Ok(copy(svid)),
        }
    }

    /// The first SVID of the set, for a process that is one workload and needs no other.
    pub(super) fn first(&self) -> Result<X509Svid, SourceError> {
        let state = Arc::clone(&self.state.borrow());
        let why = || state.error.as_ref().map_or("nothing came yet", |(_, why)| why).to_owned();
        state.svids.first().map(copy).ok_or_else(|| self.unavailable(why()))
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

    /// Waits until there is something that the workload does not know.
    pub(super) async fn changed(&self, wanted: &Wanted) {
        let has = self.heard().get(&wanted.uid).copied().unwrap_or_default();
        let mut updates = self.state.subscribe();
        if updates.wait_for(|state| state.news > has).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A workload is gone: its identity may be another's.
    pub(super) fn forget(&self, uid: &str) {
        self.owners().retain(|_, owner| *owner.uid != *uid);
        self.heard().remove(uid);
    }

    /// Makes the workload the one that has this identity. Whether it has this very set already.
    fn claim(&self, wanted: &Wanted, state: &State) -> Result<bool, SourceError> {
        let mut owners = self.owners();
        let uid = || Owner { uid: Arc::clone(&wanted.uid), set: 0 };
        let owner = owners.entry(wanted.id.clone()).or_insert_with(uid);
        if owner.uid == wanted.uid {
            return Ok(std::mem::replace(&mut owner.set, state.set) == state.set);
        }
        let why = format!(
            "workload {} has its key already, and a key serves one pod only; give each pod a \
             service account of its own, or use a source that issues (embedded, istiod)",
            owner.uid
        );
        drop(owners);
        Err(self.refused(wanted, why))
    }

    fn owners(&self) -> std::sync::MutexGuard<'_, HashMap<SpiffeId, Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, u64>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
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

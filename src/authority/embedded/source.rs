//! The CA as the [`Source`] of a node: who was given what, and who must be given anew.

use std::{
    collections::BTreeSet,
    future::{pending, ready},
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::watch;

use super::{EmbeddedCa, last_fetch::LastFetch, loaded::Loaded};
use crate::{
    credentials::{Source, SourceError, Urgency, Wanted},
    identity::{BundleSet, SpiffeId, X509Svid},
};

/// How long a refusal is remembered without being asked for again.
const REFUSED: Duration = Duration::from_secs(86_400);
/// More than a node carries.
const MOST: usize = 100_000;

impl EmbeddedCa {
    fn note(&self, wanted: &Wanted, loaded: &Loaded, until: Option<SystemTime>) {
        let mut fetches = self.last_fetches.lock().unwrap_or_else(PoisonError::into_inner);
        if fetches.len() >= MOST && !fetches.contains_key(&wanted.uid) {
            return;
        }
        let note = LastFetch {
            under: Arc::clone(&loaded.signer.id),
            banned: loaded.banned.contains(&wanted.id),
            until: until.unwrap_or_else(|| SystemTime::now() + REFUSED),
        };
        fetches.insert(Arc::clone(&wanted.uid), note);
    }

    /// Forgets workloads that have long not asked.
    pub(super) fn forget_old_fetches(&self) {
        let now = SystemTime::now();
        let mut fetches = self.last_fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.retain(|_, g| g.until > now);
    }

    /// Whether another authority signs now than for this workload's SVID, or a ban came or went.
    fn is_stale(&self, wanted: &Wanted) -> bool {
        let loaded = self.loaded.load();
        let fetches = self.last_fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.get(&wanted.uid).is_some_and(|g| {
            g.under != loaded.signer.id || g.banned != loaded.banned.contains(&wanted.id)
        })
    }
}

impl Source for EmbeddedCa {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    fn bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.bundles.subscribe()
    }

    fn fetch<'a>(
        &'a self,
        wanted: &'a Wanted,
        _urgency: Urgency,
    ) -> BoxFuture<'a, Result<X509Svid, SourceError>> {
        // From before: if issuing finds a newer state, this one is stale, and asked for once more.
        let before = self.loaded.load_full();
        let issued = self.issue(&wanted.id);
        self.note(wanted, &before, issued.as_ref().ok().map(|svid| svid.not_after));
        ready(issued.map_err(SourceError::from)).boxed()
    }

    fn changed<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, ()> {
        let mut changes = self.changes.subscribe();
        async move {
            while !self.is_stale(wanted) {
                if changes.changed().await.is_err() {
                    pending().await
                }
            }
        }
        .boxed()
    }

    fn fetch_jwt<'a>(
        &'a self,
        wanted: &'a Wanted,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<String, SourceError>> {
        ready(self.sign_jwt(&wanted.id, audiences).map_err(SourceError::from)).boxed()
    }

    fn banned(&self) -> Option<watch::Receiver<Arc<BTreeSet<SpiffeId>>>> {
        Some(Self::banned(self))
    }
}

//! Other trust domains' bundles, and our own for them (SPIFFE Federation).
//!
//! A [`Federation`] asks for the bundle of each [`Relation`] ([`fetch`], at the pace of [`pace`])
//! and says together with the source's what peers are checked against: one bundle per trust
//! domain, never merged. [`serve()`] gives our own bundle to whoever asks. Which trust domain is
//! known from where:
//! - our own from the source of SVIDs only;
//! - one that the mesh file names from where the file says only, also while that has not
//!   answered yet: then none of its identities is trusted;
//! - others from the source, if it gives more than our own.

mod document;
mod error;
mod fetch;
mod pace;
mod poll;
mod relation;
mod serve;
mod store;
mod verifier;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{Notify, watch};

pub use error::FetchError;
pub use relation::{BundleFrom, EndpointUrl, InvalidUrl, Profile, Relation};
pub use serve::{
    BundleEndpoint, InvalidIssuer, Issuer, KeyPairFiles, Oidc, Proof, ServeConfig, ServeError,
    serve,
};

use crate::{
    identity::{BundleSet, TrustBundle, TrustDomain, shown},
    lifecycle::Tasks,
    observe::metrics::Metrics,
};
use pace::BundleChange;
use store::Store;

/// The foreign trust domains that are trusted.
pub struct Federation {
    shared: Arc<PollerState>,
    tasks: Tasks,
}

impl std::fmt::Debug for Federation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Federation")
    }
}

struct PollerState {
    own: TrustDomain,
    store: Option<Store>,
    source: watch::Receiver<Arc<BundleSet>>,
    combined: watch::Sender<Arc<BundleSet>>,
    known: Mutex<BTreeMap<TrustDomain, FederatedDomain>>,
    metrics: Arc<Metrics>,
}

/// One trust domain that the mesh file names.
struct FederatedDomain {
    relation: Relation,
    bundle: Option<TrustBundle>,
    /// Sequences count from anew: the endpoint is another than the one that gave `bundle`.
    anew: bool,
    generation: Arc<()>,
    fetched: Option<SystemTime>,
    next: Option<SystemTime>,
    error: Option<String>,
    fetch_now: Arc<Notify>,
    tasks: Tasks,
}

/// One federated trust domain as `/federation` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FederationStatus {
    /// Which.
    pub trust_domain: String,
    /// `https_web`, `https_spiffe` or `file`.
    pub profile: &'static str,
    /// Its address or path.
    pub endpoint: String,
    /// `Available`, `Initializing`, or `Unavailable: …`.
    pub state: String,
    /// `spiffe_sequence`.
    pub sequence: Option<u64>,
    /// How many X.509 authorities it has; none trusts nobody.
    pub x509_authorities: usize,
    /// How many JWT authorities it has.
    pub jwt_authorities: usize,
    /// When it was last obtained, RFC 3339.
    pub fetched: Option<String>,
    /// When it is asked for next, RFC 3339.
    pub next_attempt: Option<String>,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
}

impl Federation {
    /// Starts without bundles of other trust domains, except those that `source` gives. With
    /// `state_dir` the last good bundles survive a restart. Needs a running runtime.
    #[must_use]
    pub fn new(
        own: TrustDomain,
        source: watch::Receiver<Arc<BundleSet>>,
        state_dir: Option<&Path>,
        metrics: Arc<Metrics>,
        tasks: Tasks,
    ) -> Self {
        let (combined, _) = watch::channel(Arc::clone(&source.borrow()));
        let shared = Arc::new(PollerState {
            own,
            store: state_dir.map(Store::new),
            source,
            combined,
            known: Mutex::default(),
            metrics,
        });
        let following = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut source = following.source.clone();
            while source.changed().await.is_ok() {
                following.combine(&following.lock());
            }
        });
        Self { shared, tasks }
    }

    /// What peers are checked against: the source's bundles and the federated ones. A new set
    /// appears only when its content is another.
    #[must_use]
    pub fn bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.shared.combined.subscribe()
    }

    /// Trusts exactly these. One that stays as it is goes on; one whose endpoint was edited
    /// keeps its bundle until the new endpoint answers; one that is gone is forgotten at once.
    pub fn apply(&self, relations: &[Relation]) {
        let mut known = self.shared.lock();
        known.retain(|trust_domain, old| {
            let stays = relations.iter().any(|r| r.trust_domain == *trust_domain);
            if !stays {
                old.tasks.cut();
                self.shared.metrics.trust.forget_federation(trust_domain.as_str());
                self.shared.store.iter().for_each(|s| s.forget(trust_domain));
                tracing::info!(target: "federation", %trust_domain, "no longer trusted");
            }
            stays
        });
        for relation in relations {
            if known.get(&relation.trust_domain).is_some_and(|k| k.relation == *relation) {
                continue;
            }
            let old = known.remove(&relation.trust_domain);
            old.iter().for_each(|old| old.tasks.cut());
            let began = self.begin(relation, old.and_then(|old| old.bundle));
            known.insert(relation.trust_domain.clone(), began);
        }
        self.shared.combine(&known);
    }

    fn begin(&self, relation: &Relation, kept: Option<TrustBundle>) -> FederatedDomain {
        let first = poll::first(relation, self.shared.store.as_ref());
        let (stored, first, error) = match first {
            Ok(poll::FirstBundle::Stored(bundle)) => (true, Some(bundle), None),
            Ok(poll::FirstBundle::Given(bundle)) => (false, Some(bundle), None),
            Ok(poll::FirstBundle::Nothing) => (false, None, None),
            Err(error) => {
                let trust_domain = &relation.trust_domain;
                tracing::warn!(
                    target: "federation", %trust_domain, %error,
                    "the first bundle could not be read"
                );
                (false, None, Some(error.to_string()))
            }
        };
        let (generation, fetch_now, tasks) = (Arc::default(), Arc::default(), self.tasks.child());
        let anew = first.is_none();
        let bundle = first.or(kept);
        let hint = bundle.as_ref().filter(|_| stored).map(|b| b.refresh_hint);
        let poller = poll::Poller {
            relation: relation.clone(),
            shared: Arc::clone(&self.shared),
            generation: Arc::clone(&generation),
            fetch_now: Arc::clone(&fetch_now),
        };
        tasks.spawn(poller.run(hint));
        let (fetched, next) = (None, None);
        let relation = relation.clone();
        FederatedDomain {
            relation,
            bundle,
            anew,
            generation,
            fetched,
            next,
            error,
            fetch_now,
            tasks,
        }
    }

    /// Asks for the bundle of a trust domain at once; `false` if the mesh file has no such trust
    /// domain.
    #[must_use]
    pub fn refresh_now(&self, trust_domain: &TrustDomain) -> bool {
        let known = self.shared.lock();
        known.get(trust_domain).map(|k| k.fetch_now.notify_one()).is_some()
    }

    /// What `/federation` shows.
    #[must_use]
    pub fn statuses(&self) -> Vec<FederationStatus> {
        self.shared.lock().values().map(FederatedDomain::status).collect()
    }
}

impl FederatedDomain {
    fn status(&self) -> FederationStatus {
        let rfc3339 = |t: SystemTime| OffsetDateTime::from(t).format(&Rfc3339).unwrap_or_default();
        let (profile, endpoint) = match &self.relation.from {
            BundleFrom::File(path) => ("file", shown(path)),
            BundleFrom::Endpoint { url, profile } => (profile.as_str(), url.to_string()),
        };
        let bundle = self.bundle.as_ref();
        let state = match (bundle, &self.error) {
            (Some(_), _) => "Available".to_owned(),
            (None, Some(error)) => format!("Unavailable: {error}"),
            (None, None) => "Initializing".to_owned(),
        };
        FederationStatus {
            trust_domain: self.relation.trust_domain.to_string(),
            profile,
            endpoint,
            state,
            sequence: bundle.and_then(|b| b.sequence),
            x509_authorities: bundle.map_or(0, |b| b.authorities.len()),
            jwt_authorities: bundle.map_or(0, |b| b.jwt_authorities.len()),
            fetched: self.fetched.map(rfc3339),
            next_attempt: self.next.map(rfc3339),
            last_error: self.error.clone(),
        }
    }
}

impl PollerState {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TrustDomain, FederatedDomain>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn combine(&self, known: &BTreeMap<TrustDomain, FederatedDomain>) {
        let source = Arc::clone(&self.source.borrow());
        let new = match known.is_empty() {
            true => source,
            false => {
                let named = |b: &&TrustBundle| {
                    b.trust_domain == self.own || !known.contains_key(&b.trust_domain)
                };
                let foreign = known
                    .iter()
                    .filter(|(trust_domain, _)| **trust_domain != self.own)
                    .filter_map(|(_, known)| known.bundle.clone());
                Arc::new(source.iter().filter(named).cloned().chain(foreign).collect())
            }
        };
        self.combined.send_if_modified(|now| {
            let changes = **now != *new;
            if changes {
                *now = new;
            }
            changes
        });
    }

    /// Takes, or does not take, what a poller brought; says whether there is a bundle now.
    fn arrived(
        &self,
        relation: &Relation,
        generation: &Arc<()>,
        arrived: Result<TrustBundle, FetchError>,
    ) -> Option<FetchOutcome> {
        let mut known = self.lock();
        let held = known.get_mut(&relation.trust_domain)?;
        if !Arc::ptr_eq(&held.generation, generation) {
            return None; // edited meanwhile
        }
        let taken = arrived.and_then(|bundle| {
            // An operator's file is right also when it goes back.
            let endpoint = matches!(relation.from, BundleFrom::Endpoint { .. });
            let compared = held.bundle.as_ref().filter(|_| endpoint && !held.anew);
            match pace::judge(compared, &bundle) {
                BundleChange::Backwards { held, arrived } => {
                    Err(FetchError::Backwards { held, arrived })
                }
                BundleChange::Same => Ok((bundle, false)),
                BundleChange::Newer => Ok((bundle, true)),
            }
        });
        let trust_domain = &relation.trust_domain;
        let result = if taken.is_ok() { "fetched" } else { "failed" };
        let count = &self.metrics.trust.federation_fetches;
        count.with_label_values(&[trust_domain.as_str(), result]).inc();
        match taken {
            Ok((bundle, newer)) => {
                let hint = bundle.refresh_hint;
                (held.fetched, held.error, held.anew) = (Some(SystemTime::now()), None, false);
                if newer {
                    tell(&bundle);
                    self.keep(relation, &bundle);
                    held.bundle = Some(bundle);
                    self.combine(&known);
                }
                Some(FetchOutcome::Bundle(hint))
            }
            Err(error) => {
                let last_good = match &held.bundle {
                    Some(_) => "keeping the previous bundle",
                    None => "no identity of that trust domain is trusted",
                };
                tracing::warn!(
                    target: "federation", %trust_domain, %error, last_good,
                    "bundle not updated"
                );
                held.error = Some(error.to_string());
                Some(FetchOutcome::Nothing)
            }
        }
    }

    /// The operator gave another first bundle: it counts from now on, as after a restart. `false`
    /// if the relation was edited meanwhile.
    fn given(&self, relation: &Relation, generation: &Arc<()>, bundle: TrustBundle) -> bool {
        let mut known = self.lock();
        let held = known.get_mut(&relation.trust_domain);
        let Some(held) = held.filter(|held| Arc::ptr_eq(&held.generation, generation)) else {
            return false;
        };
        tracing::info!(
            target: "federation", trust_domain = %relation.trust_domain,
            "the first bundle was replaced"
        );
        tell(&bundle);
        (held.bundle, held.anew, held.error) = (Some(bundle), false, None);
        self.combine(&known);
        true
    }

    fn keep(&self, relation: &Relation, bundle: &TrustBundle) {
        let (Some(store), Some(endpoint)) = (&self.store, poll::fingerprint(relation)) else {
            return;
        };
        if let Err(error) = store.keep(&endpoint, bundle) {
            let trust_domain = &relation.trust_domain;
            tracing::warn!(
                target: "federation", %trust_domain, %error,
                "the bundle could not be stored for the next start"
            );
        }
    }

    fn next(&self, trust_domain: &TrustDomain, wait: Duration) {
        if let Some(known) = self.lock().get_mut(trust_domain) {
            known.next = Some(SystemTime::now() + wait);
        }
    }
}

/// What became of an attempt.
enum FetchOutcome {
    /// There is a bundle, with this hint.
    Bundle(Option<Duration>),
    /// It failed.
    Nothing,
}

fn tell(bundle: &TrustBundle) {
    let (trust_domain, sequence) = (&bundle.trust_domain, bundle.sequence);
    let authorities = bundle.authorities.len();
    tracing::info!(target: "federation", %trust_domain, sequence, authorities, "new bundle");
    if authorities == 0 {
        tracing::warn!(
            target: "federation", %trust_domain,
            "its bundle has no X.509 authority: no identity of that trust domain is trusted"
        );
    }
}

//! SVIDs from a SPIFFE Workload API: streams that are kept open, and opened again when they break.
//! Each message is the whole state; what it leaves out is gone (Workload API §4).

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::future::{BoxFuture, FutureExt};
use pki_types::UnixTime;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Endpoint,
    client::{Client, ClientError, KeySets, X509Context},
};
use crate::{
    credentials::{Source, SourceError, Urgency, Wanted, svid_cache::SvidCache},
    identity::{BundleSet, JwtAuthority, Purpose, TrustBundle, X509Svid, verify_svid},
    lifecycle::Tasks,
};

/// The first wait after a failure, doubled up to the longest (Workload Endpoint §6).
const FIRST: Duration = Duration::from_millis(200);
pub(crate) const LONGEST: Duration = Duration::from_secs(30);
/// After an answer that says not to try again.
pub(crate) const HOPELESS: Duration = Duration::from_secs(60);

/// How long an identity that is taken back may come again before that counts. SPIRE's agent
/// forgets SVIDs of a tainted authority, denies those it has until they are made anew, and means
/// nothing by it.
const SETTLE: Duration = Duration::from_millis(500);
/// After this it counts whatever else is said or left unsaid: a server that is silent, or says
/// what is not used, has not given it again.
const LATEST: Duration = Duration::from_secs(2);

/// The source.
pub struct WorkloadApi {
    client: Client,
    cache: Arc<SvidCache>,
    tasks: Tasks,
}

impl WorkloadApi {
    /// Follows the Workload API at `endpoint` from now on. Needs a running runtime.
    #[must_use]
    pub fn follow(endpoint: &Endpoint) -> Self {
        let client = Client::new(endpoint);
        let cache = Arc::new(SvidCache::of_whole_states(format!("Workload API {endpoint}")));
        let tasks = Tasks::default();
        let jwt = Arc::new(watch::Sender::new(KeySets::default()));
        let follower = WorkloadApiFollower {
            client: client.clone(),
            cache: Arc::clone(&cache),
            jwt: Arc::clone(&jwt),
        };
        tasks.spawn(follower.x509());
        let follower =
            WorkloadApiFollower { client: client.clone(), cache: Arc::clone(&cache), jwt };
        tasks.spawn(follower.jwt_bundles());
        Self { client, cache, tasks }
    }

    /// The default SVID (Workload API §4.4): for a process that is one workload.
    ///
    /// # Errors
    /// Why there is none.
    pub fn default_svid(&self) -> Result<X509Svid, SourceError> {
        self.cache.first()
    }

    /// Why nothing newer came than what is there, if so.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.cache.failure()
    }

    /// Waits for something newer than `seen`, and takes note of it. Cancel safe.
    pub async fn news(&self, seen: &mut u64) {
        self.cache.news(seen).await;
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

/// Keeps one stream open.
struct WorkloadApiFollower {
    client: Client,
    cache: Arc<SvidCache>,
    jwt: Arc<watch::Sender<KeySets>>,
}

/// A stream begins in time, or is tried again: a server must answer, if only with a refusal.
pub(crate) async fn begun<T>(
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let begun = tokio::time::timeout(LONGEST, call).await;
    begun.unwrap_or(Err(ClientError::Slow(LONGEST)))
}

/// From the first wait to the longest, for ever.
pub(crate) fn waits() -> ExponentialBackoff {
    let plan = ExponentialBuilder::default().with_min_delay(FIRST).with_max_delay(LONGEST);
    plan.with_factor(2.0).with_jitter().without_max_times().build()
}

impl WorkloadApiFollower {
    async fn x509(self) {
        let mut waits_left = waits();
        let mut denied_since = None;
        let mut jwt = self.jwt.subscribe();
        loop {
            let error = match self.denied(denied_since, begun(self.client.x509())).await {
                Err(error) => error,
                Ok(mut updates) => loop {
                    match self.denied(denied_since, self.next(&mut updates, &mut jwt)).await {
                        Ok(()) => (waits_left, denied_since) = (waits(), None),
                        // One message that is not used: the next may be.
                        Err(ClientError::Unusable(why)) => self.say(&why),
                        Err(error) => break error,
                    }
                },
            };
            if error.denied() {
                denied_since.get_or_insert_with(Instant::now);
            }
            match denied_since {
                None => self.say(&error.to_string()),
                Some(since) if self.cache.is_empty() || since.elapsed() >= SETTLE => {
                    self.cache.withdrawn(format!("it has no identity for this process: {error}"))
                }
                Some(_) => tracing::debug!(target: "svid", %error, "denied; asking again"),
            }
            let wait = if error.retry() { waits_left.next().unwrap_or(LONGEST) } else { HOPELESS };
            self.denied(denied_since, tokio::time::sleep(wait)).await;
        }
    }

    /// Waits for `what`. What was denied, and not given again, is dropped meanwhile.
    async fn denied<T>(&self, since: Option<Instant>, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        let latest = since.map(|since| since + LATEST).filter(|_| !self.cache.is_empty());
        if let Some(latest) = latest {
            // Looked at first: what is always ready would never let it be late.
            if Instant::now() < latest
                && let Ok(done) = timeout_at(latest, &mut what).await
            {
                return done;
            }
            let why = "it no longer has an identity for this process";
            self.cache.withdrawn(why.to_owned());
        }
        what.await
    }

    /// Takes the next state, with the JWT authorities of now and as they change meanwhile.
    async fn next(
        &self,
        updates: &mut super::client::Updates<crate::rpc::workload::X509svidResponse>,
        jwt: &mut watch::Receiver<KeySets>,
    ) -> Result<(), ClientError> {
        let context = loop {
            tokio::select! {
                context = updates.next() => break context?,
                changed = jwt.changed() => if changed.is_ok() {
                    let known = Arc::clone(&self.cache.bundles().borrow());
                    let sets = jwt.borrow_and_update().clone();
                    self.cache.trust(with_jwt_authorities(&known, &sets));
                }
            }
        };
        let mut state = self.checked(context)?;
        let settled = Instant::now() + SETTLE;
        let ended = loop {
            if !self.cache.has_more_than(&state.0) || Instant::now() >= settled {
                break Ok(());
            }
            self.cache.trust(state.1.clone()); // whom to believe no more needs no second look
            let Ok(newer) = timeout_at(settled, updates.next()).await else { break Ok(()) };
            match newer.and_then(|newer| self.checked(newer)) {
                Ok(newer) => state = newer,
                Err(error) => break Err(error),
            }
        };
        let (svids, bundles) = state;
        tracing::info!(
            target: "svid", source = self.cache.name(), svids = svids.len(),
            "SVIDs received"
        );
        self.cache.publish(svids, bundles);
        ended
    }

    fn checked(&self, context: X509Context) -> Result<(Vec<X509Svid>, BundleSet), ClientError> {
        let X509Context { svids, bundles } = context;
        let bundles = with_jwt_authorities(&bundles, &self.jwt.borrow());
        let now = UnixTime::now();
        for hinted in &svids {
            // One that peers would refuse is no use to anybody (and the message is discarded
            // whole).
            verify_svid(&hinted.svid.chain, &bundles, now, Purpose::Client)
                .map_err(|e| ClientError::Unusable(format!("{}: {e}", hinted.svid.id)))?;
        }
        Ok((svids.into_iter().map(|hinted| hinted.svid).collect(), bundles))
    }

    fn say(&self, why: &str) {
        tracing::warn!(
            target: "svid", source = self.cache.name(), error = why,
            "no update; keeping the previous SVIDs"
        );
        self.cache.failed(why.to_owned());
    }

    /// JWT authorities are an extra: without them X.509 goes on.
    async fn jwt_bundles(self) {
        let mut waits_left = waits();
        loop {
            let error = match begun(self.client.jwt_bundles()).await {
                Err(error) => error,
                Ok(mut updates) => loop {
                    match updates.next().await {
                        Ok(sets) => {
                            waits_left = waits();
                            self.jwt.send_replace(sets);
                        }
                        Err(error) => break error,
                    }
                },
            };
            tracing::debug!(
                target: "svid", source = self.cache.name(), %error,
                "no update of JWT bundles; keeping the previous ones"
            );
            let wait = if error.retry() { waits_left.next().unwrap_or(LONGEST) } else { HOPELESS };
            tokio::time::sleep(wait).await;
        }
    }
}

/// The bundles, with these JWT authorities: those of a trust domain that is left out are gone
/// (Workload API §4.4), those of a set that cannot be read stay.
pub(crate) fn with_jwt_authorities(bundles: &BundleSet, sets: &KeySets) -> BundleSet {
    let sets: BTreeMap<_, _> = sets.iter().map(|(domain, set)| (domain, set)).collect();
    let with = |bundle: &TrustBundle| {
        let mut bundle = bundle.clone();
        match sets.get(&bundle.trust_domain).map(|set| JwtAuthority::from_jwks(set)) {
            None => bundle.jwt_authorities.clear(),
            Some(Ok(authorities)) => bundle.jwt_authorities = authorities,
            Some(Err(error)) => {
                let domain = &bundle.trust_domain;
                tracing::warn!(target: "svid", %domain, %error, "a JWT bundle was rejected");
            }
        }
        bundle
    };
    bundles.iter().map(with).collect()
}

impl Source for WorkloadApi {
    fn kind(&self) -> &'static str {
        "workloadApi"
    }

    fn bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.cache.bundles()
    }

    fn fetch<'a>(
        &'a self,
        wanted: &'a Wanted,
        _urgency: Urgency,
    ) -> BoxFuture<'a, Result<X509Svid, SourceError>> {
        self.cache.fetch(wanted).boxed()
    }

    fn forget(&self, uid: &str) {
        self.cache.forget(uid);
    }

    fn fetch_jwt<'a>(
        &'a self,
        wanted: &'a Wanted,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<String, SourceError>> {
        async move {
            let tokens = self.client.jwt(audiences, Some(&wanted.id)).await;
            let tokens = tokens.map_err(|e| self.cache.unavailable(e.to_string()))?;
            let token = tokens.into_iter().next().map(|hinted| hinted.token);
            token.ok_or_else(|| self.cache.unavailable("it gave no token".to_owned()))
        }
        .boxed()
    }

    fn changed<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, ()> {
        self.cache.changed(wanted).boxed()
    }
}

//! The driver of one [`Relation`]: waits, asks, tells; decides nothing.

use std::{
    future::pending,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use tokio::sync::Notify;

use super::{
    BundleFrom, FetchError, FetchOutcome, PollerState, Profile, Relation, document, fetch,
    pace::Pace,
    store::{Store, read_bounded},
    verifier,
};
use crate::identity::{SpiffeId, TrustBundle, TrustDomain};

/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(2);

pub(super) struct Poller {
    pub(super) relation: Relation,
    pub(super) shared: Arc<PollerState>,
    pub(super) generation: Arc<()>,
    pub(super) fetch_now: Arc<Notify>,
}

impl Poller {
    /// With the hint of the bundle that an earlier process had from this endpoint, if any.
    pub(super) async fn run(self, earlier: Option<Option<Duration>>) {
        match &self.relation.from {
            BundleFrom::File(path) => self.watch(path).await,
            BundleFrom::Endpoint { url, profile } => {
                let (mut pace, mut given) = (Pace::default(), self.first_bundle_file());
                if let Some(hint) = earlier {
                    pace.answered(hint);
                }
                loop {
                    let arrived = match self.believed(profile).await {
                        Ok(tls) => fetch::get(url, &tls).await,
                        Err(error) => Err(error),
                    };
                    let bundle =
                        arrived.and_then(|b| document::read(&self.relation.trust_domain, &b));
                    match self.shared.arrived(&self.relation, &self.generation, bundle) {
                        Some(FetchOutcome::Bundle(hint)) => pace.answered(hint),
                        Some(FetchOutcome::Nothing) => pace.failed(),
                        None => return,
                    }
                    let wait = pace.wait(rand::random());
                    self.shared.next(&self.relation.trust_domain, wait);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.fetch_now.notified() => {}
                        bundle = given.replaced() => {
                            if !self.shared.given(&self.relation, &self.generation, bundle) {
                                return;
                            }
                        }
                    }
                }
            }
        }
    }

    /// The first bundle that the operator gave, if it is this trust domain's.
    fn first_bundle_file(&self) -> FirstBundleFile {
        let trust_domain = self.relation.trust_domain.clone();
        let path = match &self.relation.from {
            BundleFrom::Endpoint { profile: Profile::Spiffe { endpoint_id, bundle }, .. } => {
                bundle.clone().filter(|_| *endpoint_id.trust_domain() == trust_domain)
            }
            _ => None,
        };
        let taken = path.as_deref().and_then(|path| file(&trust_domain, path).ok());
        FirstBundleFile { seen: taken.clone(), taken, path, trust_domain }
    }

    /// TLS that trusts this endpoint only, by the current bundles.
    async fn believed(&self, profile: &Profile) -> Result<Arc<rustls::ClientConfig>, FetchError> {
        match profile {
            Profile::Web { roots } => {
                let roots = roots.clone();
                // The system's roots are hundreds of files.
                let read = move || verifier::web(roots.as_deref());
                let read = tokio::task::spawn_blocking(read).await;
                read.map_err(|e| FetchError::file(Path::new("roots"), e))?
            }
            Profile::Spiffe { endpoint_id, bundle } => {
                let bundle = self.bundle_of(endpoint_id, bundle.as_deref())?;
                verifier::spiffe(endpoint_id, bundle)
            }
        }
    }

    /// What the endpoint's SVID is checked against: the bundle of its trust domain in use, and
    /// only while there is none, the first one from the file.
    fn bundle_of(&self, id: &SpiffeId, first: Option<&Path>) -> Result<TrustBundle, FetchError> {
        let trust_domain = id.trust_domain();
        if let Some(bundle) = self.shared.combined.borrow().get(trust_domain) {
            return Ok(bundle.clone());
        }
        let first = first.ok_or_else(|| FetchError::NoBundle(trust_domain.clone()))?;
        file(trust_domain, first)
    }

    /// Takes what a file holds once it has stopped changing.
    async fn watch(&self, path: &Path) {
        let mut seen: Option<Option<TrustBundle>> = None;
        let mut taken: Option<Option<TrustBundle>> = None;
        loop {
            let read = file(&self.relation.trust_domain, path);
            let now = read.as_ref().ok().cloned();
            if seen.as_ref() == Some(&now) && taken.as_ref() != Some(&now) {
                taken = Some(now.clone());
                let arrived = self.shared.arrived(&self.relation, &self.generation, read);
                if arrived.is_none() {
                    return;
                }
            }
            seen = Some(now);
            self.shared.next(&self.relation.trust_domain, LOOK);
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.fetch_now.notified() => {}
            }
        }
    }
}

/// A first bundle whose file may be replaced, by an operator who wants to begin anew.
struct FirstBundleFile {
    path: Option<PathBuf>,
    trust_domain: TrustDomain,
    seen: Option<TrustBundle>,
    taken: Option<TrustBundle>,
}

impl FirstBundleFile {
    /// Waits until the file holds another bundle and has stopped changing. Cancel safe.
    async fn replaced(&mut self) -> TrustBundle {
        let Some(path) = &self.path else { return pending().await };
        loop {
            tokio::time::sleep(LOOK).await;
            let read = file(&self.trust_domain, path);
            if let (Err(error), Some(_)) = (&read, &self.seen) {
                let trust_domain = &self.trust_domain;
                tracing::warn!(
                    target: "federation", %trust_domain, %error,
                    "the first bundle was rejected; keeping the previous one"
                );
            }
            let now = read.ok();
            let still = self.seen == now;
            self.seen.clone_from(&now);
            if let Some(bundle) = now.filter(|now| still && self.taken.as_ref() != Some(now)) {
                self.taken = Some(bundle.clone());
                return bundle;
            }
        }
    }
}

/// What is known of a trust domain before anybody is asked.
pub(super) enum FirstBundle {
    /// An earlier process had it from this endpoint.
    Stored(TrustBundle),
    /// The operator gave it.
    Given(TrustBundle),
    /// Nothing.
    Nothing,
}

pub(super) fn first(relation: &Relation, store: Option<&Store>) -> Result<FirstBundle, FetchError> {
    let trust_domain = &relation.trust_domain;
    match &relation.from {
        BundleFrom::File(path) => file(trust_domain, path).map(FirstBundle::Given),
        BundleFrom::Endpoint { profile, .. } => {
            if let (Some(store), Some(endpoint)) = (store, fingerprint(relation)) {
                match store.load(trust_domain, &endpoint) {
                    Ok(Some(bundle)) => return Ok(FirstBundle::Stored(bundle)),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(
                            target: "federation", %trust_domain, %error,
                            "the stored bundle was rejected"
                        );
                    }
                }
            }
            match profile {
                Profile::Spiffe { endpoint_id, bundle: Some(path) }
                    if endpoint_id.trust_domain() == trust_domain =>
                {
                    file(trust_domain, path).map(FirstBundle::Given)
                }
                _ => Ok(FirstBundle::Nothing),
            }
        }
    }
}

/// What the operator said of an endpoint, with the first bundle itself; `None` where nothing is
/// fetched. Whoever changes it wants to begin anew.
pub(super) fn fingerprint(relation: &Relation) -> Option<String> {
    let BundleFrom::Endpoint { url, profile } = &relation.from else { return None };
    let proof = match profile {
        Profile::Web { .. } => String::new(),
        Profile::Spiffe { endpoint_id, bundle } => {
            let first = bundle.as_ref().map(|path| read_bounded(path).unwrap_or_default());
            let first = digest::digest(&digest::SHA256, &first.unwrap_or_default());
            let hex: String = first.as_ref().iter().map(|b| format!("{b:02x}")).collect();
            format!(" {endpoint_id} {hex}")
        }
    };
    Some(format!("{} {url}{proof}", profile.as_str()))
}

fn file(trust_domain: &TrustDomain, path: &Path) -> Result<TrustBundle, FetchError> {
    let text = read_bounded(path)?;
    document::read_file(trust_domain, &text).map_err(|e| FetchError::file(path, e))
}

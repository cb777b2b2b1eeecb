//! Credentials from the SPIFFE Workload API.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt as _, ready};

use super::{
    credentials::{Credentials, certified},
    provider::{CredentialProvider, Update},
};
use crate::{
    credentials::{
        Source as _,
        acme::ServePort,
        workload_api::{Endpoint, WorkloadApi},
    },
    identity::{BundleSet, LocalIdentity, PeerCert, X509Svid},
    tls::{Expiries, PeerTrust},
};

/// The default SVID and all bundles of one Workload API.
pub(super) struct WorkloadApiProvider {
    api: WorkloadApi,
    from: String,
    /// Whether our SVID is shown.
    shown: bool,
}

impl WorkloadApiProvider {
    /// Follows it from now on, and waits for the first SVID: so long, or for ever.
    pub(super) async fn open(
        endpoint: &Endpoint,
        within: Option<Duration>,
        shown: bool,
    ) -> Result<(Self, Credentials), String> {
        let (api, from) = (WorkloadApi::follow(endpoint), endpoint.to_string());
        let provider = Self { api, from, shown };
        let first = provider.first();
        let first = match within {
            None => first.await,
            Some(limit) => tokio::time::timeout(limit, first).await.map_err(|_| {
                let why = provider.api.default_svid().err();
                let why = why.map_or(String::new(), |e| format!(": {e}"));
                format!("no SVID from {endpoint} within {limit:?}{why}")
            })?,
        };
        Ok((provider, first))
    }

    async fn first(&self) -> Credentials {
        let mut seen = 0;
        loop {
            self.api.news(&mut seen).await;
            if let Ok(svid) = self.api.default_svid()
                && let Ok(given) = self.credentials(svid, &self.api.bundles().borrow().clone())
            {
                return given;
            }
        }
    }

    fn credentials(&self, svid: X509Svid, bundles: &Arc<BundleSet>) -> Result<Credentials, String> {
        let own = PeerCert::of(&svid.chain);
        let key = self.shown.then(|| certified(svid.chain.clone(), &svid.key)).transpose()?;
        let not_after = Some(svid.not_after);
        Ok(Credentials {
            key,
            trust: PeerTrust::Spiffe(Arc::clone(bundles)),
            own,
            svid: Some(LocalIdentity { svid: Arc::new(svid), bundles: Arc::clone(bundles) }),
            not_after,
            source: format!("Workload API {}", self.from),
            ends: Expiries::default(),
            gone: None,
        })
    }
}

impl CredentialProvider for WorkloadApiProvider {
    fn reload(&self) -> BoxFuture<'_, Option<Result<Credentials, String>>> {
        ready(None).boxed()
    }

    fn follow<'a>(
        &'a self,
        _port: ServePort,
        tell: &'a (dyn Fn(Update) + Send + Sync),
    ) -> BoxFuture<'a, ()> {
        async move {
            let (mut seen, mut bundles, mut unused) = (0, self.api.bundles(), None);
            let mut given: Option<LocalIdentity> = None;
            loop {
                tokio::select! {
                    () = self.api.news(&mut seen) => {}
                    // Withdrawn trust is reported before the SVIDs have settled.
                    Ok(()) = bundles.changed() => {}
                }
                let trusted = bundles.borrow_and_update().clone();
                let svid = match self.api.default_svid() {
                    Ok(svid) => svid,
                    // There was one, and its failures leave it: it was taken back.
                    Err(error) => {
                        given = None;
                        tell(Update::TakenBack(error.to_string()));
                        continue;
                    }
                };
                let failure = self.api.failure();
                let same = given.as_ref().is_some_and(|given: &LocalIdentity| {
                    given.svid.chain == svid.chain && Arc::ptr_eq(&given.bundles, &trusted)
                });
                if let (true, Some(why)) = (same, &failure) {
                    // The last good one stays, and gets older.
                    tell(Update::Failed(why.clone()));
                    continue;
                }
                match self.credentials(svid, &trusted) {
                    Ok(new) => {
                        (given, unused) = (new.svid.clone(), None);
                        tell(Update::Given(Arc::new(new)));
                        if let Some(why) = failure {
                            tell(Update::Failed(why));
                        }
                    }
                    Err(why) => {
                        if unused.as_ref() != Some(&why) {
                            tracing::warn!(
                                target: "svid", error = why,
                                "the answer of the Workload API was rejected"
                            );
                        }
                        unused = Some(why.clone());
                        tell(Update::Failed(why));
                    }
                }
            }
        }
        .boxed()
    }
}

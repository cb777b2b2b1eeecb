//! SVIDs from files, as cert-manager, a Kubernetes Secret or an operator leaves them: watched, and
//! taken only when certificate, key and bundle fit together. What is half written, expired or of
//! somebody else changes nothing, and is said once.

mod read;
mod watch;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::watch::Receiver;

use super::{Credential, Source, SourceError, Urgency, Wanted, svid_cache::SvidCache};
use crate::{
    identity::{BundleSet, TrustDomain, X509Svid, shown},
    lifecycle::Tasks,
};

/// Which files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FilesConfig {
    /// The certificate with its key.
    pub credential: Credential,
    /// The authorities of the trust domain, PEM.
    pub bundle: PathBuf,
}

impl FilesConfig {
    /// Whether the files fit together and make an SVID now.
    ///
    /// # Errors
    /// Which is wrong, and how.
    pub fn check(&self, trust_domain: &TrustDomain) -> Result<(), String> {
        read::read(self, trust_domain, SystemTime::now()).map(drop)
    }

    fn paths(&self) -> Vec<PathBuf> {
        std::iter::once(self.bundle.clone()).chain(self.credential.paths()).collect()
    }
}

/// The source.
pub struct Files {
    cache: Arc<SvidCache>,
    tasks: Tasks,
}

impl Files {
    /// Reads the files and watches them from now on. Files that are not there yet, or not right,
    /// are waited for. Needs a running runtime.
    #[must_use]
    pub fn open(config: FilesConfig, trust_domain: TrustDomain) -> Self {
        let name = match &config.credential {
            Credential::Pem { certificate, .. } => format!("file {}", shown(certificate)),
            Credential::Keystore { keystore, .. } => format!("keystore {}", shown(keystore)),
        };
        let cache = Arc::new(SvidCache::new(name));
        let tasks = Tasks::default();
        tasks.spawn(watch::run(config, trust_domain, Arc::clone(&cache)));
        Self { cache, tasks }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

impl Source for Files {
    fn kind(&self) -> &'static str {
        "files"
    }

    fn bundles(&self) -> Receiver<Arc<BundleSet>> {
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

    fn changed<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, ()> {
        self.cache.changed(wanted).boxed()
    }
}

#[cfg(test)]
mod tests;

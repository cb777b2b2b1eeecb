//! Following what is held for a workload, for those who tell others of each change.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Svids, state::SvidState};
use crate::{
    credentials::{SourceError, Wanted},
    identity::{BundleSet, X509Svid},
};

/// What is held for one workload, now and after each change.
#[derive(Debug)]
pub struct Following(watch::Receiver<SvidState>);

impl Following {
    /// The valid SVID, or why there is none; `None` before the first attempt has ended. What is
    /// answered counts as seen.
    pub fn latest(&mut self) -> Option<Result<Arc<X509Svid>, Arc<SourceError>>> {
        let held = self.0.borrow_and_update();
        match (held.valid(), &held.error) {
            (Some(svid), _) => Some(Ok(Arc::clone(svid))),
            (None, Some(error)) => Some(Err(Arc::clone(error))),
            (None, None) => None,
        }
    }

    /// Waits until something was not seen yet. Never returns once the workload is no longer
    /// held. Cancel safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Svids {
    /// Follows what is held for a workload; `None` if nothing is.
    #[must_use]
    pub fn follow(&self, uid: &str) -> Option<Following> {
        self.lock().get(uid).map(|e| Following(e.held.clone()))
    }

    /// The bundles now and after each change.
    #[must_use]
    pub fn follow_bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.bundles.clone()
    }

    /// A JWT-SVID for a workload that is held.
    ///
    /// # Errors
    /// What the source says.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request.
    pub async fn fetch_jwt(&self, uid: &str, audiences: &[String]) -> Result<String, SourceError> {
        let id = self.lock().get(uid).map(|e| e.id.clone());
        let id = id.ok_or_else(|| SourceError::NotWanted(uid.to_owned()))?;
        self.source.fetch_jwt(&Wanted { uid: uid.into(), id }, audiences).await
    }
}

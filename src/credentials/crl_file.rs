//! The operator's own CRLs (`CRL_PATH` of an ambient node): a file that is watched, whose lists
//! count beside those that the source of SVIDs gives with its bundles.
//!
//! No peer is trusted until it was read once: a list that cannot be read must not let a revoked
//! peer in. What is wrong with it later is told, and the lists that were read last stay in force. A
//! file that is empty from the start revokes nobody. If a file becomes empty later, its writer has
//! failed: that is an error.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use futures_util::future::{BoxFuture, FutureExt};
use pki_types::CertificateRevocationListDer;
use tokio::sync::watch::{self, Receiver};

use super::{
    AttachedAs, Source, SourceError, Urgency, Wanted,
    file_watch::{ANEW, FileReader, FileWatch},
};
use crate::{
    identity::{
        BundleSet, SpiffeId, TrustBundle, X509Svid,
        key_files::{self, at},
        shown,
    },
    lifecycle::{Tasks, WatchedFile, next_change},
};

/// How the file is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CrlFileStatus {
    /// How many lists are in force, and since when; `None` before it was read once.
    pub in_force: Option<(usize, SystemTime)>,
    /// Why it could not be read the last time, if it could not.
    pub error: Option<String>,
}

/// A source of SVIDs whose bundles have the CRLs of a file beside their own.
pub struct WithCrls {
    source: Arc<dyn Source>,
    combined: Arc<Combined>,
    status: Receiver<CrlFileStatus>,
}

impl WithCrls {
    /// Reads the file at `path` and watches it from now on, in `tasks`. Needs a running runtime.
    #[must_use]
    pub fn follow(source: Arc<dyn Source>, path: PathBuf, tasks: &Tasks) -> Self {
        let parts = Parts { lists: Err("it has not been read yet".to_owned()), with: None };
        let (parts, bundles) = (Mutex::new(parts), watch::Sender::new(Arc::default()));
        let combined = Arc::new(Combined { path, source: source.bundles(), parts, bundles });
        combined.combine();
        let (say, status) = watch::channel(CrlFileStatus::default());
        tasks.spawn(follow(Arc::clone(&combined), say));
        Self { source, combined, status }
    }

    /// How the file is, now and after each change.
    #[must_use]
    pub fn status(&self) -> Receiver<CrlFileStatus> {
        self.status.clone()
    }
}

type Lists = Vec<CertificateRevocationListDer<'static>>;

/// What peers are checked against.
struct Combined {
    path: PathBuf,
    source: Receiver<Arc<BundleSet>>,
    parts: Mutex<Parts>,
    bundles: watch::Sender<Arc<BundleSet>>,
}

struct Parts {
    /// Those in force, or why none could be read so far.
    lists: Result<Lists, String>,
    /// What of the source they were last combined with.
    with: Option<Arc<BundleSet>>,
}

impl Combined {
    /// Says what peers are checked against now, if something has changed: reading lists takes time.
    fn combine(&self) {
        let mut parts = self.lock();
        let source = Arc::clone(&self.source.borrow());
        if parts.with.as_ref().is_some_and(|with| Arc::ptr_eq(with, &source)) {
            return;
        }
        let now = match &parts.lists {
            Ok(lists) => source.iter().map(|bundle| with(bundle, lists)).collect(),
            Err(why) => BundleSet::withheld(&format!(
                "the CRLs of {} cannot be read: {why}",
                shown(&self.path)
            )),
        };
        parts.with = Some(source);
        self.bundles.send_if_modified(|before| {
            let differs = **before != now;
            if differs {
                *before = Arc::new(now);
            }
            differs
        });
    }

    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or it has become empty: that would forgive everybody who was revoked.
    fn read(&self) -> Result<Lists, String> {
        let found = key_files::crls_if_any(&self.path)?;
        let in_force = self.lock().lists.as_ref().map_or(0, Vec::len);
        if found.is_empty() && in_force > 0 {
            let why = "is empty; to revoke no certificate any longer, write a CRL without entries";
            return Err(at(&self.path, why));
        }
        Ok(found)
    }

    /// What is in the file now; whether lists are in force after that.
    fn found(&self, found: Result<Lists, String>) -> bool {
        let mut parts = self.lock();
        if found.is_ok() || parts.lists.is_err() {
            (parts.lists, parts.with) = (found, None);
        }
        parts.lists.is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with(bundle: &TrustBundle, lists: &Lists) -> TrustBundle {
    let mut bundle = bundle.clone();
    bundle.crls.extend(lists.iter().cloned());
    bundle
}

async fn follow(combined: Arc<Combined>, status: watch::Sender<CrlFileStatus>) {
    let (path, mut source) = (combined.path.clone(), combined.source.clone());
    let reader = FileReader::new(vec![path.clone()], None);
    let mut file = FileWatch::new(WatchedFile::unread(vec![path.clone()]), Some(ANEW));
    let read = || {
        let combined = Arc::clone(&combined);
        reader.read(move || combined.read())
    };
    loop {
        let found = tokio::select! {
            found = file.next(read) => found,
            () = next_change(&mut source) => {
                source.mark_unchanged();
                combined.combine();
                continue;
            }
        };
        let (number, error) = (found.as_ref().map(Vec::len), found.as_ref().err().cloned());
        let in_force = number.map(|number| (number, SystemTime::now())).ok();
        let kept = combined.found(found);
        combined.combine();
        match (&error, in_force) {
            (Some(error), _) => refused(error, kept),
            (None, read) => told(&path, read.map_or(0, |(number, _)| number)),
        }
        status.send_modify(|status| {
            status.in_force = in_force.or(status.in_force);
            status.error = error;
        });
    }
}

fn told(path: &Path, crls: usize) {
    tracing::info!(target: "svid", crls, file = %shown(path), "CRLs read");
}

fn refused(error: &str, kept: bool) {
    match kept {
        true => tracing::warn!(target: "svid", error, "CRLs rejected; keeping the previous ones"),
        false => tracing::warn!(
            target: "svid", error,
            "CRLs cannot be read: no peer is trusted until they can be read, or CRL_PATH is unset"
        ),
    }
}

/// An SVID is given once peers can be checked by the bundle that came with it.
impl Source for WithCrls {
    fn kind(&self) -> &'static str {
        self.source.kind()
    }

    fn bundles(&self) -> Receiver<Arc<BundleSet>> {
        self.combined.bundles.subscribe()
    }

    fn banned(&self) -> Option<Receiver<Arc<BTreeSet<SpiffeId>>>> {
        self.source.banned()
    }

    fn fetch<'a>(
        &'a self,
        wanted: &'a Wanted,
        urgency: Urgency,
    ) -> BoxFuture<'a, Result<X509Svid, SourceError>> {
        let fetched = self.source.fetch(wanted, urgency);
        fetched.map(|svid| svid.inspect(|_| self.combined.combine())).boxed()
    }

    fn urge(&self, uid: &str) {
        self.source.urge(uid);
    }

    fn carries(&self, pods: &[AttachedAs]) {
        self.source.carries(pods);
    }

    fn forget(&self, uid: &str) {
        self.source.forget(uid);
    }

    fn fetch_jwt<'a>(
        &'a self,
        wanted: &'a Wanted,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<String, SourceError>> {
        self.source.fetch_jwt(wanted, audiences)
    }

    fn changed<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, ()> {
        self.source.changed(wanted)
    }
}

#[cfg(test)]
mod tests;

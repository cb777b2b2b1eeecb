//! The SVIDs of this node, one per local workload, each renewed by a task of its own.
//!
//! Keys are kept by workload and handed out for that workload only, also where several share
//! a service account and so a SPIFFE ID. A failed renewal keeps the
//! last good SVID until it expires, and says so; an expired one is never handed out, nor that of
//! an identity that is banned.

mod follow;
mod renewal;
mod state;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::SystemTime,
};

use pki_types::UnixTime;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{Notify, watch};

pub use follow::Following;
use renewal::Renewal;
use state::{SvidState, validity};

use super::{AttachedAs, OutageBudget, Source, SourceError, Wanted};
use crate::{
    identity::{BundleSet, Purpose, SpiffeId, SvidError, X509Svid, verify_svid},
    lifecycle::{Tasks, watch_clock},
    observe::metrics::Metrics,
};

struct WatchedIdentity {
    id: SpiffeId,
    held: watch::Receiver<SvidState>,
    renew_now: Arc<Notify>,
    /// A connection was refused for want of it.
    demand: Arc<Notify>,
    tasks: Tasks,
}

/// The store.
pub struct Svids {
    source: Arc<dyn Source>,
    bundles: watch::Receiver<Arc<BundleSet>>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    entries: Mutex<HashMap<Arc<str>, WatchedIdentity>>,
    /// Told when the source is back.
    back: watch::Sender<()>,
    /// Told when the clock was set; from the first workload on.
    clock: OnceLock<watch::Receiver<()>>,
}

impl fmt::Debug for Svids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Svids")
    }
}

/// One identity as `/certs` shows it; never a key.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SvidStatus {
    /// The workload's uid.
    pub workload: String,
    /// The SPIFFE ID.
    pub identity: String,
    /// `Available`, `Initializing`, `Banned: …` or `Unavailable: …`.
    pub state: String,
    /// Which kind of source issues it.
    pub source: &'static str,
    /// Serial number, hex.
    pub serial_number: Option<String>,
    /// RFC 3339.
    pub valid_from: Option<String>,
    /// RFC 3339.
    pub expiration_time: Option<String>,
    /// How long it serves without its source; 0 if it has run out.
    pub seconds_left: Option<u64>,
    /// When it was obtained, RFC 3339.
    pub last_success: Option<String>,
    /// When it is renewed, RFC 3339.
    pub next_attempt: Option<String>,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
}

impl Svids {
    /// A store that is fed by `source`; its tasks run in `tasks`.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, metrics: Arc<Metrics>, tasks: Tasks) -> Self {
        let bundles = source.bundles();
        let (entries, back, clock) = Default::default();
        Self { source, bundles, metrics, tasks, entries, back, clock }
    }

    /// Checks peers against these, the source's and others (see [`crate::spiffe_api::federation`]).
    #[must_use]
    pub fn trusting(mut self, bundles: watch::Receiver<Arc<BundleSet>>) -> Self {
        self.bundles = bundles;
        self
    }

    /// What peers' SVIDs are checked against.
    #[must_use]
    pub fn bundles(&self) -> Arc<BundleSet> {
        Arc::clone(&self.bundles.borrow())
    }

    /// Watches the bundles for changes.
    #[must_use]
    pub fn watch_bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.bundles.clone()
    }

    /// Who may not be there; `None` if the source bans nobody ever.
    #[must_use]
    pub fn watch_banned(&self) -> Option<watch::Receiver<Arc<BTreeSet<SpiffeId>>>> {
        self.source.banned()
    }

    /// Which kind of source issues them.
    #[must_use]
    pub fn source(&self) -> &'static str {
        self.source.kind()
    }

    /// How long all identities survive without their source.
    #[must_use]
    pub fn outage_budget(&self) -> OutageBudget {
        let entries = self.lock();
        let last = entries.values().map(|e| {
            let held = e.held.borrow();
            let error = held.error.as_ref().map(ToString::to_string);
            let had = held.obtained.is_some();
            (e.id.clone(), had, held.svid.as_deref().map(validity), error)
        });
        OutageBudget::of(last, SystemTime::now())
    }

    /// Renews at once the SVIDs that are no longer trusted, because their authority has left the
    /// bundle or a CRL revokes them. Only identities for which `of` returns true are checked.
    pub fn renew_untrusted(&self, bundles: &BundleSet, of: impl Fn(&SpiffeId) -> bool) {
        for entry in self.lock().values().filter(|e| of(&e.id)) {
            let Some(svid) = entry.held.borrow().valid().cloned() else { continue };
            let judged = verify_svid(&svid.chain, bundles, UnixTime::now(), Purpose::Server);
            if let Err(error @ (SvidError::Revoked { .. } | SvidError::Untrusted(_))) = judged {
                tracing::warn!(target: "svid", identity = %entry.id, %error, "renewing now");
                entry.renew_now.notify_one();
            }
        }
    }

    /// The pods that this node carries now, all of them, for a source that must know.
    pub fn carries(&self, pods: &[AttachedAs]) {
        self.source.carries(pods);
    }

    /// Begins to hold an SVID for a workload; does nothing if that one is held. Needs a
    /// running runtime.
    pub fn watch(&self, uid: &Arc<str>, id: &SpiffeId) {
        let mut entries = self.lock();
        if entries.get(uid).is_some_and(|e| e.id == *id) {
            return;
        }
        if let Some(old) = entries.remove(uid) {
            self.end(uid, &old, &entries);
        }
        let (say, held) = watch::channel(SvidState::default());
        let (renew_now, demand) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let tasks = self.tasks.child();
        let renewal = Renewal {
            wanted: Wanted { uid: uid.clone(), id: id.clone() },
            source: Arc::clone(&self.source),
            metrics: Arc::clone(&self.metrics),
            renew_now: Arc::clone(&renew_now),
            demand: Arc::clone(&demand),
            bans: self.source.banned(),
            clock: self.clock.get_or_init(|| watch_clock(&self.tasks)).clone(),
            back: self.back.clone(),
            say,
        };
        tasks.spawn(renewal.run());
        entries.insert(
            uid.clone(),
            WatchedIdentity { id: id.clone(), held, renew_now, demand, tasks },
        );
    }

    /// Keeps only the workloads that `wanted` names; the others' keys are wiped once the last
    /// connection that uses them is gone.
    pub fn retain(&self, wanted: impl Fn(&str) -> bool) {
        let mut entries = self.lock();
        let gone: Vec<_> = entries.keys().filter(|uid| !wanted(uid)).cloned().collect();
        for uid in gone {
            if let Some(old) = entries.remove(&uid) {
                self.end(&uid, &old, &entries);
            }
        }
    }

    fn end(&self, uid: &str, old: &WatchedIdentity, left: &HashMap<Arc<str>, WatchedIdentity>) {
        old.tasks.cut();
        self.source.forget(uid);
        if !left.values().any(|e| e.id == old.id) {
            self.metrics.credentials.forget(old.id.as_str());
        }
    }

    /// Renews at once what is held for an identity; `false` if nothing is.
    pub fn rotate_now(&self, id: &SpiffeId) -> bool {
        let entries = self.lock();
        let held = entries.values().filter(|e| e.id == *id);
        held.map(|e| e.renew_now.notify_one()).count() > 0
    }

    /// The SVID of a workload, waiting for the first attempt if none was made yet.
    ///
    /// # Errors
    /// The last failure, at once, if there is no valid SVID.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ready(&self, uid: &str) -> Result<Arc<X509Svid>, Arc<SourceError>> {
        let handles =
            |e: &WatchedIdentity| (e.held.clone(), Arc::clone(&e.renew_now), Arc::clone(&e.demand));
        let found = self.lock().get(uid).map(handles);
        let gone = || Arc::new(SourceError::NotWanted(uid.to_owned()));
        let (mut held, renew_now, demand) = found.ok_or_else(gone)?;
        match &*held.borrow() {
            SvidState { svid: None, .. } => self.source.urge(uid),
            // The clock was set a moment ago.
            h if h.valid().is_none() && h.error.is_none() => renew_now.notify_one(),
            _ => {}
        }
        let now = held
            .wait_for(|h| h.valid().is_some() || h.error.is_some())
            .await
            .map_err(|_| gone())?;
        match (now.valid(), &now.error) {
            (Some(svid), _) => Ok(Arc::clone(svid)),
            (None, Some(error)) => {
                demand.notify_one();
                Err(Arc::clone(error))
            }
            (None, None) => Err(gone()),
        }
    }

    /// What `/certs` shows.
    #[must_use]
    pub fn statuses(&self) -> Vec<SvidStatus> {
        self.held().into_iter().map(|(status, _)| status).collect()
    }

    /// The status of every identity with its valid SVID, ordered by identity and workload.
    #[must_use]
    pub fn held(&self) -> Vec<(SvidStatus, Option<Arc<X509Svid>>)> {
        let entries = self.lock();
        let kind = self.source.kind();
        let held = |(uid, e): (&Arc<str>, &WatchedIdentity)| {
            let held = e.held.borrow();
            (status(kind, uid, &e.id, &held), held.svid.clone())
        };
        let mut all: Vec<_> = entries.iter().map(held).collect();
        all.sort_by(|(a, _), (b, _)| (&a.identity, &a.workload).cmp(&(&b.identity, &b.workload)));
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, WatchedIdentity>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status(source: &'static str, uid: &str, id: &SpiffeId, held: &SvidState) -> SvidStatus {
    let rfc3339 = |t: SystemTime| OffsetDateTime::from(t).format(&Rfc3339).unwrap_or_default();
    let svid = held.svid.as_ref();
    let state = match (held.valid(), &held.error) {
        (Some(_), _) => "Available".to_owned(),
        (None, Some(error)) if error.is_ban() => format!("Banned: {error}"),
        (None, Some(error)) => format!("Unavailable: {error}"),
        (None, None) => "Initializing".to_owned(),
    };
    SvidStatus {
        workload: uid.to_owned(),
        identity: id.to_string(),
        state,
        source,
        serial_number: svid.map(|s| s.serial.clone()),
        valid_from: svid.map(|s| rfc3339(s.not_before)),
        expiration_time: svid.map(|s| rfc3339(s.not_after)),
        seconds_left: svid.map(|s| super::seconds_left(s.not_after, SystemTime::now())),
        last_success: held.obtained.map(rfc3339),
        next_attempt: held.next.map(rfc3339),
        last_error: held.error.as_ref().map(ToString::to_string),
    }
}

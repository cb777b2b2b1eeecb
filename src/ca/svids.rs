//! The SVIDs of this node, one per local identity, each renewed by a task of its own.
//!
//! Keys are kept by SPIFFE ID and handed out for that ID only. A failed renewal keeps the
//! last good SVID until it expires, and says so; an expired one is never handed out.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{Notify, watch};

use super::{CaError, EmbeddedCa, rotation::Rotation};
use crate::{
    identity::{BundleSet, SpiffeId, X509Svid},
    lifecycle::Tasks,
    observe::metrics::Metrics,
};

type Issue = dyn Fn(&SpiffeId) -> Result<X509Svid, CaError> + Send + Sync;

/// What is held of one identity.
#[derive(Clone, Debug, Default)]
struct Held {
    svid: Option<Arc<X509Svid>>,
    error: Option<Arc<CaError>>,
    next: Option<SystemTime>,
}

impl Held {
    fn valid(&self) -> Option<&Arc<X509Svid>> {
        self.svid.as_ref().filter(|svid| svid.not_after > SystemTime::now())
    }
}

struct Entry {
    held: watch::Receiver<Held>,
    hurry: Arc<Notify>,
    tasks: Tasks,
}

/// The store.
pub struct Svids {
    issue: Arc<Issue>,
    bundles: Arc<BundleSet>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    entries: Mutex<HashMap<SpiffeId, Entry>>,
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
    /// The SPIFFE ID.
    pub identity: String,
    /// `Available`, `Initializing`, or `Unavailable: …`.
    pub state: String,
    /// Which kind of source issues it.
    pub source: &'static str,
    /// Serial number, hex.
    pub serial_number: Option<String>,
    /// RFC 3339.
    pub valid_from: Option<String>,
    /// RFC 3339.
    pub expiration_time: Option<String>,
    /// When it is renewed, RFC 3339.
    pub next_attempt: Option<String>,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
}

impl Svids {
    /// A store that is fed by the embedded CA; its tasks run in `tasks`.
    #[must_use]
    pub fn new(ca: Arc<EmbeddedCa>, metrics: Arc<Metrics>, tasks: Tasks) -> Self {
        let bundles = Arc::new([ca.bundle()].into_iter().collect());
        Self {
            issue: Arc::new(move |id| ca.issue(id)),
            bundles,
            metrics,
            tasks,
            entries: Mutex::default(),
        }
    }

    /// What peers' SVIDs are checked against.
    #[must_use]
    pub fn bundles(&self) -> Arc<BundleSet> {
        Arc::clone(&self.bundles)
    }

    /// Begins to hold an identity; does nothing if it is held. Needs a running runtime.
    pub fn watch(&self, id: &SpiffeId) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.contains_key(id) {
            return;
        }
        let (say, held) = watch::channel(Held::default());
        let hurry = Arc::new(Notify::new());
        let tasks = self.tasks.child();
        let renewal = Renewal {
            id: id.clone(),
            issue: Arc::clone(&self.issue),
            metrics: Arc::clone(&self.metrics),
            hurry: Arc::clone(&hurry),
            say,
        };
        tasks.spawn(renewal.run());
        entries.insert(id.clone(), Entry { held, hurry, tasks });
    }

    /// Ends renewal and wipes the key once the last connection that uses it is gone.
    pub fn forget(&self, id: &SpiffeId) {
        let entry = self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(entry) = entry {
            entry.tasks.cut();
            self.metrics.forget_identity(id.as_str());
        }
    }

    /// The identities that are held.
    #[must_use]
    pub fn identities(&self) -> Vec<SpiffeId> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<_> = entries.keys().cloned().collect();
        ids.sort();
        ids
    }

    /// Renews at once; `false` if the identity is not held.
    pub fn rotate_now(&self, id: &SpiffeId) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(id).map(|e| e.hurry.notify_one()).is_some()
    }

    /// The SVID of `id`, waiting for the first attempt if none was made yet.
    ///
    /// # Errors
    /// The last failure, at once, if there is no valid SVID.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ready(&self, id: &SpiffeId) -> Result<Arc<X509Svid>, Arc<CaError>> {
        let held = {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.get(id).map(|e| e.held.clone())
        };
        let gone = || Arc::new(CaError::Sign(format!("{id} is not an identity of this node")));
        let mut held = held.ok_or_else(gone)?;
        let now = held
            .wait_for(|h| h.valid().is_some() || h.error.is_some())
            .await
            .map_err(|_| gone())?;
        match (now.valid(), &now.error) {
            (Some(svid), _) => Ok(Arc::clone(svid)),
            (None, Some(error)) => Err(Arc::clone(error)),
            (None, None) => Err(gone()),
        }
    }

    /// What `/certs` shows.
    #[must_use]
    pub fn statuses(&self) -> Vec<SvidStatus> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = entries.iter().map(|(id, e)| status(id, &e.held.borrow())).collect();
        all.sort_by(|a, b| a.identity.cmp(&b.identity));
        all
    }
}

fn status(id: &SpiffeId, held: &Held) -> SvidStatus {
    let rfc3339 = |t: SystemTime| OffsetDateTime::from(t).format(&Rfc3339).unwrap_or_default();
    let svid = held.svid.as_ref();
    let state = match (held.valid(), &held.error) {
        (Some(_), _) => "Available".to_owned(),
        (None, Some(error)) => format!("Unavailable: {error}"),
        (None, None) => "Initializing".to_owned(),
    };
    SvidStatus {
        identity: id.to_string(),
        state,
        source: "embedded",
        serial_number: svid.map(|s| s.serial.clone()),
        valid_from: svid.map(|s| rfc3339(s.not_before)),
        expiration_time: svid.map(|s| rfc3339(s.not_after)),
        next_attempt: held.next.map(rfc3339),
        last_error: held.error.as_ref().map(ToString::to_string),
    }
}

/// The driver of one [`Rotation`]: waits, asks, tells; decides nothing.
struct Renewal {
    id: SpiffeId,
    issue: Arc<Issue>,
    metrics: Arc<Metrics>,
    hurry: Arc<Notify>,
    say: watch::Sender<Held>,
}

impl Renewal {
    async fn run(self) {
        let mut plan = Rotation::new(SystemTime::now());
        loop {
            let wait = plan.due().duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                () = sleep_by_the_clock(wait) => {}
                () = self.hurry.notified() => plan.hurry(SystemTime::now()),
            }
            match (self.issue)(&self.id) {
                Ok(svid) => self.issued(&mut plan, svid),
                Err(error) => self.failed(&mut plan, error),
            }
        }
    }

    fn issued(&self, plan: &mut Rotation, svid: X509Svid) {
        plan.on_issued(svid.not_before, svid.not_after, rand::random());
        self.metrics.svid_renewals.with_label_values(&["issued"]).inc();
        let end = svid.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let gauge = self.metrics.svid_not_after.with_label_values(&[self.id.as_str()]);
        gauge.set(end.as_secs_f64());
        tracing::info!(target: "svid", identity = %self.id, serial = svid.serial, "SVID issued");
        let held = Held { svid: Some(Arc::new(svid)), error: None, next: Some(plan.due()) };
        self.say.send_replace(held);
    }

    fn failed(&self, plan: &mut Rotation, error: CaError) {
        let now = SystemTime::now();
        plan.on_failure(now, rand::random());
        self.metrics.svid_renewals.with_label_values(&["failed"]).inc();
        self.say.send_modify(|held| {
            let left = held.valid().and_then(|s| s.not_after.duration_since(now).ok());
            let last_good = match left {
                Some(left) => format!("the last good SVID serves for another {} s", left.as_secs()),
                None => "no valid SVID is left: connections are refused".to_owned(),
            };
            let retry = plan.due().duration_since(now).unwrap_or_default();
            tracing::warn!(target: "svid", identity = %self.id, %error, ?retry, last_good, "SVID not renewed");
            held.error = Some(Arc::new(error));
            held.next = Some(plan.due());
        });
    }
}

/// Sleeps in steps, so that a clock that was set, or a machine that was suspended, is noticed.
async fn sleep_by_the_clock(wait: Duration) {
    let until = SystemTime::now() + wait;
    while let Ok(left) = until.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(Duration::from_secs(30))).await;
    }
}

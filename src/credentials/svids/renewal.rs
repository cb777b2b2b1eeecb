//! The task that keeps one identity's SVID: it does what its [`Rotation`] says.

use std::{collections::BTreeSet, future::pending, sync::Arc, time::SystemTime};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::state::{SvidState, validity};
use crate::{
    credentials::{Source, SourceError, Urgency, Wanted, rotation::Rotation},
    identity::{SpiffeId, X509Svid, length},
    lifecycle::next_change,
    observe::metrics::Metrics,
};

/// The driver of one [`Rotation`]: waits, asks, tells; decides nothing.
pub(super) struct Renewal {
    pub(super) wanted: Wanted,
    pub(super) source: Arc<dyn Source>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) renew_now: Arc<Notify>,
    pub(super) demand: Arc<Notify>,
    pub(super) clock: watch::Receiver<()>,
    /// Who is banned, if the source bans anybody ever.
    pub(super) bans: Option<watch::Receiver<Arc<BTreeSet<SpiffeId>>>>,
    /// Told by whoever gets an SVID after it got none: the source is back for all.
    pub(super) back: watch::Sender<()>,
    pub(super) say: watch::Sender<SvidState>,
}

impl Renewal {
    pub(super) async fn run(mut self) {
        let mut plan = Rotation::new(SystemTime::now());
        let mut urgency = Urgency::WarmUp;
        let mut back = self.back.subscribe();
        let (mut bans, mut banned) = (self.bans.clone(), false);
        loop {
            let wait = plan.due().duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                now = turned(&mut bans, &self.wanted.id, banned) => {
                    banned = now;
                    if banned {
                        self.failed(&mut plan, self.ban());
                        continue;
                    }
                    // Who asks from here on waits for what comes.
                    self.say.send_modify(|held| held.error = None);
                    plan.renew_now(SystemTime::now());
                }
                () = sleep(wait) => {}
                () = self.renew_now.notified() => {
                    plan.renew_now(SystemTime::now());
                    urgency = Urgency::OnDemand;
                }
                () = self.source.changed(&self.wanted) => plan.renew_now(SystemTime::now()),
                () = self.demand.notified() => {
                    plan.on_demand(SystemTime::now());
                    self.replanned(&plan);
                    urgency = Urgency::OnDemand;
                    continue;
                }
                _ = back.changed() => {
                    plan.on_demand(SystemTime::now());
                    self.replanned(&plan);
                    continue;
                }
                () = next_change(&mut self.clock) => {
                    plan.on_clock_set(SystemTime::now());
                    self.replanned(&plan);
                    continue;
                }
            }
            // What is held is not used for the time that an answer takes.
            let fetched = tokio::select! {
                biased;
                now = turned(&mut bans, &self.wanted.id, banned), if !banned => {
                    banned = now;
                    Err(self.ban())
                }
                fetched = self.source.fetch(&self.wanted, urgency) => {
                    banned = self.is_banned();
                    fetched.and_then(|svid| if banned { Err(self.ban()) } else { Ok(svid) })
                }
            };
            urgency = Urgency::Background;
            match fetched.and_then(|svid| self.in_time(svid)) {
                Ok(svid) => {
                    if plan.failures() > 0 {
                        self.back.send_replace(());
                    }
                    self.issued(&mut plan, svid);
                }
                Err(error) => self.failed(&mut plan, error),
            }
        }
    }

    fn is_banned(&self) -> bool {
        self.bans.as_ref().is_some_and(|bans| bans.borrow().contains(&self.wanted.id))
    }

    fn ban(&self) -> SourceError {
        let (source_name, id) = (self.source.kind().to_owned(), self.wanted.id.clone());
        SourceError::Banned { source_name, id }
    }

    /// Nobody who follows what is held needs to hear of this.
    fn replanned(&self, plan: &Rotation) {
        self.say.send_if_modified(|held| {
            held.next = Some(plan.due());
            false
        });
    }

    /// A source that only passes on what it was given may have nothing that counts now.
    fn in_time(&self, svid: X509Svid) -> Result<X509Svid, SourceError> {
        let svid = svid.within_its_chain();
        let now = SystemTime::now();
        let ago = |t: SystemTime| now.duration_since(t).unwrap_or_default().as_secs();
        let ahead = |t: SystemTime| t.duration_since(now).unwrap_or_default().as_secs();
        let why = match (validity(&svid).covers(now), svid.not_before > now) {
            (true, _) => return Ok(svid),
            (_, true) => {
                format!(
                    "by this machine's clock it becomes valid in {}",
                    length(ahead(svid.not_before))
                )
            }
            _ => format!("by this machine's clock it expired {} ago", length(ago(svid.not_after))),
        };
        let (source_name, id) = (self.source.kind().to_owned(), self.wanted.id.clone());
        Err(SourceError::Unusable { source_name, id, why })
    }

    fn issued(&self, plan: &mut Rotation, svid: X509Svid) {
        let now = SystemTime::now();
        plan.on_issued(now, validity(&svid), rand::random());
        let known = |held: &Arc<X509Svid>| held.chain == svid.chain;
        // Files and agents that have nothing newer yet give the same again.
        if !self.say.borrow().svid.as_ref().is_some_and(known) {
            self.metrics
                .credentials
                .renewals
                .with_label_values(&["issued", self.source.kind()])
                .inc();
            tracing::info!(
                target: "svid", identity = %self.wanted.id, serial = svid.serial,
                "SVID issued"
            );
        }
        let end = svid.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let gauge =
            self.metrics.credentials.not_after.with_label_values(&[self.wanted.id.as_str()]);
        gauge.set(end.as_secs_f64());
        let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let gauge =
            self.metrics.credentials.last_success.with_label_values(&[self.wanted.id.as_str()]);
        gauge.set(at.as_secs_f64());
        let (svid, next) = (Some(Arc::new(svid)), Some(plan.due()));
        let held = SvidState { svid, error: None, next, obtained: Some(now) };
        self.say.send_replace(held);
    }

    fn failed(&self, plan: &mut Rotation, error: SourceError) {
        let now = SystemTime::now();
        plan.on_failure(now, rand::random());
        self.metrics.credentials.renewals.with_label_values(&["failed", self.source.kind()]).inc();
        self.say.send_modify(|held| {
            if error.is_ban() || matches!(error, SourceError::Withdrawn { .. }) {
                held.svid = None;
            }
            let left = held.valid().and_then(|s| s.not_after.duration_since(now).ok());
            let last_good = match left {
                Some(left) => {
                    format!("the previous SVID is valid for another {}", length(left.as_secs()))
                }
                None => "no valid SVID is left: connections are refused".to_owned(),
            };
            let retry = plan.due().duration_since(now).unwrap_or_default();
            tracing::warn!(
                target: "svid", identity = %self.wanted.id, %error, ?retry, last_good,
                "SVID not renewed"
            );
            held.error = Some(Arc::new(error));
            held.next = Some(plan.due());
        });
    }
}

/// Waits until `id` is banned where it `was` not, or the other way round. Cancel safe.
async fn turned(
    bans: &mut Option<watch::Receiver<Arc<BTreeSet<SpiffeId>>>>,
    id: &SpiffeId,
    was: bool,
) -> bool {
    let Some(bans) = bans else { return pending().await };
    if bans.wait_for(|banned| banned.contains(id) != was).await.is_ok() {
        return !was;
    }
    pending().await
}

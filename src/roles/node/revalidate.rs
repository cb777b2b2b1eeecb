//! What the open tunnels of a node are checked against: the current bundles, CRLs and bans. Which
//! are closed is decided in [`crate::proxy::revalidate`].

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use pki_types::UnixTime;
use tokio::sync::watch;

use super::Node;
use crate::{
    hbone::{AuthenticatedTunnel, PeerExpiry, Termination, TunnelRegistry},
    identity::{BundleSet, PeerCert, TrustDomain},
    lifecycle::{Reminder, next_change, next_change_if_any},
    observe::Telemetry,
    policy::Banned,
    proxy::{
        self,
        revalidate::{ChangedTrust, PlainTls, Trusting, verdict::Verdict},
    },
};

/// Watches for as long as the node runs; one task on the control thread.
pub async fn revalidate(node: Arc<Node>) {
    let (bundles, banned) = (node.svids.watch_bundles(), node.svids.watch_banned());
    let (known, reminders) = (Arc::default(), Reminders::new());
    proxy::revalidate::revalidate(Followed { node, bundles, banned, known, reminders }).await;
}

/// A node that is followed.
struct Followed {
    node: Arc<Node>,
    bundles: watch::Receiver<Arc<BundleSet>>,
    banned: Option<watch::Receiver<Banned>>,
    /// The bundles that tunnels are checked against now.
    known: Arc<BundleSet>,
    reminders: Reminders,
}

impl Trusting for Followed {
    fn refresh(&mut self) -> ChangedTrust {
        let now = Arc::clone(&self.bundles.borrow_and_update());
        self.banned.iter_mut().for_each(|banned| drop(banned.borrow_and_update()));
        if Arc::ptr_eq(&now, &self.known) {
            return ChangedTrust::All(false);
        }
        let changed = changed(&self.known, &now);
        tell_of_crls(&self.node, &now, &changed);
        self.known = now;
        ChangedTrust::Domains(changed)
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = next_change(&mut self.bundles) => {}
            () = next_change_if_any(self.banned.as_mut()) => {}
        }
    }

    fn tunnels(&self) -> &TunnelRegistry {
        &self.node.tunnels
    }

    fn plain_tls(&self) -> Option<PlainTls<'_>> {
        None
    }

    fn expiry(&self) -> PeerExpiry {
        self.node.tunnel.peer_expiry
    }

    fn has_reminders(&self) -> bool {
        true
    }

    fn telemetry(&self) -> &Telemetry {
        &self.node.telemetry
    }

    fn log_tunnel(&self, tunnel: &AuthenticatedTunnel, why: &Termination) {
        tracing::warn!(
            target: "tunnel",
            direction = tunnel.direction.as_str(),
            identity = %tunnel.own,
            peer = %tunnel.peer.id,
            reason = why.reason.as_str(),
            why = &*why.why,
            "tunnel closed"
        );
    }

    fn log_peer(&self, _: &PeerCert, _: &Verdict) {}

    fn settle(&mut self, changed: &ChangedTrust) {
        if let ChangedTrust::Domains(_) = changed {
            self.node.svids.renew_untrusted(&self.known, |id| changed.concerns(id));
        }
        remind(&self.known, &mut self.reminders, UnixTime::now());
    }
}

/// The trust domains whose bundles are not what they were: only their chains are looked at.
fn changed(old: &BundleSet, new: &BundleSet) -> BTreeSet<TrustDomain> {
    let both = old.iter().chain(new.iter()).map(|b| &b.trust_domain);
    both.filter(|domain| old.get(domain) != new.get(domain)).cloned().collect()
}

/// A CRL that cannot be used revokes nothing: somebody must hear of it.
fn tell_of_crls(node: &Node, bundles: &BundleSet, changed: &BTreeSet<TrustDomain>) {
    let gauge = &node.telemetry.metrics.trust.crl_faults;
    for domain in changed {
        let Some(crls) = bundles.revocations(domain) else {
            let _ = gauge.remove_label_values(&[&domain.to_string()]);
            continue;
        };
        crls.faults().iter().for_each(|fault| tracing::warn!(target: "svid", "{fault}"));
        let faults = i64::try_from(crls.faults().len()).unwrap_or(i64::MAX);
        gauge.with_label_values(&[&domain.to_string()]).set(faults);
    }
}

/// How many CRLs of each trust domain are, and soon will be, past their nextUpdate.
type Reminders = HashMap<TrustDomain, Reminder<(usize, usize)>>;

/// Says so when that changes, and once a day.
fn remind(bundles: &BundleSet, reminders: &mut Reminders, now: UnixTime) {
    reminders.retain(|domain, _| bundles.revocations(domain).is_some());
    for domain in bundles.iter().map(|bundle| &bundle.trust_domain) {
        let Some(crls) = bundles.revocations(domain) else { continue };
        let counts = (crls.overdue(now), crls.soon_overdue(now));
        let (overdue, soon) = counts;
        if !reminders.entry(domain.clone()).or_default().due(&counts, Instant::now()) {
            continue;
        }
        if overdue > 0 {
            tracing::warn!(
                target: "svid", trust_domain = %domain, overdue,
                "CRLs are past their nextUpdate; they are still used"
            );
        }
        if soon > 0 {
            tracing::warn!(
                target: "svid", trust_domain = %domain, soon,
                "CRLs will soon be past their nextUpdate; provide newer ones"
            );
        }
    }
}

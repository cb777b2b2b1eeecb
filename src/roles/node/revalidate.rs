//! Open tunnels are held to what is trusted now: when bundles, CRLs or bans change, and when
//! peers' SVIDs run out, exactly those concerned are closed, with their streams, each of which
//! records why. Who is concerned is decided in [`crate::hbone::TunnelRegistry::recheck`].

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use pki_types::UnixTime;

use super::Node;
use crate::{
    hbone::{AuthenticatedTunnel, Trust, close_terminated},
    identity::{BundleSet, SpiffeId, TrustDomain},
    lifecycle::{Reminder, next_change, next_change_if_any},
};

/// How often peers' SVIDs are looked at; the clock may be set meanwhile.
const LOOK: Duration = Duration::from_millis(250);

/// Watches for as long as the node runs; one task on the control thread.
pub async fn revalidate(node: Arc<Node>) {
    let mut bundles = node.svids.watch_bundles();
    let mut banned = node.svids.watch_banned();
    let mut look = tokio::time::interval(LOOK);
    let mut known = Arc::<BundleSet>::default();
    let mut reminders = Reminders::new();
    loop {
        let now = Arc::clone(&bundles.borrow_and_update());
        if !Arc::ptr_eq(&now, &known) {
            let changed = changed(&known, &now);
            tell_of_crls(&node, &now, &changed);
            close(&node, |id| changed.contains(id.trust_domain()));
            node.svids.renew_untrusted(&now, |id| changed.contains(id.trust_domain()));
            known = now;
        } else {
            close(&node, |_| false);
        }
        remind(&known, &mut reminders, UnixTime::now());
        tokio::select! {
            () = next_change(&mut bundles) => {}
            () = next_change_if_any(banned.as_mut()) => {}
            _ = look.tick() => {}
        }
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

/// Closes the tunnels that may not stay.
fn close(node: &Node, verify: impl Fn(&SpiffeId) -> bool) {
    let Some(trust) = node.tunnels.trust() else { return };
    close_terminated(&terminate(node, &trust, verify), &node.telemetry.live);
}

fn terminate(
    node: &Node,
    trust: &Trust,
    verify: impl Fn(&SpiffeId) -> bool,
) -> Vec<Arc<AuthenticatedTunnel>> {
    let (expiry, now) = (node.tunnel.peer_expiry, SystemTime::now());
    let terminated = node.tunnels.recheck(trust, verify, expiry, now);
    for proven in &terminated {
        let Some(verdict) = proven.termination() else { continue };
        let labels = [proven.direction.reporter(), verdict.reason.as_str()];
        node.telemetry.metrics.tunnels.closed.with_label_values(&labels).inc();
        tracing::warn!(
            target: "tunnel",
            direction = proven.direction.as_str(),
            identity = %proven.own,
            peer = %proven.peer.id,
            reason = verdict.reason.as_str(),
            why = &*verdict.why,
            "tunnel closed"
        );
    }
    terminated
}

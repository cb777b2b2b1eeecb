//! Open tunnels are held to whom is believed now: when bundles, CRLs or bans change, and when
//! peers' SVIDs run out, exactly those concerned are closed, with their streams, each of which
//! records why. Who is concerned is decided in [`crate::hbone::TunnelRegistry::recheck`].

use std::{
    collections::{BTreeSet, HashMap},
    future::pending,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use pki_types::UnixTime;
use tokio::sync::watch;

use super::Node;
use crate::{
    hbone::{AuthenticatedTunnel, Trust},
    identity::{BundleSet, SpiffeId, TrustDomain},
    lifecycle::Reminder,
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
            () = next(&mut bundles) => {}
            () = next_if_any(banned.as_mut()) => {}
            _ = look.tick() => {}
        }
    }
}

/// The trust domains whose bundles are not what they were: only their chains are looked at.
fn changed(old: &BundleSet, new: &BundleSet) -> BTreeSet<TrustDomain> {
    let both = old.iter().chain(new.iter()).map(|b| &b.trust_domain);
    both.filter(|domain| old.get(domain) != new.get(domain)).cloned().collect()
}

/// Whoever announced the last change has gone: there will be no other.
async fn next<T>(watch: &mut watch::Receiver<T>) {
    if watch.changed().await.is_err() {
        pending().await
    }
}

async fn next_if_any<T>(watch: Option<&mut watch::Receiver<T>>) {
    match watch {
        Some(watch) => next(watch).await,
        None => pending().await,
    }
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
            tracing::warn!(target: "svid", trust_domain = %domain, overdue, "CRLs are past their nextUpdate; they are used all the same");
        }
        if soon > 0 {
            tracing::warn!(target: "svid", trust_domain = %domain, soon, "CRLs will soon be past their nextUpdate; see that newer ones come");
        }
    }
}

/// Closes the tunnels that may not stay; returns how many.
///
/// A stream puts its TLS facts into its record and then asks whether its tunnel is terminated;
/// here it is terminated first and looked for then: no stream is missed.
fn close(node: &Node, verify: impl Fn(&SpiffeId) -> bool) -> usize {
    let Some(trust) = node.tunnels.trust() else { return 0 };
    let condemned = condemn(node, &trust, verify);
    if condemned.is_empty() {
        return 0;
    }
    let by_facts: HashMap<_, _> =
        condemned.iter().map(|proven| (Arc::as_ptr(&proven.peer.tls), proven)).collect();
    for conn in node.telemetry.live.all() {
        let tunnel = conn.metadata(|f| by_facts.get(&Arc::as_ptr(f.tls.as_ref()?)).copied());
        let Some(verdict) = tunnel.and_then(|tunnel| tunnel.termination()) else { continue };
        conn.metadata(|f| f.error = Some(format!("closed: {}", verdict.why).into()));
        conn.cut(verdict.reason);
    }
    condemned.iter().for_each(|proven| proven.end());
    condemned.len()
}

fn condemn(
    node: &Node,
    trust: &Trust,
    verify: impl Fn(&SpiffeId) -> bool,
) -> Vec<Arc<AuthenticatedTunnel>> {
    let (expiry, now) = (node.tunnel.peer_expiry, SystemTime::now());
    let condemned = node.tunnels.recheck(trust, verify, expiry, now);
    for proven in &condemned {
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
    condemned
}

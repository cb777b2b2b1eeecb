//! Says in the log what capture rules have admitted from the address of the kubelet's probes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    lifecycle::blocking,
    pods::{capture, manager::PodManager},
};

/// How often it looks …
const EVERY: Duration = Duration::from_secs(5);
/// … at how many pods at most, in turn: each look starts a process.
const AT_ONCE: usize = 5;
/// A pod is named once in this time.
const NAMED_EVERY: Duration = Duration::from_secs(300);

struct Told {
    admitted: u64,
    at: Instant,
}

/// Looks until it is dropped.
pub(crate) async fn watch_probes(pod_manager: Arc<PodManager>) {
    let mut told: HashMap<Arc<str>, Told> = HashMap::new();
    let mut last: Option<Arc<str>> = None;
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let pods = pod_manager.probed();
        if !pods.is_empty() {
            stand_guard(&pod_manager).await;
        }
        told.retain(|uid, _| pods.iter().any(|(of, _)| of == uid));
        let after = pods.partition_point(|(uid, _)| Some(uid) <= last.as_ref());
        for (uid, netns) in pods[after..].iter().chain(&pods[..after]).take(AT_ONCE) {
            last = Some(Arc::clone(uid));
            let netns = Arc::clone(netns);
            let looked =
                blocking(move || capture::probes_admitted(&netns, &CancellationToken::new())).await;
            let Ok(Ok(admitted)) = looked else { break };
            let before = told.get(uid);
            let new = admitted.saturating_sub(before.map_or(0, |told| told.admitted));
            if new == 0 || before.is_some_and(|told| told.at.elapsed() < NAMED_EVERY) {
                continue;
            }
            tracing::info!(
                workload = %uid, connections = new,
                "plaintext from the address of the kubelet's probes was allowed"
            );
            told.insert(Arc::clone(uid), Told { admitted, at: Instant::now() });
        }
    }
}

/// Restores the node's rules: reloading its firewall removes them, while those of pods stay.
async fn stand_guard(pod_manager: &Arc<PodManager>) {
    match pod_manager.stand_guard().await {
        Ok(false) => {}
        Ok(true) => tracing::warn!(
            "the rules that protect the address of the kubelet's probes were removed; adit has \
             restored them"
        ),
        Err(error) => tracing::error!(
            error = format!("{error:#}"),
            "others may be able to use the address of the kubelet's probes: the rules against that \
             could not be checked"
        ),
    }
}

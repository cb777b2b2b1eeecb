//! How pods are stopped: one by one as they leave, or all of them as the process ends.

use std::{sync::Arc, time::Duration};

use super::{
    PodManager,
    change::{After, Carried, Leave},
};

/// How long rules may take to be removed once nobody waits for drains any longer: whoever interrupts
/// a drain wants its end, and pods without adit that reach others.
const REMOVED_WITHIN: Duration = Duration::from_secs(2);

impl PodManager {
    /// Stops all pods side by side, and waits for those that drain already.
    pub async fn stop_all(self: &Arc<Self>, grace: Duration, leave: &Leave) {
        self.leaves(leave);
        let (hurry, abandon) = (self.hurry.clone(), self.abandon.clone());
        let in_a_hurry = async move {
            hurry.cancelled().await;
            tokio::time::sleep(REMOVED_WITHIN).await;
            abandon.cancel();
        };
        tokio::select! {
            () = self.stop_each(grace, leave) => {}
            () = async { in_a_hurry.await; std::future::pending().await } => {}
        }
    }

    async fn stop_each(self: &Arc<Self>, grace: Duration, leave: &Leave) {
        let all: Vec<_> = self.with(|pods| pods.drain().collect());
        let stops = all.into_iter().map(|(uid, carried)| {
            let this = Arc::clone(self);
            let after = leave.after(&uid, carried.pod.netns.key());
            async move { this.stop(carried, grace, after).await }
        });
        futures_util::future::join_all(stops).await;
        self.draining.ended().await;
        self.release_kept().await;
        self.watch.end_all().await;
        self.redirects.end_all().await;
    }

    pub(super) async fn stop(&self, carried: Carried, grace: Duration, after: After) {
        let cut = carried.pod.stop(&self.node, grace, &self.hurry).await;
        self.node.telemetry.metrics.pods.stopped.inc();
        let left = match carried.captured {
            None => Ok(false),
            Some(options) => self.release(&carried.pod.netns, options, after).await,
        };
        if let Err(error) = &left {
            let error = format!("{error:#}");
            tracing::warn!(workload = %carried.facts, error, "capture rules not removed");
        }
        let (left, workload) = (left.unwrap_or(true), &*carried.facts);
        tracing::info!(%workload, connections_cut = cut, rules_left = left, "pod detached");
    }
}

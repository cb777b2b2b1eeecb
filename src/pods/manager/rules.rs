//! The capture rules of pods that run; those of pods that leave are kept or removed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{PodManager, change::After};
use crate::{pods::capture, sys::netns::Netns};

/// How long a pod that leaves waits for one that may be about to enter its namespace, so that there
/// is no moment without rules between the two.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(10);

/// How long a pod that leaves waits for its turn when the process ends.
const TURN_WITHIN: Duration = Duration::from_secs(10);

impl PodManager {
    /// Applies the rules again where the ports or addresses that they exempt have changed.
    pub(crate) async fn renew_rules(
        &self,
        uid: &Arc<str>,
        options: Option<capture::Options>,
    ) -> anyhow::Result<()> {
        let found =
            self.with(|pods| pods.get(uid).map(|c| (Arc::clone(&c.pod.netns), c.inherited)));
        let (Some((netns, inherited)), Some(wanted)) = (found, options) else { return Ok(()) };
        let mut turn = self.rules.take(&netns, &self.closing).await?;
        if inherited && turn.standing(&netns).await.is_ok_and(|now| now.is_exactly(wanted)) {
            self.has_applied(uid, &netns, wanted);
            self.watch.begin(&mut turn, uid, &netns, wanted).await;
            return Ok(());
        }
        // The rule about probes is not restored for a pod that is about to do without it.
        let unprobed = |captured: &mut capture::Options| {
            captured.kubelet_probes &= wanted.kubelet_probes;
        };
        let there = self.with(|pods| {
            let carried = pods.get_mut(uid).filter(|c| c.pod.netns.key() == netns.key())?;
            let before = carried.captured;
            carried.captured.as_mut().map(unprobed);
            Some(before)
        });
        let Some(before) = there else { return Ok(()) };
        let applied = turn.apply(&netns, wanted).await;
        let captured = applied.as_ref().map_or(before, |(applied, _)| Some(*applied));
        if applied.is_err() && wanted.strict && before.is_some_and(|before| !before.strict) {
            // What shuts the pod now must not be taken for a change by somebody else.
            self.watch.end(&netns);
        }
        self.with(|pods| {
            let carried = pods.get_mut(uid).filter(|c| c.pod.netns.key() == netns.key());
            carried.map(|c| c.captured = captured)
        });
        let (applied, less) = applied?;
        if self.has_applied(uid, &netns, applied) {
            self.watch.begin(&mut turn, uid, &netns, applied).await;
        }
        less.map_or(Ok(()), Err)
    }

    /// These are the rules of a pod now; whether it is there.
    fn has_applied(&self, uid: &str, netns: &Netns, options: capture::Options) -> bool {
        self.with(|pods| {
            let carried = pods.get_mut(uid).filter(|c| c.pod.netns.key() == netns.key());
            carried.map(|c| (c.captured, c.inherited) = (Some(options), false)).is_some()
        })
    }

    /// Takes away what is not to stay of the rules. A successor in the same namespace is protected
    /// by the same ones. Returns whether rules stay.
    pub(crate) async fn release(
        &self,
        netns: &Arc<Netns>,
        options: capture::Options,
        after: After,
    ) -> anyhow::Result<bool> {
        // Before this process has taken over they are the other one's.
        if after == After::Keep || !self.node.listeners.is_accepting() {
            return Ok(true);
        }
        let key = netns.key();
        self.wait_for_successor(key).await;
        let turn = loop {
            let turn = self.rules.take(netns, &self.abandon);
            match tokio::time::timeout(TURN_WITHIN, turn).await {
                Ok(turn) => break turn,
                Err(_) if self.closing.is_cancelled() => {
                    break Err(anyhow::anyhow!(
                        "`nft` hangs in the network namespaces of other pods"
                    ));
                }
                Err(_) => {} // the process goes on, and so does the wait
            }
        };
        if self.has_pod_in(key) {
            return Ok(true);
        }
        if after == After::Remove && self.stays(key).await {
            self.keep(netns);
            return Ok(true);
        }
        self.watch.end(netns);
        match after {
            After::Remove => return turn?.remove(Arc::clone(netns)).await.map(|()| false),
            After::Shut if options.kubelet_probes => {
                let unprobed = capture::Options { kubelet_probes: false, ..options };
                turn?.shut(Arc::clone(netns), unprobed).await?;
            }
            After::Shut | After::Keep => {}
        }
        Ok(true)
    }

    /// Waits while a pod is being started that may be a successor in this namespace.
    pub(super) async fn wait_for_successor(&self, key: (u64, u64)) {
        let is_starting =
            || self.changing(|all| all.values().any(|c| c.netns.is_none_or(|of| of == key)));
        let began = Instant::now();
        while is_starting() && began.elapsed() < SUCCESSOR_WITHIN {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
                () = self.hurry.cancelled() => break,
            }
        }
    }
}

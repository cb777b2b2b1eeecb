//! Non-TCP traffic of pods for which it is counted or dropped: the rules of pods that another
//! program redirects, and the counts of packets of all.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Carried, PodManager};
use crate::{
    lifecycle::blocking,
    mesh::NonTcp,
    observe::metrics::PodMetrics,
    pods::{
        capture::{self, CaptureError, Packets},
        source::{PodFacts, PodNetns},
        turns::Turn,
    },
    sys::netns::Netns,
};

/// How often it looks what was counted …
const EVERY: Duration = Duration::from_secs(5);
/// … at this many pods at least, in turn: each look starts a process …
const AT_ONCE: usize = 5;
/// … and at all of them in so many rounds.
const ROUNDS: usize = 12;

/// A pod whose non-TCP traffic is counted or dropped.
#[derive(Clone, Debug)]
pub struct JudgedPod {
    /// What it is called.
    pub pod: Arc<str>,
    /// What happens to non-TCP traffic: count or drop.
    pub verdict: NonTcp,
    /// How many packets there were, of those that would be dropped or are.
    pub packets: Packets,
    netns: Arc<Netns>,
    /// As its table said last.
    last: Packets,
}

/// The counts of non-TCP packets, by the uids of pods.
#[derive(Debug, Default)]
pub struct NonTcpCounts(Mutex<BTreeMap<Arc<str>, JudgedPod>>);

impl NonTcpCounts {
    /// Each pod, in the order of their uids.
    pub fn all(&self) -> Vec<JudgedPod> {
        self.with(|all| all.values().cloned().collect())
    }

    /// These are the pods from here on. One that is in another namespace has counted nothing yet.
    fn retain(&self, pods: &BTreeMap<Arc<str>, JudgedPod>) {
        self.with(|all| {
            all.retain(|uid, known| pods.get(uid).is_some_and(|pod| pod.netns == known.netns));
            for (uid, pod) in pods {
                all.entry(Arc::clone(uid)).or_insert_with(|| pod.clone()).verdict = pod.verdict;
            }
        });
    }

    /// Takes what the table of a pod says now.
    fn take(&self, uid: &str, now: Packets, metrics: &PodMetrics) {
        self.with(|all| {
            let Some(pod) = all.get_mut(uid) else { return };
            let new = now.since(&pod.last);
            (pod.last, pod.packets) = (now, pod.packets.and(&new));
            let verdict = if pod.verdict == NonTcp::Drop { "dropped" } else { "passed" };
            for (direction, kind, packets) in new.each().filter(|(.., packets)| *packets > 0) {
                let labels = [direction, kind, verdict];
                metrics.non_tcp_packets.with_label_values(&labels).inc_by(packets);
            }
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<Arc<str>, JudgedPod>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Carried {
    /// The pod with its setting for non-TCP traffic; `None` if that passes uncounted.
    fn judged(&self) -> Option<JudgedPod> {
        let verdict = match self.facts.netns {
            PodNetns::Open(_) => self.facts.non_tcp,
            PodNetns::Own | PodNetns::Named(_) => self.captured?.non_tcp,
        };
        (verdict != NonTcp::Pass).then(|| JudgedPod {
            pod: self.facts.to_string().into(),
            verdict,
            packets: Packets::default(),
            netns: Arc::clone(&self.pod.netns),
            last: Packets::default(),
        })
    }
}

impl PodManager {
    /// The counts of non-TCP packets.
    pub fn non_tcp(&self) -> Arc<NonTcpCounts> {
        Arc::clone(&self.non_tcp)
    }

    /// Sets what happens to non-TCP traffic of a pod that another program redirects, before it is
    /// attached. If it cannot be counted, that is logged later, once the pod is watched.
    ///
    /// # Errors
    /// If it cannot be dropped although the setting is `drop`.
    pub(crate) async fn judge(
        &self,
        turn: &mut Turn<'_>,
        netns: &Arc<Netns>,
        facts: &PodFacts,
    ) -> anyhow::Result<()> {
        let is_others = matches!(facts.netns, PodNetns::Open(_));
        if !is_others || facts.non_tcp == NonTcp::Pass {
            return Ok(());
        }
        match turn.judge_non_tcp(netns, facts.non_tcp).await {
            Err(error) if facts.non_tcp == NonTcp::Drop => {
                Err(error
                    .context("traffic other than TCP cannot be dropped, which nonTcp requires"))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Reads the counts of non-TCP packets in turn, until the future is dropped.
    pub async fn count_non_tcp(self: Arc<Self>) {
        let mut last: Option<Arc<str>> = None;
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let of = |c: &Carried| Some((Arc::clone(&c.facts.uid), c.judged()?));
            let pods: BTreeMap<_, _> = self.with(|pods| pods.values().filter_map(of).collect());
            self.non_tcp.retain(&pods);
            let after: Vec<_> = pods.iter().filter(|(uid, _)| Some(*uid) > last.as_ref()).collect();
            let before = pods.iter().take(pods.len() - after.len());
            let at_once = pods.len().div_ceil(ROUNDS).max(AT_ONCE);
            for (uid, pod) in after.into_iter().chain(before).take(at_once) {
                last = Some(Arc::clone(uid));
                let netns = Arc::clone(&pod.netns);
                let look = move || capture::non_tcp_packets(&netns, &CancellationToken::new());
                match blocking(look).await {
                    Ok(Ok(now)) => {
                        self.non_tcp.take(uid, now, &self.node.telemetry.metrics.pods);
                    }
                    // Where a tool hangs it may do so in the next pod.
                    Err(_) | Ok(Err(CaptureError::Hung { .. })) => break,
                    Ok(Err(_)) => {}
                }
            }
        }
    }
}

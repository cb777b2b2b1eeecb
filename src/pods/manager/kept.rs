//! Rules of a pod that has left, which stay for another pod of its namespace: a successor that could
//! not be started yet, or one of the process that takes over, must not find its namespace open.

use std::{
    io,
    sync::{Arc, MutexGuard, PoisonError},
};

use super::{
    PodManager,
    change::{KeptRules, Leave},
};
use crate::{lifecycle::blocking, pods::source::PodFacts, sys::netns::Netns};

impl PodManager {
    fn kept(&self) -> MutexGuard<'_, KeptRules> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These pods are to run and to be captured from here on. Rules that were kept for others are
    /// removed beside this.
    pub(super) fn expects(self: &Arc<Self>, wanted: &[Arc<PodFacts>]) {
        let mut kept = self.kept();
        kept.wanted = wanted.to_vec();
        if !kept.namespaces.is_empty() {
            let this = Arc::clone(self);
            self.draining.spawn(async move { this.release_kept().await });
        }
    }

    /// The process is to end, and leaves these rules: also to what is done about pods that drain
    /// already.
    pub fn leaves(&self, leave: &Leave) {
        self.kept().leave = Some(leave.clone());
    }

    /// Whether the rules of this namespace stay though the pod that had them leaves.
    pub(super) async fn stays(&self, key: (u64, u64)) -> bool {
        let (wanted, leave) = {
            let kept = self.kept();
            (kept.wanted.clone(), kept.leave.clone())
        };
        let stays = move || {
            let of_another = |pod: &PodFacts| match pod.netns.key() {
                Ok(found) => found == key,
                // What cannot be told is taken for a successor: rules refuse, and no more than that.
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            };
            let named = |name: &str, names: &[String]| names.iter().any(|n| n == name);
            match leave {
                None | Some(Leave::All) => wanted.iter().any(|pod| of_another(pod)),
                Some(Leave::None) => false,
                Some(Leave::Of(names)) => {
                    named(&Leave::name_of(key), &names)
                        || wanted.iter().any(|pod| named(&pod.uid, &names) && of_another(pod))
                }
            }
        };
        blocking(stays).await.unwrap_or(true)
    }

    /// The rules of this namespace stay for another pod, and are watched as before.
    pub(super) fn keep(&self, netns: &Arc<Netns>) {
        self.kept().namespaces.insert(netns.key(), Arc::clone(netns));
    }

    /// Removes the rules that were kept for pods that are not to run any more. Those of a pod that
    /// runs by now are that pod's.
    pub(super) async fn release_kept(&self) {
        let all: Vec<_> = self.kept().namespaces.drain().collect();
        for (key, netns) in all {
            self.wait_for_successor(key).await;
            if self.has_pod_in(key) {
                continue;
            }
            if self.stays(key).await {
                self.keep(&netns);
                continue;
            }
            let turn = self.rules.take(&netns, &self.abandon).await;
            if self.has_pod_in(key) {
                continue;
            }
            self.watch.end(&netns);
            let removed = match turn {
                Ok(mut turn) => turn.remove(Arc::clone(&netns)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                let error = format!("{error:#}");
                tracing::warn!(error, "capture rules of a pod that has left were not removed");
                self.keep(&netns);
            }
        }
    }

    /// Whether a pod runs in this namespace.
    pub(super) fn has_pod_in(&self, key: (u64, u64)) -> bool {
        self.with(|pods| pods.values().any(|c| c.pod.netns.key() == key))
    }
}

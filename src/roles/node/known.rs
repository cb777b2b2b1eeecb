//! The workload of a pod, for a connection of that pod: it waits for it where it may come, for a
//! moment and so many at once, and is refused then.

use std::{sync::Arc, time::Duration};

use super::{Node, Pod, Recognition, pod::MOST_WAITING};
use crate::{
    mesh::{View, Workload},
    net::{CloseReason, Outcome, PodName},
};

/// How long a connection waits for the workload of its pod.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked whether a policy has come.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why it is not known who a pod is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Unknown {
    /// That may come.
    Yet,
    /// It had a workload once, or has no business any more.
    Gone,
    /// It is not the workload that has its name.
    Refuted(Arc<str>),
}

impl Unknown {
    pub(super) fn outcome(&self, pod: &PodName) -> Outcome {
        let (reason, why) = match self {
            Self::Yet => (
                CloseReason::NoIdentity,
                format!(
                    "the control plane did not say within {} s which workload pod {pod} is",
                    KNOWN_WITHIN.as_secs()
                ),
            ),
            Self::Gone => (CloseReason::Internal, "the workload has left the mesh".to_owned()),
            Self::Refuted(why) => (CloseReason::NoIdentity, why.to_string()),
        };
        (reason, Some(why))
    }
}

impl Pod {
    /// The workload that the pod is, as of this view.
    ///
    /// # Errors
    /// It is not known.
    pub(super) fn workload<'v>(&self, mesh: &'v View) -> Result<&'v Arc<Workload>, Unknown> {
        let recognition = self.recognition.borrow();
        let found = match &*recognition {
            Recognition::Left => return Err(Unknown::Gone),
            Recognition::Refuted(why) => return Err(Unknown::Refuted(Arc::clone(why))),
            _ => mesh.of_pod(&self.name),
        };
        match (&*recognition, found) {
            (Recognition::Given, Some(workload)) => Ok(workload),
            (Recognition::Given, None) => Err(Unknown::Gone),
            (recognition, Some(workload)) if recognition.is_of(workload) => Ok(workload),
            _ => Err(Unknown::Yet),
        }
    }

    /// The pod's workload; waits for it where it may still arrive.
    ///
    /// # Errors
    /// It is not known in time, or too many wait for it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn known(&self, node: &Node) -> Result<Arc<Workload>, Outcome> {
        let look = || self.workload(&node.mesh.load()).cloned();
        let told = |unknown: Unknown| unknown.outcome(&self.name);
        match look() {
            Err(Unknown::Yet | Unknown::Refuted(_)) => {}
            found => return found.map_err(told),
        }
        let Ok(_place) = self.waiting.try_acquire() else {
            let why = format!(
                "{MOST_WAITING} connections are already waiting for the control plane to say which \
                 workload pod {} is",
                self.name
            );
            return Err((CloseReason::Overloaded, Some(why)));
        };
        let mut changes = self.recognition.subscribe();
        let found = async {
            loop {
                changes.borrow_and_update();
                match look() {
                    // Its caller's node may have heard of its new address a moment before this one.
                    Err(Unknown::Yet | Unknown::Refuted(_)) => {}
                    found => return found,
                }
                if changes.changed().await.is_err() {
                    return Err(Unknown::Gone);
                }
            }
        };
        let found = tokio::time::timeout(KNOWN_WITHIN, found).await;
        found.unwrap_or_else(|_| look()).map_err(told)
    }

    /// Waits for a moment for a policy that the pod's workload names and that is not known yet: a
    /// control plane tells of both, in any order. Whether it has come or not, whoever asks the
    /// policies then is refused where one is missing.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn policies_known(&self, node: &Node) {
        let is_missing = || {
            let mesh = node.mesh.load();
            let workload = mesh.of_pod(&self.name);
            workload.is_some_and(|workload| mesh.rules(&workload.uid).lacks_policy())
        };
        if !is_missing() {
            return;
        }
        let Ok(_place) = self.waiting_for_policy.try_acquire() else { return };
        let come = async {
            while is_missing() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let _ = tokio::time::timeout(KNOWN_WITHIN, Box::pin(come)).await;
    }
}

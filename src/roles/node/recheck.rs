//! Live connections are checked against the current policies, not those from when they opened.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{Node, inbound::decided};
use crate::{
    mesh::{RulesChanged, View, Workload},
    policy::admission::Asked,
    proxy,
};

/// Asks the current policies about the open inbound connections of the workloads whose rules
/// `changed`, and closes those that are no longer allowed; returns how many. A connection registers
/// its flow before it asks by itself, so one that opens meanwhile is judged by one of the two. Where
/// no pod here is such a workload, no connection is looked at.
///
/// Of a workload that names a policy which is not known yet only those are closed that another
/// denies: see [`Lacking`].
pub fn recheck(node: &Node, changed: &RulesChanged) -> usize {
    if changed.is_empty() || concerned(node, changed).is_empty() {
        return 0;
    }
    judge(node, |mesh, workload| match (changed.of(workload), lacks(mesh, workload)) {
        (false, _) => None,
        (true, true) => Some(Asks::WhoIsDenied),
        (true, false) => Some(Asks::All),
    })
}

/// The workloads of pods here whose rules changed.
fn concerned(node: &Node, changed: &RulesChanged) -> Vec<Arc<Workload>> {
    let (mesh, names) = (node.mesh.load(), node.pods.names());
    let workloads = names.iter().filter_map(|pod| mesh.of_pod(pod));
    workloads.filter(|workload| changed.of(workload)).cloned().collect()
}

/// Local workloads that name a policy which has not arrived yet. Each waits for the same time, also
/// if other resources arrive meanwhile; if the policy is still missing then, all calls to the
/// workload are denied.
#[derive(Default)]
pub struct Lacking {
    /// By UID.
    until: HashMap<Arc<str>, Instant>,
}

impl Lacking {
    /// Looks which do, of those whose rules `changed`: those that begin to have until then.
    pub fn look(&mut self, node: &Node, changed: &RulesChanged, until: Instant) {
        let mesh = node.mesh.load_full();
        for workload in concerned(node, changed) {
            if lacks(&mesh, &workload) {
                self.until.entry(Arc::clone(&workload.uid)).or_insert(until);
            } else {
                self.until.remove(&workload.uid);
            }
        }
    }

    /// When the first has waited for long enough.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.until.values().min().copied()
    }

    /// Closes the connections of those that have; returns how many.
    pub fn recheck(&mut self, node: &Node) -> usize {
        let now = Instant::now();
        let due = |until: &Instant| *until <= now;
        let closed = judge(node, |mesh, workload| {
            let is_late = self.until.get(&workload.uid).is_some_and(due) && lacks(mesh, workload);
            is_late.then_some(Asks::All)
        });
        self.until.retain(|_, until| !due(until));
        closed
    }
}

fn lacks(mesh: &View, workload: &Workload) -> bool {
    mesh.rules(&workload.uid).lacks_policy()
}

/// What is asked about the connections of a workload.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Asks {
    /// Whether each may stay.
    All,
    /// Whether a rule says that it may not.
    WhoIsDenied,
}

fn judge(node: &Node, of: impl Fn(&View, &Workload) -> Option<Asks>) -> usize {
    let mesh = node.mesh.load_full();
    proxy::revalidate::recheck(&node.telemetry.live.all(), |conn| {
        let (pod, flow) = (conn.metadata(|f| f.pod.clone())?, conn.flow()?);
        // One that left the mesh: its pod is stopped, with the grace of a drain.
        let workload = mesh.of_pod(&pod)?;
        let asks = of(&mesh, workload)?;
        let flow = flow.with_aliases(&node.config.aliases, workload.id().trust_domain());
        let decision = decided(&mesh, Some(workload), &flow, Asked::WhileOpen);
        (asks == Asks::All || decision.rule.is_some()).then_some(decision)
    })
}

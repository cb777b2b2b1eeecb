//! Live connections are held to the policies of now, not to those of when they opened.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::{Node, inbound::decided};
use crate::{
    mesh::{RulesChanged, View, Workload},
    observe::conn::LiveConn,
    policy::admission::Asked,
    proxy,
};

/// Asks the current policies about the open inbound connections of the workloads whose rules
/// `changed`, and closes those that are no longer allowed; returns how many. A connection registers
/// its flow before it asks by itself, so one that opens meanwhile is judged by one of the two.
///
/// A workload that names a policy which is not known yet is left alone: see [`Lacking`].
pub fn recheck(node: &Node, changed: &RulesChanged) -> usize {
    match changed.is_empty() {
        true => 0,
        false => judge(node, |mesh, workload| changed.of(workload) && !lacks(mesh, workload)),
    }
}

/// Workloads with open connections that lack a policy which they name: each has the same time for
/// it, whatever else is told meanwhile. Nobody may call those that lack it then.
#[derive(Default)]
pub struct Lacking {
    /// By UID.
    until: HashMap<Arc<str>, Instant>,
}

impl Lacking {
    /// Looks which do, once rules have changed: those that begin to have until then.
    pub fn look(&mut self, node: &Node, until: Instant) {
        let mesh = node.mesh.load_full();
        let lacking = |conn: &Arc<LiveConn>| {
            let pod = conn.metadata(|f| f.pod.clone())?;
            let workload = mesh.of_pod(&pod)?;
            lacks(&mesh, workload).then(|| Arc::clone(&workload.uid))
        };
        let found: HashSet<Arc<str>> =
            node.telemetry.live.all().iter().filter_map(lacking).collect();
        self.until.retain(|uid, _| found.contains(uid));
        for uid in found {
            self.until.entry(uid).or_insert(until);
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
            self.until.get(&workload.uid).is_some_and(due) && lacks(mesh, workload)
        });
        self.until.retain(|_, until| !due(until));
        closed
    }
}

fn lacks(mesh: &View, workload: &Workload) -> bool {
    mesh.rules(&workload.uid).lacks_policy()
}

fn judge(node: &Node, of: impl Fn(&View, &Workload) -> bool) -> usize {
    let mesh = node.mesh.load_full();
    proxy::revalidate::recheck(&node.telemetry.live.all(), |conn| {
        let (pod, flow) = (conn.metadata(|f| f.pod.clone())?, conn.flow()?);
        // One that left the mesh: its pod is stopped, with the grace of a drain.
        let workload = mesh.of_pod(&pod)?;
        of(&mesh, workload).then(|| decided(&mesh, Some(workload), &flow, Asked::WhileOpen))
    })
}

//! Live connections are held to the policies of now, not to those of when they opened.

use super::{Node, inbound::decided};
use crate::{
    mesh::{RulesChanged, View, Workload},
    policy::admission::Asked,
    proxy,
};

/// Asks the current policies about the open inbound connections of the workloads whose rules
/// `changed`, and closes those that are no longer allowed; returns how many. A connection registers
/// its flow before it asks by itself, so one that opens meanwhile is judged by one of the two.
///
/// A workload that names a policy which is not known yet is left alone: whoever says that it lacks
/// for good has [`recheck_lacking`] judge.
pub fn recheck(node: &Node, changed: &RulesChanged) -> usize {
    match changed.is_empty() {
        true => 0,
        false => judge(node, |mesh, workload| changed.of(workload) && !lacks(mesh, workload)),
    }
}

/// The same about the workloads that lack a policy: nobody may call them.
pub fn recheck_lacking(node: &Node) -> usize {
    judge(node, lacks)
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

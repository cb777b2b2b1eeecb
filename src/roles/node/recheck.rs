//! Live connections are held to the policies of now, not to those of when they opened.

use super::{Node, inbound::decided};
use crate::{mesh::RulesChanged, policy::admission::Asked, proxy};

/// Asks the current policies about the open inbound connections of the workloads whose rules
/// `changed`, and closes those that are no longer allowed; returns how many. A connection registers
/// its flow before it asks by itself, so one that opens meanwhile is judged by one of the two.
pub fn recheck(node: &Node, changed: &RulesChanged) -> usize {
    if changed.is_empty() {
        return 0;
    }
    let mesh = node.mesh.load_full();
    proxy::revalidate::recheck(&node.telemetry.live.all(), |conn| {
        let (pod, flow) = (conn.metadata(|f| f.pod.clone())?, conn.flow()?);
        // One that left the mesh: its pod is stopped, with the grace of a drain.
        let workload = mesh.of_pod(&pod)?;
        changed.of(workload).then(|| decided(&mesh, Some(workload), &flow, Asked::WhileOpen))
    })
}

//! Live connections are held to the policies of now, not to those of when they opened.

use super::{Node, inbound::decided};
use crate::{mesh::RulesChanged, net::Direction, policy::admission::Asked};

/// Asks the current policies about the open inbound connections of the workloads whose rules
/// `changed`, and closes those that are no longer allowed; returns how many. A connection registers
/// its flow before it asks by itself, so one that opens meanwhile is judged by one of the two.
pub fn recheck(node: &Node, changed: &RulesChanged) -> usize {
    if changed.is_empty() {
        return 0;
    }
    let mesh = node.mesh.load_full();
    let mut closed = 0;
    for conn in node.telemetry.live.all() {
        if conn.direction != Direction::Inbound {
            continue;
        }
        let uid = conn.metadata(|f| f.local_uid.clone());
        let (Some(uid), Some(flow)) = (uid, conn.flow()) else { continue };
        // One that left the mesh: its pod is stopped, with the grace of a drain.
        let Some(workload) = mesh.workload(&uid) else { continue };
        if !changed.of(workload) {
            continue;
        }
        let decision = decided(&mesh, &uid, &flow, Asked::WhileOpen);
        let Some((reason, _)) = &decision.refused else { continue };
        conn.metadata(|f| decision.record(f, Asked::WhileOpen));
        conn.cut(*reason);
        closed += 1;
    }
    closed
}

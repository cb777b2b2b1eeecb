//! Live connections are held to the policies of now, not to those of when they opened.

use super::Node;
use crate::{
    mesh::{MtlsMode, RulesChanged},
    observe::conn::{CloseReason, Direction},
    policy,
};

/// Asks the current policies about the open inbound connections of the workloads whose rules
/// `changed`, and closes those that are no longer allowed; returns how many. Connections register their flow before they ask
/// themselves, so one that opens while this runs is judged by one of the two.
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
        let plaintext_refused = flow.peer_id.is_none() && mesh.mtls() == MtlsMode::Strict;
        let rules = mesh.rules(&uid);
        let verdict = policy::authorize(&rules, &flow);
        if verdict.allowed() && !plaintext_refused {
            continue;
        }
        conn.metadata(|f| {
            f.policy = verdict.policy().map(ToOwned::to_owned);
            let why = match plaintext_refused {
                true => "mtls is strict now".to_owned(),
                false => verdict.to_string(),
            };
            f.error = Some(format!("closed due to policy change: {why}").into());
        });
        conn.cut(CloseReason::PolicyChanged);
        closed += 1;
    }
    closed
}

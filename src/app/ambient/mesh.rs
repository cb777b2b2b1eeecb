//! The mesh as the control plane tells it: each push becomes part of the store, then of what
//! connections are judged by, and only then it is acknowledged.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::own::OwnPod;
use crate::{
    mesh::{
        Store,
        source::xds::{Push, TypeUrl, apply_addresses, apply_authorizations},
    },
    pods::manager::PodManager,
    roles::node::{Lacking, Node, recheck},
};

/// How long a policy that a workload names may come after the workload, before its open connections
/// are judged without.
const POLICY_WITHIN: Duration = Duration::from_secs(5);

/// Applies what comes, until nothing comes any more. Has turns of the control thread only.
pub(super) async fn follow(
    mut store: Store,
    mut pushes: mpsc::Receiver<Push>,
    node: Arc<Node>,
    (pods, own): (Arc<PodManager>, Option<Arc<OwnPod>>),
) {
    let mut lacking = Lacking::default();
    loop {
        let due = lacking.due();
        tokio::select! {
            push = pushes.recv() => {
                let Some(push) = push else { return };
                apply(&mut store, push, &node, (&pods, &mut lacking)).await;
                own.iter().for_each(|own| own.mesh_changed());
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                tell(lacking.recheck(&node));
            }
        }
    }
}

async fn apply(
    store: &mut Store,
    Push { delta, applied }: Push,
    node: &Node,
    (pods, lacking): (&PodManager, &mut Lacking),
) {
    let faults = match delta.type_url {
        TypeUrl::Address => apply_addresses(store, delta).await,
        TypeUrl::Authorization => apply_authorizations(store, delta).await,
    };
    let changes = store.take_changes();
    node.mesh.store(Arc::new(store.view()));
    let rules = changes.rules();
    tell(recheck(node, &rules));
    if !rules.is_empty() {
        lacking.look(node, &rules, Instant::now() + POLICY_WITHIN);
    }
    pods.mesh_changed();
    // The stream may be over: what was applied stays.
    let _ = applied.send(faults);
}

fn tell(closed: usize) {
    if closed > 0 {
        tracing::info!(
            target: "xds", connections_closed = closed,
            "connections closed: no longer allowed by the policies"
        );
    }
}

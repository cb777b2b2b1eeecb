//! The mesh as the control plane tells it: each push becomes part of the store, then of what
//! connections are judged by, and only then it is acknowledged.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{
    mesh::{
        Store,
        source::xds::{Push, TypeUrl, apply_addresses, apply_authorizations},
    },
    pods::manager::PodManager,
    roles::node::{Node, recheck},
};

/// Applies what comes, until nothing comes any more. Has turns of the control thread only.
pub(super) async fn follow(
    mut store: Store,
    mut pushes: mpsc::Receiver<Push>,
    node: Arc<Node>,
    pods: Arc<PodManager>,
) {
    while let Some(Push { delta, applied }) = pushes.recv().await {
        let faults = match delta.type_url {
            TypeUrl::Address => apply_addresses(&mut store, delta).await,
            TypeUrl::Authorization => apply_authorizations(&mut store, delta).await,
        };
        let changes = store.take_changes();
        node.mesh.store(Arc::new(store.view()));
        let closed = recheck(&node, &changes.rules());
        if closed > 0 {
            tracing::info!(target: "xds", connections_closed = closed, "policies have changed");
        }
        pods.mesh_changed();
        // The stream may be over: what was applied stays.
        let _ = applied.send(faults);
    }
}

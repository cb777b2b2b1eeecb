//! Whether this process may do what its pods need, asked before it makes anything.

use std::{io, sync::Arc};

use crate::{
    mesh::Workload,
    sys::{
        netns::Netns,
        process::{Right, has_right},
    },
};

/// What to do about it.
const CURE: &str = "run adit as root, or with `AmbientCapabilities=CAP_NET_ADMIN CAP_SYS_ADMIN` of \
                    systemd, or `securityContext.capabilities.add` of Kubernetes";

/// Whether the namespaces of these pods may be entered. One that is not there may come.
///
/// # Errors
/// Names the capability that is missing.
pub(super) fn may_enter(pods: &[Arc<Workload>]) -> anyhow::Result<()> {
    let mut named = pods.iter().filter_map(|pod| Some((pod, pod.netns()?))).peekable();
    if named.peek().is_none() {
        return Ok(());
    }
    for (right, what, name) in [
        (Right::SysAdmin, "entering the network namespaces of pods", "CAP_SYS_ADMIN"),
        (Right::NetAdmin, "sockets and capture rules inside them", "CAP_NET_ADMIN"),
    ] {
        anyhow::ensure!(has_right(right), "{name} is missing, which {what} needs; {CURE}");
    }
    for (pod, netns) in named {
        let entered = Netns::open(&netns.path()).and_then(|netns| netns.run(|| ()));
        match entered {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                anyhow::bail!("pod {}: {error}; {CURE}", pod.uid);
            }
            _ => {}
        }
    }
    Ok(())
}

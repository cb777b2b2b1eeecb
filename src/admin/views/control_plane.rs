//! How the mesh is followed, and how old what is in force may be.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::mesh::source::xds::{TypeStatus, XdsStatus};

/// Of an ambient node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ControlPlaneView {
    /// For how long the present stream has been open; nothing while there is none.
    connected_for_seconds: Option<u64>,
    /// Why there is none.
    error: Option<String>,
    /// Workloads and services.
    addresses: TypeView,
    /// Policies.
    authorizations: TypeView,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TypeView {
    /// When something of it was last put in force, in seconds ago.
    applied_seconds_ago: Option<u64>,
    /// What the control plane called its version.
    version: String,
    /// How many are in force.
    resources: usize,
    /// Those whose newest version is not, and why.
    rejected: BTreeMap<Arc<str>, String>,
}

impl ControlPlaneView {
    pub(super) fn of(status: &XdsStatus, now: Instant) -> Self {
        let since = |at: Option<Instant>| {
            at.map(|at| now.saturating_duration_since(at)).as_ref().map(Duration::as_secs)
        };
        let of = |status: &TypeStatus| TypeView {
            applied_seconds_ago: since(status.applied),
            version: status.version.clone(),
            resources: status.resources,
            rejected: status.rejected.clone(),
        };
        Self {
            connected_for_seconds: since(status.connected),
            error: status.error.clone(),
            addresses: of(&status.address),
            authorizations: of(&status.authorization),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_that_is_away_says_why_and_how_old_the_mesh_is() {
        let applied = Instant::now();
        let mut status = XdsStatus { error: Some("unavailable".to_owned()), ..Default::default() };
        status.address.applied = Some(applied);
        status.address.rejected.insert("ns/a".into(), "has no shape".to_owned());
        let view = ControlPlaneView::of(&status, applied + Duration::from_secs(3600));
        let shown = serde_json::to_value(&view).unwrap();
        assert_eq!(shown["connectedForSeconds"], serde_json::Value::Null);
        assert_eq!(shown["error"], "unavailable");
        assert_eq!(shown["addresses"]["appliedSecondsAgo"], 3600);
        assert_eq!(shown["addresses"]["rejected"]["ns/a"], "has no shape");
        assert_eq!(shown["authorizations"]["appliedSecondsAgo"], serde_json::Value::Null);
    }
}

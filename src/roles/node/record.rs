//! From workloads to what a record says of them.

use crate::{mesh::Workload, net::Outcome, observe::conn::PeerInfo, relay};

/// What is known of a workload from the mesh; the identity is filled in when proven.
pub(super) fn peer_info(workload: &Workload) -> PeerInfo {
    PeerInfo { names: Some(workload.names()), id: None }
}

/// The `baggage` header that describes a workload (istio-ambient facts §3.6).
pub(super) fn baggage(workload: &Workload) -> String {
    let mut out =
        format!("k8s.namespace.name={},k8s.pod.name={}", workload.namespace(), workload.name());
    let app = &workload.template.app;
    for (key, value) in
        [("service.name", &app.canonical_name), ("service.version", &app.canonical_revision)]
    {
        if !value.is_empty() {
            out.push_str(&format!(",{key}={value}"));
        }
    }
    out
}

/// The outcome of a relay.
pub(super) fn ended(end: relay::End) -> Outcome {
    end.outcome("application", "peer")
}

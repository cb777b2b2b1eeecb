//! The labels of connections, as Istio has them.

use std::sync::Arc;

use crate::{
    net::Direction,
    observe::conn::{ConnMetadata, Names, PeerInfo},
};

/// Their names, in the order of their values.
pub(super) const TRAFFIC: [&str; 24] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "close_reason",
];
/// `close_reason` is ours, and only on the closed and failed counters.
pub(super) const OPEN: usize = TRAFFIC.len() - 1;

pub(super) const OVERFLOW: &str = "overflow";
pub(super) const UNKNOWN: &str = "unknown";

pub(super) type Labels = Vec<Arc<str>>;

/// The labels of whatever there is no room for.
pub(super) fn overflow(direction: Direction) -> Labels {
    let mut labels: Labels = vec![OVERFLOW.into(); TRAFFIC.len()];
    labels[0] = direction.reporter().into();
    labels
}

/// The labels of a connection of which this is known; `close_reason` is left open.
pub(super) fn traffic(direction: Direction, facts: &ConnMetadata) -> Labels {
    let unknown: Arc<str> = UNKNOWN.into();
    let or_unknown = |value: &Option<Arc<str>>| value.clone().unwrap_or_else(|| unknown.clone());
    let mut labels: Labels = Vec::with_capacity(TRAFFIC.len());
    labels.push(direction.reporter().into());
    let peer_info = |labels: &mut Labels, p: &PeerInfo| {
        let principal = p.id.as_ref().map_or_else(|| unknown.clone(), |id| id.as_str().into());
        let named = |name: fn(&Names) -> &Arc<str>| {
            p.names.as_deref().map_or_else(|| unknown.clone(), |names| name(names).clone())
        };
        let version = p.names.as_ref().and_then(|names| names.version.clone());
        labels.extend([
            named(|n| &n.workload),
            named(|n| &n.app),
            or_unknown(&version),
            named(|n| &n.namespace),
            principal,
            named(|n| &n.app),
            or_unknown(&version),
            unknown.clone(),
        ]);
    };
    peer_info(&mut labels, &facts.src);
    let service_name = facts.service.as_deref().and_then(|s| s.split('.').next()).map(Into::into);
    labels.extend([
        or_unknown(&facts.service),
        or_unknown(&facts.service_namespace),
        or_unknown(&service_name),
    ]);
    peer_info(&mut labels, &facts.dst);
    let security = match &facts.tls {
        Some(tls) if tls.mutual => "mutual_tls",
        Some(_) => "tls",
        None => "unknown",
    };
    labels.extend(["tcp".into(), "-".into(), security.into(), "-".into()]);
    labels
}

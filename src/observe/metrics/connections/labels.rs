//! The labels of connections, as Istio has them.

use std::sync::Arc;

use crate::{
    net::Direction,
    observe::conn::{ConnMetadata, Names, PeerInfo},
};

/// Their names, in the order of their values.
pub(super) const TRAFFIC: [&str; 28] = [
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
    "source_region",
    "source_zone",
    "destination_region",
    "destination_zone",
    "close_reason",
];
/// Where `response_flags` stands.
pub(super) const FLAGS: usize = 21;
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
            or_unknown(&p.names.as_ref().and_then(|names| names.cluster.clone())),
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
    labels.extend(["tcp".into(), "-".into(), security.into()]);
    labels.extend(localities(&facts.src, &facts.dst, &unknown));
    labels.push("-".into());
    labels
}

/// Region and zone of both; where nobody is known, no label at all, which an empty value is.
fn localities(src: &PeerInfo, dst: &PeerInfo, unknown: &Arc<str>) -> [Arc<str>; 4] {
    let (src, dst) = (src.names.as_deref(), dst.names.as_deref());
    if src.or(dst).is_none() {
        return [(); 4].map(|()| Arc::default());
    }
    let region = |names: Option<&Names>| names?.region.clone();
    let zone = |names: Option<&Names>| names?.zone.clone();
    [region(src), zone(src), region(dst), zone(dst)]
        .map(|place| place.unwrap_or_else(|| Arc::clone(unknown)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(facts: &ConnMetadata) -> String {
        let values = traffic(Direction::Outbound, facts);
        assert_eq!(values.len(), TRAFFIC.len());
        let pair = |(name, value): (&&str, &Arc<str>)| format!("{name}={value}");
        TRAFFIC.iter().zip(&values).map(pair).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn labels_have_the_names_and_the_order_of_istio() {
        let names = Names {
            workload: "web-deploy".into(),
            version: Some("v2".into()),
            cluster: Some("one".into()),
            region: Some("r1".into()),
            ..Names::of("web-7f".into(), "shop".into())
        };
        let id = "spiffe://cluster.local/ns/shop/sa/web".parse().ok();
        let src = PeerInfo { names: Some(Arc::new(names)), id };
        let facts = ConnMetadata {
            src,
            service: Some("db.data.svc.cluster.local".into()),
            service_namespace: Some("data".into()),
            ..ConnMetadata::default()
        };
        let expected = "reporter=source \
            source_workload=web-deploy source_canonical_service=web-7f \
            source_canonical_revision=v2 source_workload_namespace=shop \
            source_principal=spiffe://cluster.local/ns/shop/sa/web \
            source_app=web-7f source_version=v2 source_cluster=one \
            destination_service=db.data.svc.cluster.local \
            destination_service_namespace=data destination_service_name=db \
            destination_workload=unknown destination_canonical_service=unknown \
            destination_canonical_revision=unknown destination_workload_namespace=unknown \
            destination_principal=unknown destination_app=unknown \
            destination_version=unknown destination_cluster=unknown \
            request_protocol=tcp response_flags=- connection_security_policy=unknown \
            source_region=r1 source_zone=unknown destination_region=unknown \
            destination_zone=unknown close_reason=-";
        assert_eq!(of(&facts), expected);
        assert_eq!(TRAFFIC[FLAGS], "response_flags");
        let nobody = of(&ConnMetadata::default());
        assert!(
            nobody.ends_with(
                " source_region= source_zone= destination_region= \
                                  destination_zone= close_reason=-"
            ),
            "{nobody}"
        );
    }
}

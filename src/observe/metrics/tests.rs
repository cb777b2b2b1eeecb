//! What is on the wire: names, kinds, helps and label names, as dashboards and alerts know them.

use std::fmt::Write as _;

use super::{connections::MAX_ENDED, *};
use crate::{
    net::{CloseReason, Direction},
    observe::conn::{ConnMetadata, LiveTable},
};

/// One line for each family: name, kind, label names, help.
fn families(text: &str) -> String {
    let mut found = String::new();
    let mut lines = text.lines();
    while let Some(help) = lines.by_ref().find_map(|l| l.strip_prefix("# HELP ")) {
        let (name, help) = help.split_once(' ').unwrap();
        let kind = lines.next().unwrap().rsplit_once(' ').unwrap().1;
        let sample = lines.next().unwrap();
        let labels: Vec<&str> =
            sample.split("=\"").filter_map(|l| l.rsplit(['{', ',']).next()).collect();
        let labels = labels[..labels.len() - 1].join(",");
        writeln!(found, "{name} {kind} {{{labels}}} {help}").unwrap();
    }
    found
}

#[test]
fn families_are_those_that_dashboards_know() {
    let metrics = Metrics::new().unwrap();
    let facts = ConnMetadata::default();
    metrics.connections.series(Direction::Inbound, &facts).opened();
    metrics.connections.closed(Direction::Inbound, &facts, CloseReason::PolicyDenied);
    let _counted = metrics.listeners.socket(Direction::Inbound);
    metrics.config.loads.with_label_values(&["accepted"]).inc();
    metrics.tunnels.distrusted(Direction::Outbound, CloseReason::SvidRevoked);
    metrics.trust.crl_faults.with_label_values(&["a.test"]).set(1);
    metrics.credentials.last_success.with_label_values(&["spiffe://a.test/x"]).set(1.0);
    metrics.credentials.outage_budget.with_label_values(&[] as &[&str]).set(1.0);
    metrics.credentials.renewals.with_label_values(&["issued", "istiod"]).inc();
    metrics.trust.federation_fetches.with_label_values(&["b.test", "fetched"]).inc();
    metrics.credentials.not_after.with_label_values(&["spiffe://a.test/x"]).set(1.0);
    metrics.tunnels.handshake_failed(Direction::Outbound, CloseReason::SvidRevoked);
    let revoked = "istio_crl_policy_rejections_total{reporter=\"source\"} 2\n";
    assert!(metrics.render(&LiveTable::default()).contains(revoked));
    metrics.targets.up.with_label_values(&["db", "10.0.0.1:5432"]).set(1);
    metrics.targets.connects.with_label_values(&["db", "10.0.0.1:5432", "connected"]).inc();
    metrics.endpoints.retried(CloseReason::ConnectFailure);
    metrics.listeners.accept_failed("db");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    metrics.runtime.refresh([runtime.handle().metrics()].into_iter());
    metrics.pods.rules_restored.with_label_values(&["restored"]).inc();
    metrics.pods.non_tcp_packets.with_label_values(&["inbound", "udp", "dropped"]).inc();
    metrics.xds.terminated(Termination::Complete);
    metrics.xds.received("type.googleapis.com/istio.workload.Address", 1);
    let query = metrics.dns.labels("A", "udp", (&"web".into(), &"v1".into()));
    metrics.dns.asked(&query);
    metrics.dns.forwarded(&query);
    metrics.dns.ended(&query, std::time::Duration::ZERO, true);
    let found = families(&metrics.render(&LiveTable::default()));
    assert_eq!(found, include_str!("families.txt"), "{found}");
}

/// Labels whose values are a closed set, known when adit is built.
const CLOSED: &[&str] = &[
    "reporter",
    "close_reason",
    "result",
    "source",
    "what",
    "component",
    "tag",
    "worker",
    "reason",
    "url",
    "direction",
    "protocol",
    "verdict",
];

/// Families whose other labels are chosen by configuration or peers, and whose series somebody
/// removes: `forget…`, `retain`, or the place where they are set.
const REMOVED: &[&str] = &[
    "adit_accept_errors_total",
    "adit_crl_faults",
    "adit_federation_fetches_total",
    "adit_svid_last_success_timestamp_seconds",
    "adit_svid_not_after_seconds",
    "adit_target_connects_total",
    "adit_target_up",
    "istio_dns_requests_total",
    "istio_dns_upstream_failures_total",
    "istio_dns_upstream_request_duration_seconds",
    "istio_dns_upstream_requests_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_connections_failed_total",
    "istio_tcp_connections_opened_total",
    "istio_tcp_received_bytes_total",
    "istio_tcp_sent_bytes_total",
];

#[test]
fn no_family_grows_for_ever() {
    for family in include_str!("families.txt").lines() {
        let (name, rest) = family.split_once(' ').unwrap();
        let labels = rest.split(['{', '}']).nth(1).unwrap();
        let closed = labels.split(',').all(|l| l.is_empty() || CLOSED.contains(&l));
        assert!(closed || REMOVED.contains(&name), "nobody removes series of {name}: {labels}");
    }
}

#[test]
fn series_of_those_who_have_gone_are_removed() {
    let metrics = Metrics::new().unwrap();
    for name in ["db", "old"] {
        metrics.listeners.accept_failed(name);
        metrics.credentials.not_after.with_label_values(&[name]).set(1.0);
        metrics.credentials.last_success.with_label_values(&[name]).set(1.0);
        metrics.targets.up.with_label_values(&[name, "10.0.0.1:1"]).set(1);
        metrics.targets.connects.with_label_values(&[name, "10.0.0.1:1", "failed"]).inc();
    }
    let count =
        |name: &str| metrics.render(&LiveTable::default()).matches(&format!("=\"{name}\"")).count();
    assert_eq!((count("db"), count("old")), (5, 5));
    metrics.listeners.retain(|name| name == "db");
    metrics.credentials.retain(|name| name == "db");
    metrics.targets.retain(|service, target| service == "db" && target == "10.0.0.1:1");
    assert_eq!((count("db"), count("old")), (5, 0));
}

/// Seconds each.
mod slow {
    use super::*;

    /// As many as a caller can make up: names of services, trust domains.
    #[test]
    fn series_are_bounded_and_what_is_left_over_is_counted() {
        let metrics = Metrics::new().unwrap();
        for n in 0..MAX_ENDED + 500 {
            let facts = ConnMetadata {
                service: Some(format!("s{n}.test").into()),
                ..ConnMetadata::default()
            };
            metrics.connections.series(Direction::Inbound, &facts).opened();
            metrics.connections.closed(Direction::Inbound, &facts, CloseReason::PolicyDenied);
        }
        let text = metrics.render(&LiveTable::default());
        for (what, most) in [("opened", MAX_SERIES), ("closed", MAX_ENDED), ("failed", MAX_ENDED)] {
            let name = format!("istio_tcp_connections_{what}_total{{");
            let lines: Vec<_> = text.lines().filter(|l| l.starts_with(&name)).collect();
            assert!(lines.len() <= most + 2, "{what}: {} series", lines.len());
            let over = lines.iter().find(|l| l.contains("destination_service=\"overflow\""));
            let left_over = format!(" {}", MAX_ENDED + 500 - most);
            assert!(over.unwrap().ends_with(&left_over), "{what}: {over:?}");
        }
    }
}

//! What is counted of the DNS proxy. Who asks is a label: at most so many are told apart, and those
//! that have gone make room.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::{Error, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Registry};

use super::register::{counters, registered, retain};

/// Clients that are told apart.
const MOST_CLIENTS: usize = 1024;
const OVERFLOW: &str = "overflow";
const UNKNOWN: &str = "unknown";
const LABELS: [&str; 4] = [
    "request_query_type",
    "request_protocol",
    "source_canonical_service",
    "source_canonical_revision",
];
/// Seconds, as dashboards expect them.
const BUCKETS: [f64; 6] = [0.0005, 0.001, 0.01, 0.1, 1.0, 5.0];

/// Queries of this node's pods.
#[derive(Debug)]
pub struct DnsMetrics {
    requests: IntCounterVec,
    upstream_requests: IntCounterVec,
    upstream_failures: IntCounterVec,
    upstream_duration: HistogramVec,
    throttled: IntCounter,
    clients: Mutex<HashSet<(Arc<str>, Arc<str>)>>,
}

/// What one query is counted under.
#[derive(Clone, Debug)]
pub struct DnsLabels {
    query_type: String,
    protocol: &'static str,
    service: Arc<str>,
    revision: Arc<str>,
}

impl DnsMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        let counted = |name, help| counters(registry, name, help, &LABELS);
        let duration = HistogramOpts::new(
            "istio_dns_upstream_request_duration_seconds",
            "How long upstream name servers took to answer (unstable)",
        );
        let duration = HistogramVec::new(duration.buckets(BUCKETS.to_vec()), &LABELS)?;
        Ok(Self {
            requests: counted("istio_dns_requests_total", "DNS queries of pods (unstable)")?,
            upstream_requests: counted(
                "istio_dns_upstream_requests_total",
                "DNS queries forwarded to upstream name servers (unstable)",
            )?,
            upstream_failures: counted(
                "istio_dns_upstream_failures_total",
                "DNS queries that no upstream name server answered (unstable)",
            )?,
            upstream_duration: registered(registry, duration)?,
            throttled: registered(
                registry,
                IntCounter::new(
                    "adit_dns_throttled_total",
                    "How often the DNS queries of a pod were throttled because it sent too many",
                )?,
            )?,
            clients: Mutex::default(),
        })
    }

    /// A query of `query_type`, one of a closed set, from a pod of `service` at `revision`.
    #[must_use]
    pub fn labels(
        &self,
        query_type: &str,
        protocol: &'static str,
        (service, revision): (&Arc<str>, &Arc<str>),
    ) -> DnsLabels {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |name: &Arc<str>| if name.is_empty() { UNKNOWN.into() } else { name.clone() };
        let client = (named(service), named(revision));
        let room = clients.contains(&client) || clients.len() < MOST_CLIENTS;
        let (service, revision) = if room {
            clients.insert(client.clone());
            client
        } else {
            (OVERFLOW.into(), OVERFLOW.into())
        };
        DnsLabels { query_type: query_type.to_lowercase(), protocol, service, revision }
    }

    /// Counts a query.
    pub fn asked(&self, labels: &DnsLabels) {
        self.requests.with_label_values(&labels.values()).inc();
    }

    /// Counts a query that is forwarded.
    pub fn forwarded(&self, labels: &DnsLabels) {
        self.upstream_requests.with_label_values(&labels.values()).inc();
    }

    /// Counts that a pod's queries wait.
    pub fn throttled(&self) {
        self.throttled.inc();
    }

    /// Counts the end of one: how long it took, and whether nobody answered.
    pub fn ended(&self, labels: &DnsLabels, took: Duration, failed: bool) {
        let values = labels.values();
        self.upstream_duration.with_label_values(&values).observe(took.as_secs_f64());
        if failed {
            self.upstream_failures.with_label_values(&values).inc();
        }
    }

    /// Removes the series of pods for whose service and revision `is_there` says no; where a pod
    /// has none, they are `unknown`.
    pub fn forget(&self, is_there: impl Fn(&str, &str) -> bool) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|(service, revision)| is_there(service, revision));
        let keep = |values: &[&str]| values[2] == OVERFLOW || is_there(values[2], values[3]);
        for family in [&self.requests, &self.upstream_requests, &self.upstream_failures] {
            retain(family, &LABELS, keep);
        }
        retain(&self.upstream_duration, &LABELS, keep);
    }
}

impl DnsLabels {
    fn values(&self) -> [&str; 4] {
        [&self.query_type, self.protocol, &self.service, &self.revision]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_apart_up_to_a_bound_and_make_room_when_they_go() {
        let metrics = DnsMetrics::register(&Registry::new()).unwrap();
        let of =
            |service: &str| metrics.labels("AAAA", "udp", (&service.into(), &"v1".into())).service;
        for n in 0..MOST_CLIENTS {
            assert_eq!(&*of(&format!("s{n}")), format!("s{n}"));
        }
        assert_eq!((&*of("late"), &*of("s0")), (OVERFLOW, "s0"));
        let labels = metrics.labels("AAAA", "udp", (&"s0".into(), &"v1".into()));
        metrics.asked(&labels);
        metrics.forwarded(&labels);
        metrics.ended(&labels, Duration::from_millis(2), true);
        metrics.forget(|service, _| service != "s0");
        for family in [&metrics.requests, &metrics.upstream_failures] {
            assert_eq!(family.with_label_values(&labels.values()).get(), 0, "it begins anew");
        }
        assert_eq!(&*of("late"), "late");
    }
}

//! Metrics under Istio's names (istio-ambient facts §12), bounded by construction: at most
//! [`MAX_SERIES`] label sets, then one overflow set.
//!
//! Byte counters of live connections are brought up to date when somebody scrapes, so the
//! path of a byte touches no metric.

mod series;
#[cfg(test)]
mod tests;
mod unused;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use prometheus::{
    CounterVec, Encoder, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

pub use series::Series;

use super::conn::{CloseReason, Direction, Facts, LiveTable, Names, Party};

/// How many distinct label sets the traffic metrics keep; later ones share one set whose
/// labels say `overflow`.
pub const MAX_SERIES: usize = 10_000;

/// The same for the counters of ended connections, which tell reasons apart.
const MAX_ENDED: usize = 2 * MAX_SERIES;

const TRAFFIC: [&str; 24] = [
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
const OPEN: usize = TRAFFIC.len() - 1;

const OVERFLOW: &str = "overflow";
const UNKNOWN: &str = "unknown";

/// How long series of somebody who has gone are kept.
pub const KEPT: std::time::Duration = std::time::Duration::from_secs(3600);

type Labels = Vec<Arc<str>>;

/// Everything the process counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    opened: IntCounterVec,
    closed: IntCounterVec,
    failed: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    known: Mutex<HashMap<Labels, Arc<Series>>>,
    /// Label sets of ended connections, and when they were last counted in.
    ended: Mutex<HashMap<Labels, Instant>>,
    overflowed: IntCounter,
    sockets: IntGaugeVec,
    /// Configuration loads by `result`: `accepted`, `rejected`.
    pub config_loads: IntCounterVec,
    /// When the configuration in use was loaded, Unix seconds.
    pub config_loaded: IntGauge,
    /// What was read and not taken, so that not what is on disk runs.
    pub reload_refused: IntGauge,
    /// Tunnels closed as their peer is believed no more, by `reporter` and `close_reason`.
    pub tunnels_closed: IntCounterVec,
    /// CRLs that cannot be used and so revoke nothing, per trust domain that has CRLs.
    pub crl_faults: IntGaugeVec,
    /// When an SVID was last obtained per own identity, Unix seconds.
    pub svid_last_success: GaugeVec,
    /// How long all own identities survive without their source.
    pub outage_budget: GaugeVec,
    /// SVID renewals by `result` (`issued`, `failed`) and `source`.
    pub svid_renewals: IntCounterVec,
    /// Attempts to obtain another trust domain's bundle, by `trust_domain` and `result`:
    /// `fetched`, `failed`.
    pub federation_fetches: IntCounterVec,
    /// End of validity per own identity, Unix seconds.
    pub svid_not_after: GaugeVec,
    /// Handshakes that failed, by `reporter` and `reason`.
    pub handshake_failures: IntCounterVec,
    /// Pods carried.
    pub pods: IntGauge,
    /// Pods that could not be started yet.
    pub pods_pending: IntGauge,
    /// Log lines lost because nobody read them fast enough.
    pub log_lines_dropped: IntGauge,
    /// Tasks alive on the data workers.
    pub alive_tasks: IntGauge,
    /// Whether connections and checks work, by `service` and `target` of a standalone service.
    pub target_up: IntGaugeVec,
    /// Connections to targets, by `service`, `target` and `result`: `connected`, `failed`.
    pub target_connects: IntCounterVec,
    /// Accepts that failed (descriptors exhausted and the like).
    pub accept_errors: IntCounterVec,
    process_cpu: CounterVec,
    process_gauges: IntGaugeVec,
}

impl Metrics {
    /// Registers all metrics in a registry of their own.
    ///
    /// # Errors
    /// If a name is taken, which is a defect of ours.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let vec = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let crl_faults = IntGaugeVec::new(
            Opts::new("adit_crl_faults", "CRLs that cannot be used and so revoke nothing"),
            &["trust_domain"],
        )?;
        registry.register(Box::new(crl_faults.clone()))?;
        let open = &TRAFFIC[..OPEN];
        let opened = counters("istio_tcp_connections_opened_total", "Connections opened", open)?;
        let closed =
            counters("istio_tcp_connections_closed_total", "Connections closed", &TRAFFIC)?;
        let failed = counters(
            "istio_tcp_connections_failed_total",
            "Connections that ended with a failure (unstable)",
            &TRAFFIC,
        )?;
        let received = counters("istio_tcp_received_bytes_total", "Bytes client to server", open)?;
        let sent = counters("istio_tcp_sent_bytes_total", "Bytes server to client", open)?;
        let overflowed = IntCounter::new(
            "adit_metric_overflow_total",
            "Connections counted under the overflow labels, as the series limit was reached",
        )?;
        registry.register(Box::new(overflowed.clone()))?;
        let sockets = IntGaugeVec::new(
            Opts::new("istio_tcp_sockets_open", "Accepted sockets now open (unstable)"),
            &["reporter"],
        )?;
        registry.register(Box::new(sockets.clone()))?;
        let process_cpu = CounterVec::new(
            Opts::new("process_cpu_seconds_total", "User and system CPU time in seconds"),
            &[],
        )?;
        registry.register(Box::new(process_cpu.clone()))?;
        let process_gauges = IntGaugeVec::new(
            Opts::new("adit_process", "Of this process: resident bytes, threads, descriptors"),
            &["what"],
        )?;
        registry.register(Box::new(process_gauges.clone()))?;
        let build = IntGaugeVec::new(
            Opts::new("istio_build", "Always 1; which build this is"),
            &["component", "tag"],
        )?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&["adit", env!("CARGO_PKG_VERSION")]).set(1);
        let target_up = IntGaugeVec::new(
            Opts::new(
                "adit_target_up",
                "1 unless the last connection to a target or the last check of it failed",
            ),
            &["service", "target"],
        )?;
        registry.register(Box::new(target_up.clone()))?;
        Ok(Self {
            target_up,
            target_connects: counters(
                "adit_target_connects_total",
                "Connections to targets, by result",
                &["service", "target", "result"],
            )?,
            config_loads: counters(
                "adit_config_loads_total",
                "Configuration loads, by result",
                &["result"],
            )?,
            config_loaded: gauge(
                "adit_config_loaded_timestamp_seconds",
                "When the configuration in use was loaded",
            )?,
            reload_refused: gauge(
                "adit_reload_refused",
                "Files that were read and not taken: what runs is what was read before",
            )?,
            svid_renewals: counters(
                "adit_svid_renewals_total",
                "SVID renewals, by result and source",
                &["result", "source"],
            )?,
            svid_not_after: gauges(
                "adit_svid_not_after_seconds",
                "End of validity of own SVIDs, Unix time",
                &["identity"],
            )?,
            svid_last_success: gauges(
                "adit_svid_last_success_timestamp_seconds",
                "When an SVID was last obtained for an own identity",
                &["identity"],
            )?,
            outage_budget: gauges(
                "adit_identity_outage_budget_seconds",
                "How long all own identities survive without their source",
                &[],
            )?,
            crl_faults,
            tunnels_closed: counters(
                "adit_tunnels_closed_total",
                "Tunnels closed as their peer is believed no more",
                &["reporter", "close_reason"],
            )?,
            federation_fetches: counters(
                "adit_federation_fetches_total",
                "Attempts to obtain another trust domain's bundle, by result",
                &["trust_domain", "result"],
            )?,
            handshake_failures: counters(
                "adit_handshake_failures_total",
                "TLS or HTTP/2 handshakes that failed",
                &["reporter", "close_reason"],
            )?,
            pods: gauge("workload_manager_active_proxy_count", "Pods carried (unstable)")?,
            pods_pending: gauge(
                "workload_manager_pending_proxy_count",
                "Pods that could not be started yet (unstable)",
            )?,
            log_lines_dropped: gauge(
                "adit_log_lines_dropped",
                "Log lines lost because nobody read them fast enough",
            )?,
            alive_tasks: gauge("tokio_num_alive_tasks", "Tasks alive on the data workers")?,
            accept_errors: counters(
                "adit_accept_errors_total",
                "Accepts that failed",
                &["listener"],
            )?,
            opened,
            closed,
            failed,
            received,
            sent,
            known: Mutex::default(),
            ended: Mutex::default(),
            overflowed,
            sockets,
            process_cpu,
            process_gauges,
            registry,
        })
    }

    /// The counters for a connection's label set.
    #[must_use]
    pub fn series(&self, direction: Direction, facts: &Facts) -> Arc<Series> {
        let labels = self.bounded(direction, traffic_labels(direction, facts));
        if &*labels[1] == OVERFLOW {
            self.overflowed.inc();
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let values: Vec<&str> = labels[..OPEN].iter().map(AsRef::as_ref).collect();
            Arc::new(Series::new(
                self.opened.with_label_values(&values),
                self.received.with_label_values(&values),
                self.sent.with_label_values(&values),
            ))
        };
        Arc::clone(known.entry(labels.clone()).or_insert_with(make))
    }

    pub(super) fn closed(&self, direction: Direction, facts: &Facts, reason: CloseReason) {
        let mut labels = traffic_labels(direction, facts);
        labels[OPEN - 2] = reason.response_flags().into();
        labels[OPEN] = reason.as_str().into();
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() >= MAX_ENDED && !ended.contains_key(&labels) {
            let ends = [labels[OPEN - 2].clone(), labels[OPEN].clone()];
            labels = overflowed(direction);
            let [flags, reason] = ends;
            (labels[OPEN - 2], labels[OPEN]) = (flags, reason);
        }
        ended.insert(labels.clone(), Instant::now());
        let values: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
        self.closed.with_label_values(&values).inc();
        if reason.response_flags() != "-" {
            self.failed.with_label_values(&values).inc();
        }
    }

    /// A gauge of accepted sockets that counts itself down when dropped.
    #[must_use]
    pub fn socket(&self, direction: Direction) -> SocketCount {
        let gauge = self.sockets.with_label_values(&[direction.reporter()]);
        gauge.inc();
        SocketCount(gauge)
    }

    /// Forgets the series of an identity that is no longer carried.
    pub fn forget_identity(&self, identity: &str) {
        let _ = self.svid_not_after.remove_label_values(&[identity]);
        let _ = self.svid_last_success.remove_label_values(&[identity]);
    }

    /// Forgets what is counted for a target of a service that no longer is there.
    pub fn forget_target(&self, service: &str, target: &str) {
        let _ = self.target_up.remove_label_values(&[service, target]);
        for result in ["connected", "failed"] {
            let _ = self.target_connects.remove_label_values(&[service, target, result]);
        }
    }

    /// Takes away what is counted for a trust domain that is no longer federated.
    pub fn forget_federation(&self, trust_domain: &str) {
        for result in ["fetched", "failed"] {
            let _ = self.federation_fetches.remove_label_values(&[trust_domain, result]);
        }
    }

    /// The exposition text, with the bytes of `live` connections brought up to date first.
    #[must_use]
    pub fn render(&self, live: &LiveTable) -> String {
        live.all().iter().for_each(|conn| conn.flush_bytes());
        self.read_process();
        let mut text = Vec::new();
        // Writing to memory does not fail; a half-written text would be refused by a scraper.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    fn read_process(&self) {
        let usage = crate::sys::process::usage();
        let cpu = self.process_cpu.with_label_values(&[] as &[&str]);
        cpu.inc_by((usage.cpu_seconds - cpu.get()).max(0.0));
        for (what, value) in [
            ("resident_bytes", usage.resident_bytes),
            ("threads", usage.threads),
            ("open_fds", usage.open_fds),
            ("max_fds", usage.max_fds),
        ] {
            self.process_gauges.with_label_values(&[what]).set(value);
        }
    }

    fn bounded(&self, direction: Direction, labels: Labels) -> Labels {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_SERIES || known.contains_key(&labels) {
            return labels;
        }
        overflowed(direction)
    }
}

/// The labels of whatever there is no room for.
fn overflowed(direction: Direction) -> Labels {
    let mut overflow: Labels = vec![OVERFLOW.into(); TRAFFIC.len()];
    overflow[0] = direction.reporter().into();
    overflow
}

/// One accepted socket in the gauge; see [`Metrics::socket`].
#[derive(Debug)]
pub struct SocketCount(IntGauge);

impl Drop for SocketCount {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn traffic_labels(direction: Direction, facts: &Facts) -> Labels {
    let unknown: Arc<str> = UNKNOWN.into();
    let or_unknown = |value: &Option<Arc<str>>| value.clone().unwrap_or_else(|| unknown.clone());
    let mut labels: Labels = Vec::with_capacity(TRAFFIC.len());
    labels.push(direction.reporter().into());
    let party = |labels: &mut Labels, p: &Party| {
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
    party(&mut labels, &facts.src);
    let service_name = facts.service.as_deref().and_then(|s| s.split('.').next()).map(Into::into);
    labels.extend([
        or_unknown(&facts.service),
        or_unknown(&facts.service_namespace),
        or_unknown(&service_name),
    ]);
    party(&mut labels, &facts.dst);
    let security = match &facts.tls {
        Some(tls) if tls.mutual => "mutual_tls",
        Some(_) => "tls",
        None => "unknown",
    };
    labels.extend(["tcp".into(), "-".into(), security.into(), "-".into()]);
    labels
}

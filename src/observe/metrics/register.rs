//! How the pieces make their families, and remove series from them.

use prometheus::{
    Error, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, MetricVec, MetricVecBuilder},
};

/// Enters a metric into the registry and gives it back.
///
/// # Errors
/// If its name is taken.
pub(super) fn registered<M>(registry: &Registry, metric: M) -> Result<M, Error>
where
    M: Collector + Clone + 'static,
{
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Counters that `labels` tell apart.
pub(super) fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, Error> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

/// One counter.
pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, Error> {
    registered(registry, IntCounter::new(name, help)?)
}

/// One gauge of whole numbers.
pub(super) fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, Error> {
    registered(registry, IntGauge::new(name, help)?)
}

/// Gauges of whole numbers that `labels` tell apart.
pub(super) fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, Error> {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

/// Gauges of seconds that `labels` tell apart.
pub(super) fn seconds(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, Error> {
    registered(registry, GaugeVec::new(Opts::new(name, help), labels)?)
}

/// Keeps the series for which `keep` says yes, asked with the values of `labels`, which are all
/// labels of the family in its own order; the others are removed.
pub(super) fn retain<T: MetricVecBuilder>(
    family: &MetricVec<T>,
    labels: &[&str],
    keep: impl Fn(&[&str]) -> bool,
) {
    for collected in family.collect() {
        for series in collected.get_metric() {
            let value = |label: &&str| {
                let pair = series.get_label().iter().find(|pair| pair.name() == *label);
                pair.map_or("", |pair| pair.value())
            };
            let values: Vec<&str> = labels.iter().map(value).collect();
            if !keep(&values) {
                let _ = family.remove_label_values(&values);
            }
        }
    }
}

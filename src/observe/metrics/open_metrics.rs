//! The `OpenMetrics` text format (version 1.0.0), which Prometheus asks for first: families without
//! the suffix of their samples, one end mark, so that half a text is noticed.

use std::fmt::Write as _;

use prometheus::proto::{Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// What the samples of a counter end in, and its family does not.
const TOTAL: &str = "_total";

/// The text of `families`; those of a type that is none of ours are left out.
pub(super) fn text(families: &[MetricFamily]) -> String {
    let mut text = String::new();
    for family in families {
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            _ => continue,
        };
        let full = family.name();
        let name = match kind {
            "counter" => full.strip_suffix(TOTAL).unwrap_or(full),
            _ => full,
        };
        // Writing to a text does not fail.
        let _ = writeln!(text, "# HELP {name} {}", escaped(family.help()));
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for metric in family.get_metric() {
            one(&mut text, name, kind, metric);
        }
    }
    text.push_str("# EOF\n");
    text
}

fn one(text: &mut String, name: &str, kind: &str, metric: &Metric) {
    let labels = metric.get_label();
    match kind {
        "counter" => {
            sample(text, (name, TOTAL), labels, None, metric.get_counter().get_value());
        }
        "gauge" => sample(text, (name, ""), labels, None, metric.get_gauge().get_value()),
        _ => histogram(text, name, labels, metric.get_histogram()),
    }
}

fn histogram(text: &mut String, name: &str, labels: &[LabelPair], histogram: &Histogram) {
    let count = histogram.get_sample_count() as f64;
    for bucket in histogram.get_bucket() {
        let up_to = format!("{:?}", bucket.upper_bound());
        let so_far = bucket.cumulative_count() as f64;
        if bucket.upper_bound().is_finite() {
            sample(text, (name, "_bucket"), labels, Some(&up_to), so_far);
        }
    }
    sample(text, (name, "_bucket"), labels, Some("+Inf"), count);
    sample(text, (name, "_count"), labels, None, count);
    sample(text, (name, "_sum"), labels, None, histogram.get_sample_sum());
}

/// One line. A label without a value is the same as none, and is left out.
fn sample(
    text: &mut String,
    (name, suffix): (&str, &str),
    labels: &[LabelPair],
    up_to: Option<&str>,
    value: f64,
) {
    let _ = write!(text, "{name}{suffix}");
    let given = labels.iter().map(|label| (label.name(), label.value()));
    let all = given.filter(|(_, value)| !value.is_empty()).chain(up_to.map(|up_to| ("le", up_to)));
    let mut before = "{";
    for (label, value) in all {
        let _ = write!(text, "{before}{label}=\"{}\"", escaped(value));
        before = ",";
    }
    if before == "," {
        text.push('}');
    }
    let _ = match value {
        value if value.is_nan() => writeln!(text, " NaN"),
        f64::INFINITY => writeln!(text, " +Inf"),
        f64::NEG_INFINITY => writeln!(text, " -Inf"),
        value => writeln!(text, " {value}"),
    };
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

    use super::*;

    #[test]
    fn the_text_is_as_the_format_says() {
        let registry = Registry::new();
        let labels = &["caller", "region"];
        let calls = IntCounterVec::new(Opts::new("calls_total", "Calls \\ \"so\" far"), labels);
        let calls = calls.unwrap();
        calls.with_label_values(&["a\"b\\c\nd", ""]).inc_by(3);
        let open = IntGauge::new("open", "Now open").unwrap();
        open.set(-2);
        let buckets = HistogramOpts::new("took_seconds", "Time").buckets(vec![0.0005, 1.0]);
        let took = HistogramVec::new(buckets, &["to"]).unwrap();
        took.with_label_values(&["x"]).observe(0.25);
        took.with_label_values(&["x"]).observe(7.0);
        for metric in [
            Box::new(calls) as Box<dyn prometheus::core::Collector>,
            Box::new(open),
            Box::new(took),
        ] {
            registry.register(metric).unwrap();
        }
        let expected = "\
# HELP calls Calls \\\\ \\\"so\\\" far
# TYPE calls counter
calls_total{caller=\"a\\\"b\\\\c\\nd\"} 3
# HELP open Now open
# TYPE open gauge
open -2
# HELP took_seconds Time
# TYPE took_seconds histogram
took_seconds_bucket{to=\"x\",le=\"0.0005\"} 0
took_seconds_bucket{to=\"x\",le=\"1.0\"} 1
took_seconds_bucket{to=\"x\",le=\"+Inf\"} 2
took_seconds_count{to=\"x\"} 2
took_seconds_sum{to=\"x\"} 7.25
# EOF
";
        assert_eq!(text(&registry.gather()), expected);
    }
}

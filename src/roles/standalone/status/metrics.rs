//! What services have counted, under ghostunnel's names and in its three forms: JSON,
//! Prometheus, Graphite.

use std::{fmt::Write as _, sync::Arc, sync::atomic::Ordering::Relaxed};

use serde_json::{Value, json};

use super::super::{Counts, Service, timer::Timing};

/// The parts of a timer's distribution, by their names in JSON and Graphite.
const PARTS: [(&str, f64); 4] = [
    ("50-percentile", 0.5),
    ("75-percentile", 0.75),
    ("95-percentile", 0.95),
    ("99-percentile", 0.99),
];
/// And in the Prometheus form, where `le` holds the part and the value is the time.
const BUCKETS: [f64; 4] = [0.5, 0.95, 0.99, 0.999];

/// All metrics at one moment.
pub(super) struct Gathered {
    counters: [(&'static str, u64); 6],
    timers: [(&'static str, Timing); 2],
}

impl Gathered {
    /// Of all services together.
    pub(super) fn of(services: &[Arc<Service>]) -> Self {
        let sum = |count: fn(&Counts) -> u64| services.iter().map(|s| count(&s.counts)).sum();
        let open: usize = services.iter().map(|s| s.open()).sum();
        Self {
            counters: [
                ("conn.open", open as u64),
                ("conn.timeout", sum(|c| c.ended_by_limit.load(Relaxed))),
                ("accept.total", sum(|c| c.accepted.load(Relaxed))),
                ("accept.success", sum(|c| c.succeeded.load(Relaxed))),
                ("accept.error", sum(|c| c.failed.load(Relaxed))),
                ("accept.timeout", sum(|c| c.timed_out.load(Relaxed))),
            ],
            timers: [
                ("conn.handshake", Timing::of(services.iter().map(|s| &s.counts.handshake))),
                ("conn.lifetime", Timing::of(services.iter().map(|s| &s.counts.lifetime))),
            ],
        }
    }

    /// A list of `{timestamp, metric, value, hostname}`.
    pub(super) fn to_json(&self, prefix: &str, hostname: &str, now: u64) -> Value {
        let mut all = Vec::new();
        let mut put = |name: String, value: Value| {
            let metric = format!("{prefix}.{name}");
            all.push(json!({
                "timestamp": now, "metric": metric, "value": value, "hostname": hostname,
            }));
        };
        for (name, value) in self.counters {
            put(name.to_owned(), json!(value));
        }
        for (name, timing) in &self.timers {
            put(format!("{name}.count"), json!(timing.count));
            put(format!("{name}.min"), json!(timing.min));
            put(format!("{name}.max"), json!(timing.max));
            put(format!("{name}.mean"), json!(timing.mean));
            for (part, at) in PARTS {
                put(format!("{name}.{part}"), json!(timing.within(at)));
            }
        }
        Value::Array(all)
    }

    /// The exposition text; as with ghostunnel all are gauges, and times are nanoseconds.
    pub(super) fn to_prometheus(&self, prefix: &str) -> String {
        let mut text = String::new();
        let mut gauge = |name: &str, value: f64| {
            let name = flat(&format!("{prefix}.{name}"));
            let _ = writeln!(text, "# TYPE {name} gauge\n{name} {value}");
        };
        for (name, value) in self.counters {
            gauge(name, value as f64);
        }
        for (name, t) in &self.timers {
            for (what, value) in [
                ("count", t.count as f64),
                ("sum", t.sum),
                ("min", t.min as f64),
                ("max", t.max as f64),
                ("mean", t.mean),
                ("std_dev", t.variance.sqrt()),
                ("variance", t.variance),
                ("rate1", t.rates[0]),
                ("rate5", t.rates[1]),
                ("rate15", t.rates[2]),
                ("rate_mean", t.rates[3]),
            ] {
                gauge(&format!("{name}_{what}"), value);
            }
        }
        for (name, t) in &self.timers {
            let name = flat(&format!("{prefix}.{name}_timer"));
            let _ = writeln!(text, "# TYPE {name} histogram");
            for part in BUCKETS {
                let _ = writeln!(text, "{name}_bucket{{le=\"{part}\"}} {}", t.within(part));
            }
            let (count, sum) = (t.count, t.sum);
            let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}");
            let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {count}");
        }
        text
    }

    /// Lines of Graphite's plaintext protocol.
    pub(super) fn to_graphite(&self, prefix: &str, now: u64) -> String {
        let mut text = String::new();
        let mut line = |name: String, value: String| {
            let _ = writeln!(text, "{prefix}.{name} {value} {now}");
        };
        for (name, value) in self.counters {
            line(format!("{name}.count"), value.to_string());
        }
        for (name, t) in &self.timers {
            line(format!("{name}.count"), t.count.to_string());
            line(format!("{name}.min"), t.min.to_string());
            line(format!("{name}.max"), t.max.to_string());
            line(format!("{name}.mean"), format!("{:.2}", t.mean));
            line(format!("{name}.std-dev"), format!("{:.2}", t.variance.sqrt()));
            for (part, at) in PARTS.into_iter().chain([("999-percentile", 0.999)]) {
                line(format!("{name}.{part}"), format!("{:.2}", t.within(at)));
            }
            let windows = ["one-minute", "five-minute", "fifteen-minute", "mean-rate"];
            for (window, rate) in windows.iter().zip(t.rates) {
                line(format!("{name}.{window}"), format!("{rate:.2}"));
            }
        }
        text
    }
}

/// A name as Prometheus takes it.
fn flat(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == ':' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ghostunnels_in_all_forms() {
        let gathered = Gathered::of(&[]);
        let json = gathered.to_json("tun-nel", "here", 7);
        assert_eq!(json.as_array().unwrap().len(), 6 + 2 * 8);
        assert_eq!(
            json[0],
            json!({"timestamp": 7, "metric": "tun-nel.conn.open", "value": 0, "hostname": "here"})
        );
        let text = gathered.to_prometheus("tun-nel");
        for line in [
            "tun_nel_accept_total 0",
            "tun_nel_conn_handshake_rate_mean 0",
            "tun_nel_conn_lifetime_std_dev 0",
            "tun_nel_conn_handshake_timer_bucket{le=\"0.99\"} 0",
            "tun_nel_conn_lifetime_timer_count 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        let lines = gathered.to_graphite("tun-nel", 7);
        assert!(lines.lines().any(|l| l == "tun-nel.conn.open.count 0 7"), "{lines}");
        assert!(lines.lines().any(|l| l == "tun-nel.conn.handshake.999-percentile 0.00 7"));
    }
}

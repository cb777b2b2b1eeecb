//! What a load has measured, for people and for scripts.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::io::Failed;

/// What one connection, or many together, have seen.
pub(super) struct Outcome {
    /// In microseconds, up to a minute, to three digits.
    pub(super) latency: Histogram<u64>,
    /// By kind: how many, and the first of them in words.
    failures: BTreeMap<&'static str, (u64, String)>,
    /// Due and not begun before the end (open loop).
    pub(super) unsent: u64,
}

impl Default for Outcome {
    fn default() -> Self {
        // Grows with what it holds: an idle connection needs next to nothing.
        #[allow(clippy::expect_used, reason = "three digits are in bounds")]
        let latency = Histogram::new(3).expect("1 to 5 digits");
        Self { latency, failures: BTreeMap::new(), unsent: 0 }
    }
}

impl Outcome {
    pub(super) fn failed(&mut self, which: usize, failed: Failed) {
        let text = format!("connection {which}: {}", failed.text);
        self.failures.entry(failed.kind).or_insert((0, text)).0 += 1;
    }

    pub(super) fn add(&mut self, other: Self) {
        // Both grow, so nothing is out of bounds.
        let _ = self.latency.add(&other.latency);
        for (kind, (count, text)) in other.failures {
            self.failures.entry(kind).or_insert((0, text)).0 += count;
        }
        self.unsent += other.unsent;
    }
}

/// The result of one kind of load.
pub(super) struct Part {
    pub(super) mode: &'static str,
    pub(super) connections: usize,
    /// Operations per second that were due; none in a closed loop.
    pub(super) rate: Option<f64>,
    /// Measured, without warm-up.
    pub(super) time: Duration,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) operations: u64,
    pub(super) outcome: Outcome,
}

impl Part {
    /// Whether something was done and nothing failed.
    pub(super) fn is_sound(&self) -> bool {
        let stalls = self.mode == "stalled";
        self.outcome.failures.is_empty()
            && (stalls || self.operations + self.sent + self.received > 0)
    }

    pub(super) fn p99(&self) -> u64 {
        self.outcome.latency.value_at_quantile(0.99)
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.time.as_secs_f64()
    }

    fn gbit(&self) -> f64 {
        self.per_second(self.sent + self.received) * 8.0 / 1e9
    }

    pub(super) fn json(&self) -> Value {
        let latency = &self.outcome.latency;
        let mut value = json!({
            "mode": self.mode,
            "loop": if self.rate.is_some() { "open" } else { "closed" },
            "rate": self.rate,
            "connections": self.connections,
            "seconds": self.time.as_secs_f64(),
            "bytes_sent": self.sent,
            "bytes_received": self.received,
            "gbit_per_second": self.gbit(),
            "operations": self.operations,
            "operations_per_second": self.per_second(self.operations),
            "unsent": self.outcome.unsent,
            "failures": self.outcome.failures.iter().map(|(k, (n, text))| {
                ((*k).to_owned(), json!({ "count": n, "first": text }))
            }).collect::<serde_json::Map<_, _>>(),
        });
        if !latency.is_empty() {
            let at = |q| latency.value_at_quantile(q);
            value["latency_us"] = json!({
                "count": latency.len(), "min": latency.min(), "mean": latency.mean(),
                "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999),
                "max": latency.max(),
            });
        }
        value
    }

    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "  {name:<16}{value}");
        };
        let seconds = self.time.as_secs_f64();
        line(
            self.mode,
            format!("{}, {seconds:.1} s", crate::identity::counted(self.connections, "connection")),
        );
        if self.sent + self.received > 0 {
            line("throughput", format!("{:.3} Gbit/s", self.gbit()));
        }
        if self.operations > 0 {
            let mut rate = format!("{:.0}/s", self.per_second(self.operations));
            if let Some(due) = self.rate {
                let _ = write!(rate, " of {due:.0}/s asked for, {} not sent", self.outcome.unsent);
            }
            line("operations", rate);
        }
        let latency = &self.outcome.latency;
        if !latency.is_empty() {
            let at = |q| latency.value_at_quantile(q);
            let (p50, p90, p99, p999) = (at(0.5), at(0.9), at(0.99), at(0.999));
            let most = latency.max();
            line(
                "latency (us)",
                format!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  max {most}"),
            );
        }
        for (kind, (count, first)) in &self.outcome.failures {
            line("failed", format!("{count} × {kind}, first: {first}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind_and_the_first_is_told() {
        let mut all = Outcome::default();
        for which in 0..3 {
            let mut one = Outcome::default();
            one.failed(which, Failed::eof("closed"));
            one.latency.record(1000 * (which as u64 + 1)).unwrap();
            all.add(one);
        }
        let part = Part {
            mode: "ping",
            connections: 3,
            rate: None,
            time: Duration::from_secs(2),
            sent: 10,
            received: 10,
            operations: 3,
            outcome: all,
        };
        let json = part.json();
        assert_eq!(json["failures"]["eof"]["count"], 3);
        assert_eq!(json["failures"]["eof"]["first"], "connection 0: closed");
        assert_eq!(json["operations_per_second"], 1.5);
        assert_eq!(json["latency_us"]["count"], 3);
        assert!(!part.is_sound());
    }
}

//! Traffic series go when nothing has been counted in them for long and whom they are about is not
//! there any more.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::{
    ConnectionMetrics, MAX_ENDED, MAX_SERIES,
    labels::{Labels, OPEN, OVERFLOW, UNKNOWN},
};

/// Where `workload` and `namespace` of source and destination stand among the labels.
const PARTIES: [(usize, usize); 2] = [(1, 4), (12, 15)];

impl ConnectionMetrics {
    /// Removes series that no open connection has and that have not been counted in for `idle`:
    /// those of somebody for whom `is_there` (asked by workload and namespace) says no, and all of
    /// them where half of the room is taken. Who is unknown may be there.
    pub fn forget_unused(&self, idle: Duration, is_there: impl Fn(&str, &str) -> bool) {
        let gone = |labels: &Labels| {
            PARTIES.iter().any(|(name, namespace)| {
                &*labels[*name] != UNKNOWN && !is_there(&labels[*name], &labels[*namespace])
            })
        };
        let long_ago = |used: Instant| used.elapsed() >= idle;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let full = known.len() >= MAX_SERIES / 2;
        known.retain(|labels, series| {
            let stays = &*labels[1] == OVERFLOW
                || Arc::strong_count(series) > 1
                || !long_ago(series.used())
                || !(full || gone(labels));
            if !stays {
                let values: Vec<&str> = labels[..OPEN].iter().map(AsRef::as_ref).collect();
                for counters in [&self.opened, &self.received, &self.sent] {
                    let _ = counters.remove_label_values(&values);
                }
            }
            stays
        });
        drop(known);
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let full = ended.len() >= MAX_ENDED / 2;
        ended.retain(|labels, used| {
            let stays = &*labels[1] == OVERFLOW || !long_ago(*used) || !(full || gone(labels));
            if !stays {
                let values: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
                for counters in [&self.closed, &self.failed] {
                    let _ = counters.remove_label_values(&values);
                }
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::{CloseReason, Direction},
        observe::{
            conn::{ConnMetadata, LiveTable, Names, PeerInfo},
            metrics::Metrics,
        },
    };

    fn facts(caller: &str) -> ConnMetadata {
        let named = |name: &str| PeerInfo {
            names: Some(Arc::new(Names::of(name.into(), "shop".into()))),
            ..PeerInfo::default()
        };
        ConnMetadata { src: named(caller), dst: named("db"), ..ConnMetadata::default() }
    }

    fn count(metrics: &Metrics, caller: &str) -> u64 {
        let series = metrics.connections.series(Direction::Inbound, &facts(caller));
        series.opened();
        series.add_bytes(1, 2);
        metrics.connections.closed(Direction::Inbound, &facts(caller), CloseReason::PolicyDenied);
        drop(series);
        let text = metrics.render(&LiveTable::default());
        text.matches(&format!("source_workload=\"{caller}\"")).count() as u64
    }

    #[test]
    fn series_go_with_their_workload_and_not_while_a_connection_is_open() {
        let metrics = Metrics::new().unwrap();
        assert_eq!(count(&metrics, "web"), 5, "opened, received, sent, closed, failed");
        assert_eq!(count(&metrics, "old"), 5);
        let text = || metrics.render(&LiveTable::default());
        metrics.connections.forget_unused(Duration::ZERO, |_, _| true);
        assert!(text().contains("\"old\""), "it is there");
        let without_old = |name: &str, namespace: &str| name != "old" && namespace == "shop";
        metrics.connections.forget_unused(Duration::from_secs(60), without_old);
        assert!(text().contains("\"old\""), "it has gone a moment ago");
        let open = metrics.connections.series(Direction::Inbound, &facts("old"));
        metrics.connections.forget_unused(Duration::ZERO, without_old);
        assert!(text().contains("source_workload=\"old\""), "a connection is open");
        drop(open);
        metrics.connections.forget_unused(Duration::ZERO, without_old);
        assert!(!text().contains("\"old\""), "{}", text());
        assert!(text().contains("\"web\""));
    }

    /// Seconds each.
    mod slow {
        use super::*;

        #[test]
        fn overflow_is_not_for_good() {
            let metrics = Metrics::new().unwrap();
            for n in 0..MAX_SERIES {
                drop(metrics.connections.series(Direction::Inbound, &facts(&format!("caller{n}"))));
            }
            assert_eq!(count(&metrics, "late"), 2, "what ended has room of its own");
            let overflowed = format!("source_workload=\"{OVERFLOW}\"");
            assert!(metrics.render(&LiveTable::default()).contains(&overflowed));
            metrics.connections.forget_unused(Duration::ZERO, |_, _| true);
            assert_eq!(count(&metrics, "late"), 5);
        }

        #[test]
        fn what_ended_has_bounds_of_its_own() {
            let metrics = Metrics::new().unwrap();
            for n in 0..=MAX_ENDED {
                let facts = facts(&format!("caller{n}"));
                metrics.connections.closed(Direction::Inbound, &facts, CloseReason::PolicyDenied);
            }
            let text = metrics.render(&LiveTable::default());
            assert!(text.matches("istio_tcp_connections_closed_total{").count() <= MAX_ENDED + 1);
        }
    }
}

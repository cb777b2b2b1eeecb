//! What is counted of connections, under Istio's names: at most [`MAX_SERIES`] label sets, then
//! one overflow set.

mod labels;
mod unused;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{Error, IntCounter, IntCounterVec, Registry};

use self::labels::{FLAGS, Labels, OPEN, OVERFLOW, TRAFFIC, overflow, traffic};
use super::{
    register::{counters, registered},
    series::Series,
};
use crate::{
    net::{CloseReason, Direction},
    observe::conn::ConnMetadata,
};

/// How many distinct label sets the traffic metrics keep; later ones share one set whose
/// labels say `overflow`.
pub const MAX_SERIES: usize = 10_000;

/// How many distinct label sets the counters of ended connections keep, which tell reasons apart.
pub(super) const MAX_ENDED: usize = 2 * MAX_SERIES;

/// How long series of somebody who has gone are kept.
pub const KEPT: Duration = Duration::from_secs(3600);

/// Connections and their bytes, by who called whom.
#[derive(Debug)]
pub struct ConnectionMetrics {
    opened: IntCounterVec,
    closed: IntCounterVec,
    failed: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    overflowed: IntCounter,
    known: Mutex<HashMap<Labels, Arc<Series>>>,
    /// Label sets of ended connections, and when they were last counted in.
    ended: Mutex<HashMap<Labels, Instant>>,
}

impl ConnectionMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        let open = &TRAFFIC[..OPEN];
        let all = |name: &str, help: &str| counters(registry, name, help, &TRAFFIC);
        let of_open = |name: &str, help: &str| counters(registry, name, help, open);
        let overflowed = IntCounter::new(
            "adit_metric_overflow_total",
            "Connections counted under the overflow labels, because the limit of series was \
             reached",
        )?;
        Ok(Self {
            opened: of_open("istio_tcp_connections_opened_total", "Connections opened")?,
            closed: all("istio_tcp_connections_closed_total", "Connections closed")?,
            failed: all(
                "istio_tcp_connections_failed_total",
                "Connections that ended with a failure (unstable)",
            )?,
            received: of_open("istio_tcp_received_bytes_total", "Bytes from client to server")?,
            sent: of_open("istio_tcp_sent_bytes_total", "Bytes from server to client")?,
            overflowed: registered(registry, overflowed)?,
            known: Mutex::default(),
            ended: Mutex::default(),
        })
    }

    /// The counters for a connection's label set.
    #[must_use]
    pub fn series(&self, direction: Direction, facts: &ConnMetadata) -> Arc<Series> {
        let labels = self.bounded(direction, traffic(direction, facts));
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

    /// Counts the end of a connection, and whether it was a failure.
    pub(in crate::observe) fn closed(
        &self,
        direction: Direction,
        facts: &ConnMetadata,
        reason: CloseReason,
    ) {
        let mut labels = traffic(direction, facts);
        labels[FLAGS] = reason.response_flags().into();
        labels[OPEN] = reason.as_str().into();
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() >= MAX_ENDED && !ended.contains_key(&labels) {
            let ends = [labels[FLAGS].clone(), labels[OPEN].clone()];
            labels = overflow(direction);
            let [flags, reason] = ends;
            (labels[FLAGS], labels[OPEN]) = (flags, reason);
        }
        ended.insert(labels.clone(), Instant::now());
        let values: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
        self.closed.with_label_values(&values).inc();
        if reason.response_flags() != "-" {
            self.failed.with_label_values(&values).inc();
        }
    }

    fn bounded(&self, direction: Direction, labels: Labels) -> Labels {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_SERIES || known.contains_key(&labels) {
            return labels;
        }
        overflow(direction)
    }
}

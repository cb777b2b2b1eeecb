//! What is counted of the runtimes that carry bytes, under the names of Tokio's own metrics.

use prometheus::{
    CounterVec, Error, IntCounterVec, IntGauge, Opts, Registry,
    core::{Atomic, GenericCounter},
};
use tokio::runtime::RuntimeMetrics as Of;

use super::register::{counters, gauge, registered};

/// The runtimes of the data workers; each has one thread.
#[derive(Debug)]
pub struct RuntimeMetrics {
    workers: IntGauge,
    alive_tasks: IntGauge,
    queued: IntGauge,
    busy: CounterVec,
    parks: IntCounterVec,
    parks_and_unparks: IntCounterVec,
}

impl RuntimeMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        let (busy, worker) = ("tokio_worker_total_busy_duration_seconds_total", &["worker"]);
        let busy = Opts::new(busy, "How long a data worker has been busy");
        Ok(Self {
            workers: gauge(registry, "tokio_num_workers", "Data workers")?,
            alive_tasks: gauge(
                registry,
                "tokio_num_alive_tasks",
                "Tasks alive on the data workers",
            )?,
            queued: gauge(
                registry,
                "tokio_global_queue_depth",
                "Tasks that wait in the queues of the data workers",
            )?,
            busy: registered(registry, CounterVec::new(busy, worker)?)?,
            parks: counters(
                registry,
                "tokio_worker_park_count_total",
                "How often a data worker ran out of work and parked",
                worker,
            )?,
            parks_and_unparks: counters(
                registry,
                "tokio_worker_park_unpark_count_total",
                "How often a data worker parked or unparked",
                worker,
            )?,
        })
    }

    /// Brings all up to date; `workers` is each data worker's runtime, in their order.
    pub fn refresh(&self, workers: impl Iterator<Item = Of>) {
        let (mut count, mut alive, mut queued) = (0, 0, 0);
        for (n, of) in workers.enumerate() {
            (count, alive) = (count + 1, alive + of.num_alive_tasks());
            queued += of.global_queue_depth();
            let worker = n.to_string();
            let busy = of.worker_total_busy_duration(0).as_secs_f64();
            raise(&self.busy.with_label_values(&[&worker]), busy);
            raise(&self.parks.with_label_values(&[&worker]), of.worker_park_count(0));
            let both = of.worker_park_unpark_count(0);
            raise(&self.parks_and_unparks.with_label_values(&[&worker]), both);
        }
        for (gauge, value) in
            [(&self.workers, count), (&self.alive_tasks, alive), (&self.queued, queued)]
        {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

/// Brings a counter to where what it mirrors stands.
fn raise<P: Atomic>(counter: &GenericCounter<P>, to: P::T)
where
    P::T: PartialOrd + std::ops::Sub<Output = P::T>,
{
    let now = counter.get();
    if to > now {
        counter.inc_by(to - now);
    }
}

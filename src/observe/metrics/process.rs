//! What is counted of the process: its build, its share of the machine, its runtime.

use prometheus::{CounterVec, Error, IntGauge, IntGaugeVec, Opts, Registry};

use super::register::{gauge, gauges, registered};

/// The process.
#[derive(Debug)]
pub struct ProcessMetrics {
    /// Log lines lost because they were not read fast enough.
    pub log_lines_dropped: IntGauge,
    /// Tasks alive on the data workers.
    pub alive_tasks: IntGauge,
    cpu: CounterVec,
    usage: IntGaugeVec,
}

impl ProcessMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        let cpu = Opts::new("process_cpu_seconds_total", "User and system CPU time in seconds");
        let build = gauges(
            registry,
            "istio_build",
            "Always 1; which build this is",
            &["component", "tag"],
        )?;
        build.with_label_values(&["adit", env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            log_lines_dropped: gauge(
                registry,
                "adit_log_lines_dropped",
                "Log lines lost because they were not read fast enough",
            )?,
            alive_tasks: gauge(
                registry,
                "tokio_num_alive_tasks",
                "Tasks alive on the data workers",
            )?,
            cpu: registered(registry, CounterVec::new(cpu, &[])?)?,
            usage: gauges(
                registry,
                "adit_process",
                "Of this process: resident bytes, threads, descriptors",
                &["what"],
            )?,
        })
    }

    /// Brings CPU time, memory, threads and descriptors up to date.
    pub(super) fn refresh(&self) {
        let usage = crate::sys::process::usage();
        let cpu = self.cpu.with_label_values(&[] as &[&str]);
        cpu.inc_by((usage.cpu_seconds - cpu.get()).max(0.0));
        for (what, value) in [
            ("resident_bytes", usage.resident_bytes),
            ("threads", usage.threads),
            ("open_fds", usage.open_fds),
            ("max_fds", usage.max_fds),
        ] {
            self.usage.with_label_values(&[what]).set(value);
        }
    }
}

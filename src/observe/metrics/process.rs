//! What is counted of the process: its build, its share of the machine, its runtime.

use prometheus::{CounterVec, Error, IntGauge, IntGaugeVec, Opts, Registry};

use super::register::{gauge, gauges, registered};

/// The process.
#[derive(Debug)]
pub struct ProcessMetrics {
    /// Log lines lost because they were not read fast enough.
    pub log_lines_dropped: IntGauge,
    build: IntGaugeVec,
    cpu: CounterVec,
    usage: IntGaugeVec,
    open_fds: IntGauge,
    max_fds: IntGauge,
}

impl ProcessMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        let cpu = Opts::new("process_cpu_seconds_total", "User and system CPU time in seconds");
        let build = gauges(
            registry,
            "istio_build",
            "Always 1; the labels say which build this is",
            &["component", "tag"],
        )?;
        build.with_label_values(&["adit", env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            build,
            log_lines_dropped: gauge(
                registry,
                "adit_log_lines_dropped",
                "Log lines lost because they were not read fast enough",
            )?,
            cpu: registered(registry, CounterVec::new(cpu, &[])?)?,
            usage: gauges(
                registry,
                "adit_process",
                "Of this process: resident bytes, threads, file descriptors",
                &["what"],
            )?,
            open_fds: gauge(registry, "process_open_fds", "Open file descriptors")?,
            max_fds: gauge(registry, "process_max_fds", "The limit of open file descriptors")?,
        })
    }

    /// Says which build this is as another component than `adit`, with a tag of its own.
    pub fn set_build(&self, component: &str, tag: &str) {
        self.build.reset();
        self.build.with_label_values(&[component, tag]).set(1);
    }

    /// Brings CPU time, memory, threads and descriptors up to date.
    pub(super) fn refresh(&self) {
        let usage = crate::sys::process::usage();
        let cpu = self.cpu.with_label_values(&[] as &[&str]);
        cpu.inc_by((usage.cpu_seconds - cpu.get()).max(0.0));
        self.open_fds.set(usage.open_fds);
        self.max_fds.set(usage.max_fds);
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

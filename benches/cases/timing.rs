//! What work costs: by the clock, and in CPU time, which others on the machine disturb less.

use std::time::{Duration, Instant};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// Seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Of all threads of the process together.
    pub(crate) cpu: f64,
    /// Passed meanwhile.
    #[allow(dead_code, reason = "not every bench asks")]
    pub(crate) wall: f64,
}

pub(crate) fn measured(work: impl FnOnce()) -> Cost {
    let (begin, before) = (Instant::now(), cpu(ClockId::CLOCK_PROCESS_CPUTIME_ID));
    work();
    let spent = cpu(ClockId::CLOCK_PROCESS_CPUTIME_ID) - before;
    Cost { cpu: spent.as_secs_f64(), wall: begin.elapsed().as_secs_f64() }
}

/// CPU time so far of the process or of the calling thread.
pub(crate) fn cpu(clock: ClockId) -> Duration {
    clock_gettime(clock).expect("a clock").into()
}

/// This thread and those that it starts, from now on.
#[allow(dead_code, reason = "not every bench asks")]
pub(crate) fn stay_on_one_core() {
    let own = Pid::from_raw(0);
    let may = sched_getaffinity(own).expect("a set");
    let last = (0..CpuSet::count()).rev().find(|n| may.is_set(*n).unwrap_or(false));
    let mut only = CpuSet::new();
    only.set(last.expect("a core")).expect("a core that exists");
    sched_setaffinity(own, &only).expect("pinned");
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

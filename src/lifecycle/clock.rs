//! Notices that the wall clock was set, or that the machine slept: whoever counts on certificates
//! looks at them again then. Timers run on the monotonic clock, which knows of neither.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

use super::Tasks;

/// How often [`watch_clock`] looks.
const LOOK: Duration = Duration::from_secs(1);
/// Slewing a clock moves it by less between two looks; so does a process that is not scheduled
/// between reading the one clock and the other.
const LEAST: Duration = Duration::from_secs(1);

/// How far the clock was set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClockStep {
    /// It went forward by so much more than time did; the machine may have slept.
    Forward(Duration),
    /// It went back.
    Back(Duration),
}

impl fmt::Display for ClockStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Forward(by) | Self::Back(by)) = self;
        let by = humantime::format_duration(Duration::from_secs(by.as_secs()));
        match self {
            Self::Forward(_) => write!(f, "forward by {by}"),
            Self::Back(_) => write!(f, "back by {by}"),
        }
    }
}

/// The wall clock beside the monotonic one, as of the last look.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    wall: SystemTime,
    steady: Instant,
}

impl Clocks {
    /// As they stand.
    #[must_use]
    pub fn new(wall: SystemTime, steady: Instant) -> Self {
        Self { wall, steady }
    }

    /// Whether the wall clock was set since the last look.
    pub fn look(&mut self, wall: SystemTime, steady: Instant) -> Option<ClockStep> {
        let before = std::mem::replace(self, Self { wall, steady });
        let passed = steady.saturating_duration_since(before.steady);
        let step = match wall.duration_since(before.wall) {
            Ok(forward) if forward >= passed => ClockStep::Forward(forward - passed),
            Ok(forward) => ClockStep::Back(passed - forward),
            Err(back) => ClockStep::Back(back.duration() + passed),
        };
        let (ClockStep::Forward(by) | ClockStep::Back(by)) = step;
        (by >= LEAST).then_some(step)
    }
}

/// Tells within a second of each time that the clock was set, for as long as `tasks` run. Needs a
/// running runtime.
#[must_use]
pub fn watch_clock(tasks: &Tasks) -> watch::Receiver<()> {
    let (say, told) = watch::channel(());
    let mut clocks = Clocks::new(SystemTime::now(), Instant::now());
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(step) = clocks.look(SystemTime::now(), Instant::now()) {
                tracing::warn!(%step, "the clock was set, or the machine was suspended");
                say.send_replace(());
            }
        }
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_from_time_that_passes() {
        let (wall, steady) = (SystemTime::now(), Instant::now());
        let s = Duration::from_secs;
        let hour = s(3600);
        for (wall_after, passed, step) in [
            (wall + s(1), s(1), None),
            (wall + s(40), s(40), None), // a process that was stopped
            (wall + Duration::from_millis(1500), s(1), None), // slewed
            (wall + s(1) + hour, s(1), Some(ClockStep::Forward(hour))),
            (wall + s(1) - hour, s(1), Some(ClockStep::Back(hour))),
            (wall, s(1), Some(ClockStep::Back(s(1)))),
            (wall + hour, s(0), Some(ClockStep::Forward(hour))),
        ] {
            let mut clocks = Clocks::new(wall, steady);
            assert_eq!(clocks.look(wall_after, steady + passed), step, "{passed:?}");
            // Once: the next look counts from the new time.
            let (wall_after, passed) = (wall_after + s(1), passed + s(1));
            assert_eq!(clocks.look(wall_after, steady + passed), None);
        }
    }
}

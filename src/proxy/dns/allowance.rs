//! How often a pod may ask: so many in a second, and as many at once after a while of silence.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// What is left of it.
#[derive(Debug)]
pub(super) struct Allowance {
    per_second: f64,
    left: Mutex<(f64, Instant)>,
}

impl Allowance {
    /// Of `per_second`, all of which are there.
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, left: Mutex::new((per_second, Instant::now())) }
    }

    /// Takes one; no if none is left.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (there, at) = *left;
        let come = now.saturating_duration_since(at).as_secs_f64() * self.per_second;
        let there = (there + come).min(self.per_second);
        let enough = there >= 1.0;
        *left = (if enough { there - 1.0 } else { there }, at.max(now));
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_used_up_comes_back_with_time_and_no_more_than_that() {
        let allowance = Allowance::new(10);
        let start = Instant::now() + Duration::from_secs(1);
        let taken = |at: Duration| (0..100).filter(|_| allowance.take(start + at)).count();
        assert_eq!(taken(Duration::ZERO), 10);
        assert_eq!(taken(Duration::from_millis(50)), 0);
        assert_eq!(taken(Duration::from_millis(500)), 5);
        assert_eq!(taken(Duration::from_secs(3600)), 10);
        assert_eq!(taken(Duration::from_secs(3599)), 0, "a clock does not go back");
    }
}

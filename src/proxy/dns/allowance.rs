//! How much a pod may ask: so much in a second, and as much at once after a while of silence.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
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

    /// Takes one.
    ///
    /// # Errors
    /// None is left; when there will be one.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut left = self.left(now);
        if left.0 < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - left.0) / self.per_second));
        }
        left.0 -= 1.0;
        Ok(())
    }

    /// What was taken has cost more than one: what comes from here on goes to that first.
    pub(super) fn charge(&self, more: f64) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).0 -= more;
    }

    /// What there is by now.
    fn left(&self, now: Instant) -> std::sync::MutexGuard<'_, (f64, Instant)> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let come = now.saturating_duration_since(left.1).as_secs_f64() * self.per_second;
        *left = ((left.0 + come).min(self.per_second), left.1.max(now));
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_comes_back_with_time_and_no_more_than_that() {
        let allowance = Allowance::new(10);
        let start = Instant::now() + Duration::from_secs(1);
        let taken = |at: Duration| (0..100).filter(|_| allowance.take(start + at).is_ok()).count();
        assert_eq!(taken(Duration::ZERO), 10);
        assert_eq!(taken(Duration::from_millis(50)), 0);
        assert_eq!(taken(Duration::from_millis(500)), 5);
        assert_eq!(taken(Duration::from_secs(3600)), 10);
        assert_eq!(taken(Duration::from_secs(3599)), 0, "a clock does not go back");
        let after = |seconds| allowance.take(start + Duration::from_secs(seconds));
        assert_eq!(after(3600), Err(Duration::from_millis(100)));
        allowance.charge(30.0);
        assert_eq!(after(3602), Err(Duration::from_millis(1100)), "a debt is paid first");
        assert_eq!(after(3604), Ok(()));
    }
}

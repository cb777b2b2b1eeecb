//! When to renew an SVID. Pure: no clock, no socket, no task; time and chance come in.
//!
//! Half of what is left of its lifetime, a little earlier by chance so that a node's SVIDs
//! do not come due together, but not within a second; after a failure 1 s, doubled up to
//! 150 s, ±20 %, but never later than the expiry of what is still held.

use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// 1 s, doubled up to 150 s, for ever; the ±20 % are added from outside.
fn waits() -> ExponentialBackoff {
    let plan = ExponentialBuilder::default().with_min_delay(FIRST).with_max_delay(LONGEST);
    plan.with_factor(2.0).without_max_times().build()
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(150);

/// The plan of one identity.
#[derive(Debug)]
pub struct Rotation {
    due: SystemTime,
    waits: ExponentialBackoff,
    not_after: Option<SystemTime>,
    failures: u32,
}

impl Rotation {
    /// Nothing held yet: ask at once.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        Self { due: now, waits: waits(), not_after: None, failures: 0 }
    }

    /// An SVID arrived. `chance` is in `0.0..1.0`. Counted from `now`, not from its
    /// notBefore, which issuers set back to allow for clock skew.
    pub fn on_issued(&mut self, now: SystemTime, not_after: SystemTime, chance: f64) {
        let left = not_after.duration_since(now).unwrap_or_default();
        (self.failures, self.waits) = (0, waits());
        self.not_after = Some(not_after);
        let wait = left.mul_f64(0.5 - 0.05 * chance.clamp(0.0, 1.0));
        self.due = now + wait.max(FIRST);
    }

    /// The source did not answer, or badly.
    pub fn on_failure(&mut self, now: SystemTime, chance: f64) {
        let doubled = self.waits.next().unwrap_or(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let backoff = doubled.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0));
        self.due = now + backoff;
        if let Some(not_after) = self.not_after.filter(|end| *end > now) {
            self.due = self.due.min(not_after);
        }
    }

    /// Ask again now, whatever the plan said.
    pub fn hurry(&mut self, now: SystemTime) {
        self.due = now;
    }

    /// When to ask next.
    #[must_use]
    pub fn due(&self) -> SystemTime {
        self.due
    }

    /// How often in a row it failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn renewed_at_half_life_or_a_little_before() {
        let mut plan = Rotation::new(at(1000));
        assert_eq!(plan.due(), at(1000));
        plan.on_issued(at(1000), at(4600), 0.0);
        assert_eq!(plan.due(), at(1000 + 1800));
        plan.on_issued(at(1000), at(4600), 1.0);
        assert_eq!(plan.due(), at(1000 + 1620));
        plan.on_issued(at(5000), at(4600), 0.5);
        assert_eq!(plan.due(), at(5001), "issued expired: asks again, but does not spin");
    }

    #[test]
    fn failures_back_off_to_a_limit_and_never_past_the_expiry() {
        let mut plan = Rotation::new(at(0));
        let mut waits = Vec::new();
        for _ in 0..10 {
            plan.on_failure(at(1000), 0.5);
            waits.push(plan.due().duration_since(at(1000)).unwrap().as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 150, 150]);
        plan.on_issued(at(1000), at(2000), 0.0);
        plan.on_failure(at(1500), 0.5);
        assert_eq!((plan.due(), plan.failures()), (at(1501), 1));
        (0..9).for_each(|_| plan.on_failure(at(1950), 0.5));
        assert_eq!(plan.due(), at(2000), "asks again when what is held runs out");
        plan.on_failure(at(2001), 0.5);
        assert_eq!(plan.due(), at(2001) + Duration::from_secs(150), "expired: plain back-off");
    }
}

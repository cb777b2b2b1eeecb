//! When to renew an SVID. Pure: no clock, no socket, no task; time and chance come in.
//!
//! Half of what is left of its lifetime, a little earlier by chance so that a node's SVIDs
//! do not come due together, but not within a second; after a failure 1 s, doubled up to
//! 150 s, ±20 %, but never later than the expiry of what is still held, and every 2 s while
//! connections are refused for want of an SVID. A clock that is set asks
//! for what is not valid by it at once, and makes no wait longer than it was.

use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// 1 s, doubled up to 150 s, for ever; the ±20 % are added from outside.
fn waits() -> ExponentialBackoff {
    let plan = ExponentialBuilder::default().with_min_delay(FIRST).with_max_delay(LONGEST);
    plan.with_factor(2.0).without_max_times().build()
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(150);
/// How often a source that fails is asked while connections are refused for it.
const ON_DEMAND: Duration = Duration::from_secs(2);

/// From when until when an SVID counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// Its notBefore.
    pub from: SystemTime,
    /// Its notAfter.
    pub until: SystemTime,
}

impl Validity {
    /// Whether it counts at this moment.
    #[must_use]
    pub fn covers(self, now: SystemTime) -> bool {
        self.from <= now && now < self.until
    }
}

/// The plan of one identity.
#[derive(Debug)]
pub struct Rotation {
    due: SystemTime,
    /// From when the plan was made until `due`.
    wait: Duration,
    waits: ExponentialBackoff,
    held: Option<Validity>,
    /// When it last failed.
    failed: Option<SystemTime>,
    failures: u32,
}

impl Rotation {
    /// Nothing held yet: ask at once.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        Self {
            due: now,
            wait: Duration::ZERO,
            waits: waits(),
            held: None,
            failed: None,
            failures: 0,
        }
    }

    /// An SVID arrived. `chance` is in `0.0..1.0`. Counted from `now`, not from its
    /// notBefore, which issuers set back to allow for clock skew.
    pub fn on_issued(&mut self, now: SystemTime, svid: Validity, chance: f64) {
        let left = svid.until.duration_since(now).unwrap_or_default();
        (self.failures, self.waits) = (0, waits());
        (self.held, self.failed) = (Some(svid), None);
        let wait = left.mul_f64(0.5 - 0.05 * chance.clamp(0.0, 1.0));
        self.ask_in(wait.max(FIRST), now);
    }

    /// The source did not answer, or badly.
    pub fn on_failure(&mut self, now: SystemTime, chance: f64) {
        self.failed = Some(now);
        let doubled = self.waits.next().unwrap_or(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let backoff = doubled.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0));
        let end = self.held.and_then(|svid| svid.until.duration_since(now).ok());
        self.ask_in(backoff.min(end.filter(|end| !end.is_zero()).unwrap_or(backoff)), now);
    }

    /// A connection was refused because of the last failure, or another identity has got its SVID:
    /// once the source is back, nobody should be without for as long as a back-off lasts.
    pub fn on_demand(&mut self, now: SystemTime) {
        let Some(failed) = self.failed else { return };
        let since = now.duration_since(failed).unwrap_or_default();
        let wait = ON_DEMAND.saturating_sub(since);
        if now + wait < self.due {
            self.ask_in(wait, now);
        }
    }

    /// The clock was set, and says `now`: what time it was when the plan was made is not known
    /// any more.
    pub fn on_clock_set(&mut self, now: SystemTime) {
        if self.held.is_some_and(|svid| !svid.covers(now)) {
            self.renew_now(now);
        } else {
            self.due = self.due.min(now + self.wait);
        }
    }

    /// Ask again now, whatever the plan said.
    pub fn renew_now(&mut self, now: SystemTime) {
        self.ask_in(Duration::ZERO, now);
    }

    fn ask_in(&mut self, wait: Duration, now: SystemTime) {
        (self.wait, self.due) = (wait, now + wait);
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

    fn svid(from: u64, until: u64) -> Validity {
        Validity { from: at(from), until: at(until) }
    }

    #[test]
    fn renewed_at_half_life_or_a_little_before() {
        let mut plan = Rotation::new(at(1000));
        assert_eq!(plan.due(), at(1000));
        plan.on_issued(at(1000), svid(990, 4600), 0.0);
        assert_eq!(plan.due(), at(1000 + 1800));
        plan.on_issued(at(1000), svid(990, 4600), 1.0);
        assert_eq!(plan.due(), at(1000 + 1620));
        plan.on_issued(at(5000), svid(990, 4600), 0.5);
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
        plan.on_issued(at(1000), svid(990, 2000), 0.0);
        plan.on_failure(at(1500), 0.5);
        assert_eq!((plan.due(), plan.failures()), (at(1501), 1));
        (0..9).for_each(|_| plan.on_failure(at(1950), 0.5));
        assert_eq!(plan.due(), at(2000), "asks again when what is held runs out");
        plan.on_failure(at(2001), 0.5);
        assert_eq!(plan.due(), at(2001) + Duration::from_secs(150), "expired: plain back-off");
    }

    #[test]
    fn a_clock_that_is_set_neither_loses_an_svid_nor_makes_anybody_wait_for_it() {
        const HOUR: u64 = 3600;
        let issued = || {
            let mut plan = Rotation::new(at(9 * HOUR));
            plan.on_issued(at(9 * HOUR), svid(9 * HOUR - 10, 10 * HOUR), 0.0);
            plan
        };
        for (now, due) in [
            (10 * HOUR, 10 * HOUR),             // has run out
            (11 * HOUR, 11 * HOUR),             // long ago
            (8 * HOUR, 8 * HOUR),               // not valid yet: peers would refuse it
            (9 * HOUR - 5, 10 * HOUR - 1805),   // within what the issuer allows for: as before
            (9 * HOUR + 60, 9 * HOUR + 1800),   // a minute forward: as planned
            (9 * HOUR + 2400, 9 * HOUR + 1800), // overdue
        ] {
            let mut plan = issued();
            plan.on_clock_set(at(now));
            assert_eq!(plan.due(), at(due), "{now}");
        }
        // Nor does the source get an hour's rest after a failure.
        let mut plan = issued();
        plan.on_failure(at(9 * HOUR + 1800), 0.5);
        plan.on_clock_set(at(9 * HOUR + 5));
        assert_eq!(plan.due(), at(9 * HOUR + 6));
        let mut plan = Rotation::new(at(9 * HOUR));
        plan.on_failure(at(9 * HOUR), 0.5);
        plan.on_clock_set(at(8 * HOUR));
        assert_eq!(plan.due(), at(8 * HOUR + 1), "nothing held yet");
    }

    #[test]
    fn whoever_is_refused_has_the_source_asked_sooner_but_not_for_each_connection() {
        let mut plan = Rotation::new(at(1000));
        plan.on_demand(at(1000));
        assert_eq!(plan.due(), at(1000), "not asked yet");
        (0..9).for_each(|_| plan.on_failure(at(1000), 0.5));
        assert_eq!(plan.due(), at(1150));
        plan.on_demand(at(1001));
        assert_eq!(plan.due(), at(1002));
        plan.on_demand(at(1001));
        assert_eq!(plan.due(), at(1002));
        plan.on_failure(at(1002), 0.5);
        plan.on_demand(at(1090));
        assert_eq!(plan.due(), at(1090));
        plan.on_issued(at(1090), svid(1080, 1190), 0.0);
        plan.on_demand(at(1091));
        assert_eq!(plan.due(), at(1140), "nobody was refused since");
    }
}

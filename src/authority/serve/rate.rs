//! How often one caller may ask: a token bucket each, as many as fit. Pure; `now` comes in.

use std::{collections::HashMap, time::Instant};

/// A node with a thousand pods asks this often at once.
const BURST: f64 = 2000.0;
const PER_SECOND: f64 = 100.0;
/// How many callers are remembered.
const MOST: usize = 10_000;

struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn now(&self, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        (self.left + gained).min(BURST)
    }
}

/// The buckets of all callers.
#[derive(Default)]
pub(super) struct Buckets(HashMap<String, Bucket>);

impl Buckets {
    /// Takes one from the caller's bucket; `false` if it is empty.
    pub(super) fn take(&mut self, caller: &str, now: Instant) -> bool {
        self.take_many(caller, 1.0, now)
    }

    /// Takes what costs as much as `cost` others; `false` if the bucket does not hold that.
    pub(super) fn take_many(&mut self, caller: &str, cost: f64, now: Instant) -> bool {
        if !self.0.contains_key(caller) && self.0.len() >= MOST {
            // Full ones say no more than absent ones.
            self.0.retain(|_, bucket| bucket.now(now) < BURST);
            if self.0.len() >= MOST {
                return false;
            }
        }
        let bucket = self.0.entry(caller.to_owned()).or_insert(Bucket { left: BURST, at: now });
        let left = bucket.now(now);
        (bucket.left, bucket.at) = (left, now);
        if left < cost {
            return false;
        }
        bucket.left -= cost;
        true
    }

    /// Whether the caller's bucket is empty.
    pub(super) fn is_empty(&self, caller: &str, now: Instant) -> bool {
        self.0.get(caller).is_some_and(|bucket| bucket.now(now) < 1.0)
    }
}

/// How long until `n` more may come.
#[cfg(test)]
fn refill(n: f64) -> std::time::Duration {
    std::time::Duration::from_secs_f64(n / PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate_each_on_its_own() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        let burst = (0..3000).filter(|_| buckets.take("a", start)).count();
        assert_eq!(burst, BURST as usize);
        assert!(buckets.is_empty("a", start) && !buckets.is_empty("b", start));
        assert!(buckets.take("b", start));
        let later = start + refill(5.5);
        assert_eq!((0..10).filter(|_| buckets.take("a", later)).count(), 5);
    }

    #[test]
    fn what_costs_more_takes_more() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        let at_once = (0..100).filter(|_| buckets.take_many("a", 50.0, start)).count();
        assert_eq!(at_once, 40);
        let later = start + refill(120.0);
        assert_eq!((0..10).filter(|_| buckets.take_many("a", 50.0, later)).count(), 2);
    }

    #[test]
    fn callers_that_are_remembered_are_bounded() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        (0..MOST).for_each(|n| assert!(buckets.take(&n.to_string(), start)));
        assert!(!buckets.take("new", start), "all are in use");
        assert!(buckets.take("new", start + refill(1.0)), "others are full again");
        assert_eq!(buckets.0.len(), 1);
    }
}

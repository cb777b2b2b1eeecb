//! When to ask for a bundle again, and whether to take the answer. Pure: no clock, no socket;
//! chance comes in.

use std::time::Duration;

use crate::identity::TrustBundle;

/// How often a bundle without a hint is asked for (SPIFFE Trust Domain and Bundle §4.1.2).
const USUAL: Duration = Duration::from_secs(300);
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(86_400);

/// The pace of one trust domain. A failure changes nothing about it (SPIFFE Federation §5.3:
/// the next interval), except that whoever has never answered is asked after 10 s, then after
/// twice as long each time up to the usual.
#[derive(Debug, Default)]
pub(super) struct Pace {
    answered: Option<Option<Duration>>,
    failures: u32,
}

impl Pace {
    /// A bundle with this refresh hint is held.
    pub(super) fn answered(&mut self, hint: Option<Duration>) {
        self.answered = Some(hint);
    }

    /// The endpoint gave nothing that can be used.
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// How long to wait now; ±5 % by `chance`, which is in `0.0..1.0`, so that many nodes do not
    /// ask together.
    pub(super) fn wait(&self, chance: f64) -> Duration {
        let wait = match self.answered {
            Some(hint) => hint.unwrap_or(USUAL),
            None => {
                SHORTEST.saturating_mul(1 << self.failures.saturating_sub(1).min(16)).min(USUAL)
            }
        };
        let wait = wait.clamp(SHORTEST, LONGEST);
        wait.mul_f64(0.95 + 0.1 * chance.clamp(0.0, 1.0)).clamp(SHORTEST, LONGEST)
    }
}

/// What a bundle that arrived changes.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum BundleChange {
    /// It is what is held.
    Same,
    /// It replaces what is held.
    Newer,
    /// Its sequence is lower than what is held: ignored.
    Backwards {
        /// The sequence that is held.
        held: u64,
        /// The sequence that arrived.
        arrived: u64,
    },
}

/// Sequences are compared where both bundles have one (SPIFFE Trust Domain and Bundle §4.1.1).
pub(super) fn judge(held: Option<&TrustBundle>, arrived: &TrustBundle) -> BundleChange {
    let Some(held) = held else { return BundleChange::Newer };
    match (held.sequence, arrived.sequence) {
        (Some(held), Some(arrived)) if arrived < held => BundleChange::Backwards { held, arrived },
        _ if held == arrived => BundleChange::Same,
        _ => BundleChange::Newer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_by_the_hint_within_bounds_and_failures_wait_for_the_next_interval() {
        for (hint, seconds) in
            [(None, 300), (Some(60), 60), (Some(0), 10), (Some(1), 10), (Some(u64::MAX), 86_400)]
        {
            let mut pace = Pace::default();
            pace.answered(hint.map(Duration::from_secs));
            assert_eq!(pace.wait(0.5), Duration::from_secs(seconds), "{hint:?}");
            (0..50).for_each(|_| pace.failed());
            assert_eq!(pace.wait(0.5), Duration::from_secs(seconds), "{hint:?} after failures");
            for chance in [0.0, 1.0] {
                let wait = pace.wait(chance).as_secs_f64();
                assert!((10.0..=86_400.0).contains(&wait), "{wait}");
            }
        }
    }

    #[test]
    fn who_never_answered_is_asked_sooner() {
        let mut pace = Pace::default();
        let mut waits = Vec::new();
        for _ in 0..40 {
            pace.failed();
            waits.push(pace.wait(0.5).as_secs());
        }
        assert_eq!(waits[..8], [10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(waits[39], 300);
    }

    #[test]
    fn a_sequence_never_goes_back() {
        let bundle = |sequence, root: u8| {
            let mut bundle = TrustBundle::new("td".parse().unwrap(), vec![vec![root].into()]);
            bundle.sequence = sequence;
            bundle
        };
        for (held, arrived, verdict) in [
            (None, bundle(Some(1), 1), BundleChange::Newer),
            (Some(bundle(Some(2), 1)), bundle(Some(2), 1), BundleChange::Same),
            (Some(bundle(Some(2), 1)), bundle(Some(3), 1), BundleChange::Newer),
            (Some(bundle(Some(2), 1)), bundle(Some(2), 2), BundleChange::Newer),
            (Some(bundle(None, 1)), bundle(Some(1), 2), BundleChange::Newer),
            (Some(bundle(Some(2), 1)), bundle(None, 2), BundleChange::Newer),
            (
                Some(bundle(Some(2), 1)),
                bundle(Some(1), 2),
                BundleChange::Backwards { held: 2, arrived: 1 },
            ),
        ] {
            assert_eq!(judge(held.as_ref(), &arrived), verdict, "{held:?} {arrived:?}");
        }
    }
}
